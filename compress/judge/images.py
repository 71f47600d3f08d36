"""A student's images beside its teacher's: drawn, measured, and said in parts of the report."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from compress.judge import metrics, response
from compress.judge.baseline import Baseline
from compress.judge.yardsticks import Yardsticks
from compress.model.denoiser import Denoiser
from compress.model.reference import PYTORCH, Drawn, identity
from compress.report.parts import ClassAccuracy, Figure, Reference, Response, Space
from compress.runtime import Bundle

AGAIN = 10  # images that the teacher draws once more, in the other runtime
RESPONSE = 200  # images at each guidance scale
SHOWN = 40  # pairs of samples that are kept for pictures


@dataclass(frozen=True)
class Images:
    """A student's pictures beside the teacher's from the same noise, the teacher's `others` from other noise, as they
    are drawn, and parts of the report, the more where all is finite. left_out: metrics that mean nothing for this
    student, and why."""

    sets: metrics.Sets
    others: Drawn
    finite: bool
    reference: Reference
    quality: dict[str, Figure]
    left_out: dict[str, str] = field(default_factory=dict)
    spaces: dict[str, Space] = field(default_factory=dict)
    by_class: tuple[ClassAccuracy, ...] = ()
    guidance: dict[str, tuple[Response, ...]] = field(default_factory=dict)

    def shown(self) -> dict[str, np.ndarray]:
        """Some pairs, for pictures."""
        found = {"teacher": self.sets.twin, "student": self.sets.student, "labels": self.sets.labels}
        return {name: images[:SHOWN] for name, images in found.items() if images is not None}


def measure(
    yardsticks: Yardsticks, bundle: Bundle, baseline: Baseline, count: int, others: int, scales: Sequence[float]
) -> Images:
    """Draw `count` images of the student, and compare them with the teacher's and with `others` of it.

    scales: at which the guidance response is measured.
    """
    teacher = baseline.teacher
    drawn = yardsticks.drawn(teacher, count + others, "teacher's samples")
    told = yardsticks.as_told(bundle, drawn[:count])
    ours = response.sample(bundle, told, yardsticks.progress, "student's samples")
    ours = response.pictures(bundle, ours, yardsticks.progress, "decoding the student's samples")
    latents, rest, seen = drawn[: len(ours)], drawn[count:], yardsticks.seen(drawn)
    pairs, others_seen = seen[: len(ours)], seen[count:]
    reference = Reference(
        count=len(rest.samples),
        paired=len(ours),
        identity=identity(teacher)[:24],
        solver=teacher.sampling.solver,
        steps=len(teacher.sampling.timesteps),
    )
    quality, left_out, again, finite = {}, {}, None, bool(np.isfinite(ours).all())
    if yardsticks.classifier is not None:
        quality["classifier_accuracy"] = Figure(value=yardsticks.classifier.accuracy, better="more")
    if not bundle.manifest.get("paired", True):
        left_out = metrics.lacking("again")
    elif finite:
        few, other = latents[:AGAIN], baseline.draw if yardsticks.drawer is PYTORCH else PYTORCH.draw
        again = baseline.bundle.pixels(other(teacher, few.noise, few.conditions, lambda _: None).numpy())
    sets = yardsticks.sets(pairs, ours, again)
    found = Images(sets, rest, finite, reference, quality)
    if not finite:
        return found
    return replace(
        found,
        quality=metrics.figures(sets) | quality,
        left_out=left_out,
        spaces=yardsticks.spaces(pairs, others_seen, ours),
        by_class=metrics.by_class(sets),
        guidance=_response(yardsticks, teacher, bundle, scales),
    )


def _response(
    yardsticks: Yardsticks, teacher: Denoiser, bundle: Bundle, scales: Sequence[float]
) -> dict[str, tuple[Response, ...]]:
    """Accuracy and variance at several guidance scales; nothing where there is no guidance or no classifier."""
    guided = bundle.guidance["kind"] != "baked" and teacher.sampling.guidance.online
    if not scales or not guided or yardsticks.believed is None:
        return {}
    found = {}
    for scale in scales:
        title, other = f"guidance {scale:g}", response.at_scale(teacher, scale)
        drawn = yardsticks.drawn(other, RESPONSE, f"{title}, teacher")
        ours = response.sample(bundle.at_scale(scale), drawn, yardsticks.progress, f"{title}, student")
        theirs, labels = drawn.samples.numpy()[: len(ours)], drawn.conditions["class_labels"].numpy()[: len(ours)]
        found[scale] = {"teacher": theirs, "student": ours, "labels": labels}
    return response.curves(found, yardsticks.believed)
