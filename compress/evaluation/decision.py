"""From measured values and a recipe's limits to a verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["min", "max"]


@dataclass(frozen=True)
class Decision:
    """One limit, held or not."""

    name: str
    kind: Kind
    limit: float
    value: float
    passed: bool


def decide(values: Mapping[str, float], limits: Mapping[Any, Mapping[str, float | None]]) -> list[Decision]:
    """Hold every value against its limits {"min": …, "max": …}; NaN never passes.

    Raises KeyError for a limit on something that was not measured.
    """
    decisions = []
    for name, bounds in limits.items():
        value = values[name]
        kinds: tuple[Kind, ...] = ("min", "max")
        for kind in kinds:
            limit = bounds.get(kind)
            if limit is not None:
                passed = value >= limit if kind == "min" else value <= limit
                decisions.append(Decision(name, kind, limit, value, bool(passed)))
    return decisions


def verdict(decisions: list[Decision]) -> str:
    """ "pass" if every limit is held, else "fail"."""
    return "pass" if all(decision.passed for decision in decisions) else "fail"


def as_json(decisions: list[Decision]) -> list[dict[str, Any]]:
    """For `report.json`."""
    return [vars(decision).copy() for decision in decisions]
