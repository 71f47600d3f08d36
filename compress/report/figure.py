"""Figures from estimates and their intervals."""

import numpy as np

from compress.report.parts import Better, Figure
from compress.report.statistics import Interval, interval


def beside(student: float, teacher: float, replicates: np.ndarray, better: Better, count: int) -> Figure:
    """A figure from two estimates and their bootstrap replicates [rounds, 2], student's and teacher's paired."""
    own, others = replicates[:, 0], replicates[:, 1]
    low, high = interval(others)
    return Figure(
        value=student,
        better=better,
        interval=interval(own),
        count=count,
        teacher=teacher,
        floor=(high - low) / 2,
        excess=student - teacher,
        excess_interval=interval(own - others),
    )


def against(value: float, better: Better, ends: Interval, count: int, teacher: float, floor: float) -> Figure:
    """A figure whose teacher's own is known without an interval."""
    return Figure(
        value=value,
        better=better,
        interval=ends,
        count=count,
        teacher=teacher,
        floor=floor,
        excess=value - teacher,
        excess_interval=(ends[0] - teacher, ends[1] - teacher),
    )
