"""A measured figure: its 95% interval, and the noise floor under which a difference is not resolved."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from compress.evaluation.statistics import Interval, interval

Better = Literal["more", "less"]


@dataclass(frozen=True)
class Figure:
    """A student's figure beside its teacher's.

    value: the student's; interval: its 95% interval. better: whether more or less of it is. count: items behind it.
    teacher: the same figure of the teacher itself. floor: how far the teacher's strays when only the seed, or only
    the runtime, is another: half the width of its 95% interval. excess: student's minus teacher's, with its interval.
    """

    value: float
    better: Better
    interval: Interval | None = None
    count: int | None = None
    teacher: float | None = None
    floor: float | None = None
    excess: float | None = None
    excess_interval: Interval | None = None

    @property
    def resolved(self) -> bool | None:
        """Whether student and teacher were told apart: the excess is over the floor, and its interval excludes 0.

        None: nothing is known of the teacher's own figure.
        """
        if self.excess is None or self.excess_interval is None or self.floor is None:
            return None
        low, high = self.excess_interval
        return not low <= 0 <= high and abs(self.excess) > self.floor

    def as_json(self) -> dict[str, Any]:
        """For `report.json`. Raises ValueError for figures that are not finite."""
        found = {**vars(self), "resolved": self.resolved}
        numbers = [value for value in found.values() if isinstance(value, float)]
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"a figure is not finite: {found}")
        return found


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
