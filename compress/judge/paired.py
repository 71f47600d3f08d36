"""Images of student and teacher from the same noise, pair by pair. Arrays [n,c,h,w] in [-1, 1].

Means nothing for a student that does not map noise to images as its teacher does (adversarial and consistency
distillation): there compare distributions alone.
"""

import numpy as np

from compress.judge import quality
from compress.judge.classifier import Judge
from compress.judge.comparison import paired_means
from compress.report.figure import against
from compress.report.parts import ClassAccuracy, Figure
from compress.report.statistics import Interval, bootstrap_mean, wilson

ROUNDS = 1000


def same_noise(teacher: np.ndarray, student: np.ndarray, again: np.ndarray) -> dict[str, Figure]:
    """psnr in dB, ssim.

    again: the first of the teacher's images once more, run by another runtime at the same precision: how far apart
    two runs of *one* model are is the floor.
    """
    figures = {}
    for name, metric in (("psnr", quality.psnr), ("ssim", quality.ssim)):
        values = metric(teacher, student)
        floor = metric(teacher[: len(again)], again)
        value, ends, (low, high) = float(values.mean()), bootstrap_mean(values), bootstrap_mean(floor)
        figure = against(value, "more", ends, len(values), float(floor.mean()), (high - low) / 2)
        figures[name] = figure.model_copy(update={"excess_interval": (ends[0] - high, ends[1] - low)})
    return figures


def named(judge: Judge, teacher: np.ndarray, student: np.ndarray, labels: np.ndarray) -> dict[str, Figure]:
    """class_agreement: named as the teacher's image is; class_accuracy: named as was asked for."""
    theirs, ours = judge.classify(teacher), judge.classify(student)
    agreement, right, teacher_right = ours == theirs, ours == labels, theirs == labels
    accuracy = paired_means(right.astype(float), teacher_right.astype(float), "more", ROUNDS)
    low, high = _share(teacher_right)
    return {
        "class_agreement": against(float(agreement.mean()), "more", _share(agreement), len(agreement), 1.0, 0.0),
        # a bootstrap of a share of 0 or 1 has no width; Wilson's interval has
        "class_accuracy": accuracy.model_copy(update={"interval": _share(right), "floor": (high - low) / 2}),
    }


def by_class(judge: Judge, teacher: np.ndarray, student: np.ndarray, labels: np.ndarray) -> tuple[ClassAccuracy, ...]:
    """Accuracy of both for every label."""
    theirs, ours = judge.classify(teacher) == labels, judge.classify(student) == labels
    chosen = {int(label): labels == label for label in np.unique(labels)}
    return tuple(
        ClassAccuracy(label=label, teacher=float(theirs[at].mean()), student=float(ours[at].mean()))
        for label, at in chosen.items()
    )


def _share(hits: np.ndarray) -> Interval:
    return wilson(int(hits.sum()), len(hits))
