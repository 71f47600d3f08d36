"""From measured figures and limits to a verdict.

A limit is one that the student must be *shown* to hold: it is held against the far end of the 95% interval, so that
too few samples or a noisy machine lead to "fail" and never to an undeserved "pass" (non-inferiority).

    min, max    what the figure itself may be
    margin      how much worse than the teacher's own figure it may be

What no user would accept is a limit always, whatever a recipe says; a recipe may be stricter. Where no limit on quality
could be held, the verdict is "not judged".
"""

from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import Any

from pydantic import Field, model_validator

from compress.report.parts import Decision, Figure, Kind, Verdict
from compress.settings import Frozen

COSTS = (
    "params",
    "macs",
    "bytes",
    "call_speedup",
    "image_speedup",
    "call_speedup_over_onnxruntime",
    "image_speedup_over_onnxruntime",
)
KINDS: tuple[Kind, ...] = ("min", "max", "margin")
ROUNDING = 1e-9  # of a difference: 20 pictures of 1,000 are 0.020000000000000018

# finite_output, listed_files: shares. kernel_loss: dB. sampling_error: twice what the rounding of doubles leaves, from
# machine to machine, of the hardest schedule, and a sixth of what one timestep makes anywhere in the usual ones.
ALWAYS: Mapping[str, Mapping[Kind, float]] = {
    "finite_output": {"min": 1.0},
    "listed_files": {"min": 1.0},
    "sampling_error": {"max": 1e-5},
    "kernel_loss": {"max": 1.0},
}


class Gate(Frozen):
    """A limit on a metric; at least one of min, max and margin."""

    min: float | None = Field(None, description="least acceptable value")
    max: float | None = Field(None, description="largest acceptable value")
    margin: float | None = Field(None, ge=0, description="how much worse than the teacher's own figure it may be")

    @model_validator(mode="after")
    def _some(self) -> "Gate":
        if self.min is None and self.max is None and self.margin is None:
            raise ValueError("give min, max or margin")
        return self


def with_always(
    limits: Mapping[Any, Mapping[str, float | None]], known: Collection[str]
) -> dict[str, dict[str, float | None]]:
    """A recipe's limits and behind them those that always hold; of two on one figure the stricter.

    known: figures that were measured or left out for a reason; of others there is nothing to hold.
    """
    both = {name: dict(bounds) for name, bounds in limits.items()}
    for name in (name for name in ALWAYS if name in known):
        bounds = both.setdefault(name, {})
        for kind, limit in ALWAYS[name].items():
            own = bounds.get(kind)
            bounds[kind] = limit if own is None else max(own, limit) if kind == "min" else min(own, limit)
    return both


def decide(
    figures: Mapping[str, Sequence[Figure]],
    limits: Mapping[Any, Mapping[str, float | None]],
    left_out: Mapping[str, str],
) -> tuple[Decision, ...]:
    """Hold every limit {"min": …, "max": …}; of a figure that was measured several times, in several spaces, the worst.

    left_out: why a figure means nothing here. Raises KeyError for what was not measured, ValueError
    for a margin on a figure of which the teacher's own is not known.
    """
    decisions = []
    for name, bounds in limits.items():
        for kind, limit in ((kind, bounds.get(kind)) for kind in KINDS):
            if limit is None:
                continue
            found: dict[str, Any] = {"reason": left_out.get(name)}
            if name not in left_out:
                worst = min if kind == "min" else max
                value, bound = worst((_ends(name, kind, figure) for figure in figures[name]), key=itemgetter(1))
                limit_met = limit + (ROUNDING if kind == "margin" else 0.0)
                passed = bound >= limit if kind == "min" else bound <= limit_met
                found = {"value": value, "bound": bound, "passed": passed}
            always = ALWAYS.get(name, {}).get(kind) == limit
            decisions.append(Decision(name=name, kind=kind, limit=limit, always=always, **found))
    return tuple(decisions)


def _ends(name: str, kind: Kind, figure: Figure) -> tuple[float, float]:
    """(value, far end of its interval) of what is held against a limit."""
    if kind != "margin":
        low, high = figure.interval or (figure.value, figure.value)
        return figure.value, low if kind == "min" else high
    if figure.excess is None or figure.excess_interval is None:
        raise ValueError(f"{name}: takes no margin, since nothing is known of the teacher's own; give min or max")
    low, high = figure.excess_interval
    return (figure.excess, high) if figure.better == "less" else (0.0 - figure.excess, 0.0 - low)


def on_quality(name: str) -> bool:
    """Whether a gate of this name says how good a student is, so that one that was held makes a verdict."""
    return name not in COSTS and name not in ALWAYS


def verdict(decisions: Sequence[Decision]) -> Verdict:
    """ "fail" if any limit is broken; else "pass", if one on quality was held, or "not judged"."""
    if any(decision.passed is False for decision in decisions):
        return "fail"
    return "pass" if any(decision.passed and on_quality(decision.name) for decision in decisions) else "not judged"
