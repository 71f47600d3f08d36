"""Pure maths of diffusion: tensors and numbers in, tensors and numbers out."""
