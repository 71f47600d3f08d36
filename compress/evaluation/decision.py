"""From measured figures and a recipe's limits to a verdict.

A limit is one that the student must be *shown* to hold: it is held against the far end of the 95% interval, so that
too few samples or a noisy machine lead to "fail" and never to an undeserved "pass" (non-inferiority).

    min, max    what the figure itself may be
    margin      how much worse than the teacher's own figure it may be
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from compress.evaluation.figure import Figure

Kind = Literal["min", "max", "margin"]
KINDS: tuple[Kind, ...] = ("min", "max", "margin")


@dataclass(frozen=True)
class Decision:
    """One limit. value: what was measured, for a margin what the student lacks; bound: its interval's far end.

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

    left_out: why a figure means nothing here. NaN never passes. Raises KeyError for what was not measured, ValueError
    for a margin on a figure of which the teacher's own is not known.
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
            found = [(value, bound, _held(kind, bound, limit)) for value, bound in _values(name, kind, figures[name])]
            value, bound, passed = min(found, key=lambda one: (one[2], -one[1] if kind != "min" else one[1]))
            decisions.append(Decision(name, kind, limit, value, bound, passed))
    return decisions


def _values(name: str, kind: Kind, figures: Sequence[Figure]) -> list[tuple[float, float]]:
    """(value, far end of its interval) of each figure."""
    if kind == "min":
        return [(f.value, f.interval[0] if f.interval else f.value) for f in figures]
    if kind == "max":
        return [(f.value, f.interval[1] if f.interval else f.value) for f in figures]
    found = []
    for f in figures:
        if f.excess is None or f.excess_interval is None:
            raise ValueError(f"{name}: takes no margin, since nothing is known of the teacher's own; give min or max")
        low, high = f.excess_interval
        found.append((f.excess, high) if f.better == "less" else (0.0 - f.excess, 0.0 - low))
    return found


def _held(kind: Kind, bound: float, limit: float) -> bool:
    return bool(bound >= limit if kind == "min" else bound <= limit)


def verdict(decisions: list[Decision]) -> str:
    """ "pass" if no limit is broken, else "fail"."""
    return "fail" if any(decision.passed is False for decision in decisions) else "pass"


def as_json(decisions: list[Decision]) -> list[dict[str, Any]]:
    """For `report.json`."""
    return [{key: value for key, value in vars(decision).items() if value is not None} for decision in decisions]
