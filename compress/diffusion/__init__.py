"""Pure maths of diffusion: tensors and numbers in, tensors and numbers out.

Levels of noise, prediction types, solvers as tables of coefficients, targets of distillation; one equation a function.
Imports `runtime.sampling`'s loop and errors alone. Start reading with `levels.py`, then `sampling.py`.
"""
