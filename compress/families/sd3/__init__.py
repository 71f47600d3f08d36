"""diffusers' `SD3Transformer2DModel`: a transformer on patches and text tokens together, for flow matching."""
