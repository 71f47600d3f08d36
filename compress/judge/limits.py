"""A recipe's limits on what was measured, and why some could not be held."""

from collections.abc import Mapping, Sequence
from typing import Any

from compress.errors import VerifyError
from compress.judge import decision, yardsticks
from compress.report.parts import Decision, Figure

NOT_FINITE = "not every sample of the student is finite"


def not_at_hand(
    gates: Mapping[str, decision.Gate], figures: Mapping[str, Any], finite: bool, scheme: str
) -> dict[str, str]:
    """Why gates of this student have no figure to be held against."""
    found: dict[str, str] = {}
    if not finite:
        found |= {name: NOT_FINITE for name in gates if name not in figures}
    if "kernel_loss" not in figures and ("kernel_loss" in gates or scheme != "float"):
        found["kernel_loss"] = "needs the model before export: a recipe that quantizes, run from its checkpoint"
    return found


def decide(
    figures: Mapping[str, Sequence[Figure]],
    left_out: Mapping[str, str],
    gates: Mapping[str, decision.Gate],
    measured_with: yardsticks.Yardsticks,
    name: str,
) -> tuple[Decision, ...]:
    """The recipe's gates, and those that always hold, on what was measured. Raises VerifyError."""
    asked = {metric: gate.model_dump() for metric, gate in gates.items()}
    unknown = [metric for metric in asked if metric not in figures and metric not in left_out]
    if unknown:
        raise VerifyError(f"{name}: {', '.join(unknown)} cannot be judged: {measured_with.why_not(unknown[0])}")
    return decision.decide(figures, decision.with_always(asked, {*figures, *left_out}), left_out)
