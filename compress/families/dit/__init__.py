"""diffusers' `DiTTransformer2DModel`: a transformer on patches of latents, conditioned on a class by adaptive norms."""
