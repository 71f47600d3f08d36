"""Model folders: diffusers' own format, plus `structure.json`, `sampling.json` and `quantization.safetensors`.

Reads whatever parts a checkpoint has, from a folder or the hub, and writes them so that they load again exactly; what
stands around the net in a whole pipeline is carried along. Imports `quantization`, `model` and what is below. Start
reading with `checkpoint.py`.
"""
