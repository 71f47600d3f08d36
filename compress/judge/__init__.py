"""Judging: how close a student is to its teacher, how sure that is, and the verdict.

Pure distances and decisions (`quality`, `distribution`, `paired`, `decision`) know arrays alone; what draws samples and
fills the report lies beside them. Imports `measure`, `report` and what is below. Start reading with `decision.py`, then
`images.py`.
"""
