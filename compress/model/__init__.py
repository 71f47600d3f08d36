"""A denoiser as a torch module: `Denoiser`, what its net is made of, and what can be taken out of it.

Edits, structure, coupled channels, low rank and features ask the net's family for all that has a name. Samples are
drawn here too, and kept. Imports `families`, `data` and what is below; reads and writes no model folder. Start reading
with `denoiser.py`.
"""
