"""Rewrites of exported graphs, each proven equal on random input."""
