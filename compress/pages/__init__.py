"""What a person reads: pages, pictures, the model card, the result folder.

Computes nothing: every figure stands in the `Report`. `findings` says what follows from one, `words` how values are
said. Imports `report` and what is below. Start reading with `page.py`.
"""
