"""A student's images beside its teacher's."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np

from compress.judge import response
from compress.judge.baseline import Baseline
from compress.judge.decision import Paired
from compress.judge.judging import Judging
from compress.model.denoiser import Denoiser
from compress.model.reference import PYTORCH, Drawn, identity
from compress.report.parts import ClassAccuracy, Figure, Reference, Response, Space
from compress.runtime import Bundle

AGAIN = 10  # images that the teacher draws once more, in the other runtime
RESPONSE = 200  # images at each guidance scale
SHOWN = 40  # pairs of samples that are kept for pictures
UNPAIRED = "the student does not map noise to images as the teacher does"


@dataclass(frozen=True)
class Images:
    """A student's samples [n,c,h,w] beside the teacher's from the same noise, `others` from other noise, and what is
    said of them: parts of the report, the more where all samples are finite.

    left_out: metrics that mean nothing for this student, and why.
    """

    samples: np.ndarray
    pairs: Drawn
    others: Drawn
    finite: bool
    reference: Reference
    quality: dict[str, Figure] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    spaces: dict[str, Space] = field(default_factory=dict)
    by_class: tuple[ClassAccuracy, ...] = ()
    guidance: dict[str, tuple[Response, ...]] = field(default_factory=dict)

    def shown(self) -> dict[str, np.ndarray]:
        """Some pairs, for pictures."""
        found = {"teacher": self.pairs.samples[:SHOWN].numpy(), "student": self.samples[:SHOWN]}
        if "class_labels" in self.pairs.conditions:
            found["labels"] = self.pairs.conditions["class_labels"][:SHOWN].numpy()
        return found


def measure(
    judged: Judging, bundle: Bundle, baseline: Baseline, count: int, others: int, scales: Sequence[float]
) -> Images:
    """Draw `count` images of the student, and compare them with the teacher's and with `others` of it.

    scales: at which the guidance response is measured.
    """
    teacher = baseline.teacher
    drawn = judged.drawn(teacher, count + others, "teacher's samples")
    ours = response.sample(bundle, drawn[:count], judged.progress, "student's samples")
    pairs, rest = drawn[: len(ours)], drawn[count:]
    finite = bool(np.isfinite(ours).all())
    reference = Reference(
        count=len(rest.samples),
        paired=len(ours),
        identity=identity(teacher)[:24],
        solver=teacher.sampling.solver,
        steps=len(teacher.sampling.timesteps),
    )
    own = {} if judged.judge is None else {"classifier_accuracy": Figure(value=judged.judge.accuracy, better="more")}
    if not finite:
        return Images(ours, pairs, rest, finite, reference, own)
    few, other = pairs[:AGAIN], baseline.draw if judged.drawer is PYTORCH else PYTORCH.draw
    again = other(teacher, few.noise, few.conditions, lambda _: None).numpy()
    quality, left_out = judged.pairs(pairs, ours, again) | own, {}
    if not bundle.manifest.get("paired", True):
        left_out = dict.fromkeys(get_args(Paired), UNPAIRED)
        quality = {name: figure for name, figure in quality.items() if name not in left_out}
    return Images(
        ours,
        pairs,
        rest,
        finite,
        reference,
        quality,
        left_out,
        judged.spaces(pairs, rest, ours),
        judged.by_class(pairs, ours),
        _response(judged, teacher, bundle, scales),
    )


def _response(
    judged: Judging, teacher: Denoiser, bundle: Bundle, scales: Sequence[float]
) -> dict[str, tuple[Response, ...]]:
    """Accuracy and variance at several guidance scales; nothing where there is no guidance or no classifier."""
    guided = bundle.guidance["kind"] != "baked" and teacher.sampling.guidance.online
    if not scales or not guided or judged.believed is None:
        return {}
    found = {}
    for scale in scales:
        title, other = f"guidance {scale:g}", response.at_scale(teacher, scale)
        drawn = judged.drawn(other, RESPONSE, f"{title}, teacher")
        ours = response.sample(bundle.at_scale(scale), drawn, judged.progress, f"{title}, student")
        theirs, labels = drawn.samples.numpy()[: len(ours)], drawn.conditions["class_labels"].numpy()[: len(ours)]
        found[scale] = {"teacher": theirs, "student": ours, "labels": labels}
    return response.curves(found, judged.believed)
