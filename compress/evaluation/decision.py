"""From measured figures and a recipe's limits to a verdict.

A limit is a margin that the student must be *shown* to hold: it is held against the far end of the 95% interval, so
that too few samples or a noisy machine lead to "fail" and never to an undeserved "pass" (non-inferiority).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from compress.evaluation.figure import Figure, worst

Kind = Literal["min", "max"]
KINDS: tuple[Kind, Kind] = ("min", "max")


@dataclass(frozen=True)
class Decision:
    """One limit. value: what was measured; bound: its interval's end that was held against the limit.

    passed: None where the figure means nothing for this student; then `reason` says why, and the verdict goes without.
    """

    name: str
    kind: Kind
    limit: float
    value: float | None
    bound: float | None
    passed: bool | None
    reason: str | None = None


def decide(
    figures: Mapping[str, Sequence[Figure]],
    limits: Mapping[Any, Mapping[str, float | None]],
    left_out: Mapping[str, str],
) -> list[Decision]:
    """Hold every limit {"min": …, "max": …}; of a figure that was measured several times, in several spaces, the worst.

    left_out: why a figure means nothing here. NaN never passes. Raises KeyError for what was not measured.
    """
    decisions = []
    for name, bounds in limits.items():
        for kind in KINDS:
            limit = bounds.get(kind)
            if limit is None:
                continue
            if name in left_out:
                decisions.append(Decision(name, kind, limit, None, None, None, left_out[name]))
                continue
            figure = worst(figures[name], kind)
            bound = figure.bound(kind)
            passed = bound >= limit if kind == "min" else bound <= limit
            decisions.append(Decision(name, kind, limit, figure.value, bound, bool(passed)))
    return decisions


def verdict(decisions: list[Decision]) -> str:
    """ "pass" if no limit is broken, else "fail"."""
    return "fail" if any(decision.passed is False for decision in decisions) else "pass"


def as_json(decisions: list[Decision]) -> list[dict[str, Any]]:
    """For `report.json`."""
    return [{key: value for key, value in vars(decision).items() if value is not None} for decision in decisions]
