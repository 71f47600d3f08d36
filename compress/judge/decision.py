"""From measured figures and limits to a verdict.

A limit is one that the student must be *shown* to hold: it is held against the far end of the 95% interval, so that
too few samples or a noisy machine lead to "fail" and never to an undeserved "pass" (non-inferiority).

    min, max    what the figure itself may be
    margin      how much worse than the teacher's own figure it may be

What no user would accept is a limit always, whatever a recipe says; a recipe may be stricter. Where no limit on quality
could be held, the verdict is "not judged".
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args

from compress.report.parts import Decision, Figure, Kind, Space, Verdict

Paired = Literal["psnr", "ssim", "class_agreement"]
Evaluated = Literal["output_error", "worst_timestep_error", "guidance_ratio"]
Distributional = Literal[
    "frechet",
    "kid",
    "two_sample",
    "density",
    "coverage",
    "vendi",
    "class_variance",
    "frechet_real",
    "frechet_ratio",
    "memorised",
]
Quality = Literal[Paired, "class_accuracy", Evaluated, Distributional]
Cost = Literal[
    "params",
    "macs",
    "bytes",
    "call_speedup",
    "image_speedup",
    "call_speedup_over_onnxruntime",
    "image_speedup_over_onnxruntime",
]
Metric = Literal[Quality, "sampling_error", "kernel_loss", Cost]
KINDS: tuple[Kind, ...] = ("min", "max", "margin")

# finite_output, listed_files: shares. kernel_loss: dB. sampling_error: twice what the rounding of doubles leaves, from
# machine to machine, of the hardest schedule, and a sixth of what one timestep makes anywhere in the usual ones.
ALWAYS: Mapping[str, Mapping[Kind, float]] = {
    "finite_output": {"min": 1.0},
    "listed_files": {"min": 1.0},
    "sampling_error": {"max": 1e-5},
    "kernel_loss": {"max": 1.0},
}


def pooled(quality: Mapping[str, Figure], spaces: Mapping[str, Space]) -> dict[str, list[Figure]]:
    """Every figure under its name, those of the spaces beside each other."""
    found = {name: [figure] for name, figure in quality.items()}
    for space in spaces.values():
        for name, figure in space.metrics.items():
            found.setdefault(name, []).append(figure)
    return found


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
        for kind in KINDS:
            limit = bounds.get(kind)
            if limit is None:
                continue
            always = ALWAYS.get(name, {}).get(kind) == limit
            if name in left_out:
                decisions.append(Decision(name=name, kind=kind, limit=limit, reason=left_out[name], always=always))
                continue
            found = [(value, bound, _held(kind, bound, limit)) for value, bound in _values(name, kind, figures[name])]
            value, bound, passed = min(found, key=lambda one: (one[2], -one[1] if kind != "min" else one[1]))
            decisions.append(
                Decision(name=name, kind=kind, limit=limit, value=value, bound=bound, passed=passed, always=always)
            )
    return tuple(decisions)


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


def verdict(decisions: Sequence[Decision]) -> Verdict:
    """ "fail" if any limit is broken; else "pass", if one on quality was held, or "not judged"."""
    if any(decision.passed is False for decision in decisions):
        return "fail"
    judged = any(decision.passed and decision.name in get_args(Quality) for decision in decisions)
    return "pass" if judged else "not judged"
