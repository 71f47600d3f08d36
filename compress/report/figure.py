"""Figures from estimates and their intervals."""

from collections.abc import Sequence

import numpy as np

from compress.report.parts import Better, Figure
from compress.report.statistics import Interval, interval


def against(
    value: float, better: Better, ends: Interval, count: int, teacher: float, floor: float, more: Interval | None = None
) -> Figure:
    """A figure beside the teacher's own. more: how much more it is, an interval; None: the teacher's own has none."""
    return Figure(
        value=value,
        better=better,
        interval=ends,
        count=count,
        teacher=teacher,
        floor=floor,
        excess=value - teacher,
        excess_interval=more or (ends[0] - teacher, ends[1] - teacher),
    )


def beside(estimates: Sequence[float] | np.ndarray, replicates: np.ndarray, better: Better, count: int) -> Figure:
    """A figure from the student's and the teacher's estimates [2] and their paired bootstrap replicates [rounds, 2]."""
    (student, teacher), (own, others) = map(float, estimates), replicates.T
    low, high = interval(others)
    return against(student, better, interval(own), count, teacher, (high - low) / 2, interval(own - others))
