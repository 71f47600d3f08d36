"""Judging: how close a student is to its teacher, how sure that is, and the verdict.

Distances and decisions (`quality`, `distribution`, `metrics`, `decision`) know arrays alone; what draws samples and
fills the report lies beside them; `candidate` says what is wrong with other tools' files. Imports `measure`, `report`
and what is below. Start reading with `metrics.py`, then `images.py` and `decision.py`.
"""
