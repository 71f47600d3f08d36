"""compress: makes guided diffusion models small and fast enough for the edge."""

__version__ = "0.1.0"
