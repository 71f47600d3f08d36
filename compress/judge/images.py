"""A student's images beside its teacher's: drawn, measured, and said in parts of the report."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from compress.errors import VerifyError
from compress.judge import metrics
from compress.judge.baseline import Baseline
from compress.judge.classifier import Classifier
from compress.judge.distribution import class_variance
from compress.judge.yardsticks import Yardsticks, pictures
from compress.measure.workers import draw_on_all_cores
from compress.model.denoiser import Denoiser
from compress.model.reference import PYTORCH, Drawn, Progress, identity
from compress.report.parts import ClassAccuracy, Figure, Reference, Response, Space
from compress.report.statistics import bootstrap, interval, recentred, wilson
from compress.report.text_to_image import Attribute
from compress.runtime import Bundle

AGAIN = 10  # images that the teacher draws once more, in the other runtime
RESPONSE = 200  # images at each guidance scale
RESAMPLES = 500
SHARE = 50  # images that a core draws at once, of any batch size
SHOWN = 40  # pairs of samples that are kept for pictures


@dataclass(frozen=True)
class Images:
    """A student's pictures beside the teacher's from the same noise; the teacher's samples of it, the `pairs`, and its
    `others` from other noise, both as they are drawn; and parts of the report, the more where all is finite.

    texts: of each pair, where there are texts. left_out: metrics that mean nothing for this student, and why.
    """

    sets: metrics.Sets
    pairs: Drawn
    others: Drawn
    finite: bool
    reference: Reference
    quality: dict[str, Figure]
    texts: Sequence[str] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    spaces: dict[str, Space] = field(default_factory=dict)
    attributes: dict[str, Attribute] = field(default_factory=dict)
    by_class: tuple[ClassAccuracy, ...] = ()
    guidance: dict[str, tuple[Response, ...]] = field(default_factory=dict)

    def shown(self) -> dict[str, np.ndarray]:
        """Some pairs, for pictures."""
        texts = np.array(self.texts) if self.texts else None
        found = {"teacher": self.sets.twin, "student": self.sets.student, "labels": self.sets.labels, "texts": texts}
        return {name: values[:SHOWN] for name, values in found.items() if values is not None}


def check_comparable(bundle: Bundle, teacher: Denoiser, name: str) -> None:
    """Raise VerifyError unless both draw images, and from the same inputs."""
    if tuple(bundle.sample_shape) != teacher.sample_shape or set(bundle.conditions) != set(teacher.conditions):
        raise VerifyError(f"{bundle.path}: has other inputs than the teacher; give the teacher that it was made from")
    if len(teacher.sample_shape) != 3:
        raise VerifyError(
            f"{name}: judges images; samples of this model are {list(teacher.sample_shape)}, of which SSIM and "
            "features of images say nothing: leave verify out of the recipe; export_onnx has checked the file against "
            "the model, and `compress sample` draws from it"
        )


def measure(
    yardsticks: Yardsticks, bundle: Bundle, baseline: Baseline, count: int, others: int, scales: Sequence[float]
) -> Images:
    """Draw `count` images of the student, and compare them with the teacher's and with `others` of it.

    scales: at which the guidance response is measured.
    """
    teacher = baseline.teacher
    drawn = yardsticks.drawn(teacher, count + others, "teacher's samples")
    told = yardsticks.as_told(bundle, drawn[:count])
    ours = sample(bundle, told, yardsticks.progress, "student's samples")
    ours = pictures(bundle, ours, yardsticks.progress, "decoding the student's samples")
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
    found = Images(sets, latents, rest, finite, reference, quality, yardsticks.texts(pairs))
    if not finite:
        return found
    aligned = yardsticks.aligned(sets, found.texts)
    if aligned is not None and aligned.fault:
        left_out |= {"alignment": aligned.fault}
    elif aligned is not None:
        quality["chance_alignment"] = aligned.chance
        sets = dataclasses.replace(sets, alignments=aligned.sides)
    return dataclasses.replace(
        found,
        quality=metrics.figures(sets) | quality,
        left_out=left_out,
        spaces=yardsticks.spaces(pairs, others_seen, ours),
        attributes=yardsticks.attributes(sets, found.texts),
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
        title, other = f"guidance {scale:g}", at_scale(teacher, scale)
        drawn = yardsticks.drawn(other, RESPONSE, f"{title}, teacher")
        ours = sample(bundle.at_scale(scale), drawn, yardsticks.progress, f"{title}, student")
        theirs, labels = drawn.samples.numpy()[: len(ours)], drawn.conditions["class_labels"].numpy()[: len(ours)]
        found[scale] = {"teacher": theirs, "student": ours, "labels": labels}
    return curves(found, yardsticks.believed)


def at_scale(teacher: Denoiser, scale: float) -> Denoiser:
    """The model with another guidance scale (diffusers' convention)."""
    guidance = teacher.sampling.guidance.model_copy(update={"scale": scale})
    return dataclasses.replace(teacher, sampling=teacher.sampling.model_copy(update={"guidance": guidance}))


def sample(bundle: Bundle, drawn: Drawn, progress: Progress, title: str) -> np.ndarray:
    """The bundle's samples [n,…] from the same noise and conditions; n is cut to its fixed batch size."""
    conditions = {name: value.numpy() for name, value in drawn.conditions.items()}
    with progress(title, len(drawn.noise)) as task:
        return draw_on_all_cores(bundle, drawn.noise.numpy(), conditions, bundle.batch or SHARE, task.advance)


def curves(pairs: Mapping[float, Mapping[str, np.ndarray]], classifier: Classifier) -> dict[str, tuple[Response, ...]]:
    """Accuracy, and variance within a class, of the pixels at every scale, with intervals.

    pairs: for each scale `teacher` and `student` [n,c,h,w] and `labels` int64 [n].
    """
    sides = {
        scale: [_figures(pair[side], pair["labels"], classifier) for side in ("teacher", "student")]
        for scale, pair in pairs.items()
    }
    return {
        name: tuple(Response(scale=scale, teacher=a[name], student=b[name]) for scale, (a, b) in sides.items())
        for name in ("class_accuracy", "variance")
    }


def _figures(images: np.ndarray, labels: np.ndarray, classifier: Classifier) -> dict[str, Figure]:
    hits, flat = classifier.classify(images) == labels, images.reshape(len(images), -1)
    spread = _spread(flat, labels)
    # a resample of a small class holds copies, and so varies less than the class: hence recentred
    replicates = bootstrap(lambda i: _spread(flat[i], labels[i]), len(flat), rounds=RESAMPLES)
    found = {
        "class_accuracy": (float(hits.mean()), wilson(int(hits.sum()), len(hits))),
        "variance": (spread, interval(recentred(replicates, spread))),
    }
    return {name: Figure(value=value, better="more", interval=ends) for name, (value, ends) in found.items()}


def _spread(flat: np.ndarray, labels: np.ndarray) -> float:
    common = [label for label in np.unique(labels) if (labels == label).sum() > 1]
    chosen = np.isin(labels, common)
    return class_variance(flat[chosen], labels[chosen])
