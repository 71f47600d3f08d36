"""What a person reads: pages, pictures, the model card, the result folder.

Computes nothing: every figure stands in the `Report`. `tables` is what one says, `findings` what follows from
it, `words` how values are said. Imports `report` and what is below. Start reading with `page.py`.
"""
