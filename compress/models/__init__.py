"""Models: denoisers, the families they belong to, and the folders they are saved in."""
