"""How good, how fast, how large: measurements and decisions."""
