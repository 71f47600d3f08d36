"""diffusers' `PixArtTransformer2DModel`: a transformer on patches that attends to text, of one shared adaptive norm."""
