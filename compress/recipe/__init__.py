"""Recipes: YAML in, a checked `Recipe` out, and what it reads: teacher, data, and the identity of both.

The whole chain is checked before any weight is loaded, all faults at once, with their lines. Imports passes for their
settings, and what is below. Start reading with `recipe.py`.
"""
