"""Images of student and teacher from the same noise, pair by pair. Arrays [n,c,h,w] in [-1, 1].

Means nothing for a student that does not map noise to images as its teacher does (adversarial and consistency
distillation): there compare distributions alone.
"""

from collections.abc import Mapping

import numpy as np

from compress.evaluation import quality
from compress.evaluation.classifier import Judge
from compress.evaluation.comparison import paired_means
from compress.evaluation.figure import Figure
from compress.evaluation.statistics import Interval, bootstrap_mean, wilson

ROUNDS = 1000


def same_noise(
    teacher: np.ndarray, student: np.ndarray, again: np.ndarray | None, rounds: int = ROUNDS
) -> dict[str, Figure]:
    """psnr in dB, ssim.

    again: the first of the teacher's images once more, run by another runtime at the same precision: how far apart
    two runs of *one* model are is the floor.
    """
    figures = {}
    for name, metric in (("psnr", quality.psnr), ("ssim", quality.ssim)):
        values = metric(teacher, student)
        figure = Figure(float(values.mean()), "more", bootstrap_mean(values), len(values))
        if again is not None:
            figure = _against(figure, metric(teacher[: len(again)], again))
        figures[name] = figure
    return figures


def _against(figure: Figure, floor: np.ndarray) -> Figure:
    """The figure with the floor's values [k] as the teacher's own."""
    assert figure.interval is not None
    own = float(floor.mean())
    low, high = bootstrap_mean(floor)
    return Figure(
        **{
            **vars(figure),
            "teacher": own,
            "floor": (high - low) / 2,
            "excess": figure.value - own,
            "excess_interval": (figure.interval[0] - high, figure.interval[1] - low),
        }
    )


def named(judge: Judge, teacher: np.ndarray, student: np.ndarray, labels: np.ndarray) -> dict[str, Figure]:
    """class_agreement: named as the teacher's image is; class_accuracy: named as was asked for."""
    theirs, ours = judge.classify(teacher), judge.classify(student)
    agreement, (low, high) = ours == theirs, _share(ours == theirs)
    right, teacher_right = ours == labels, theirs == labels
    accuracy = paired_means(right.astype(float), teacher_right.astype(float), "more", ROUNDS)
    teacher_low, teacher_high = _share(teacher_right)
    return {
        "class_agreement": Figure(
            value=float(agreement.mean()),
            better="more",
            interval=(low, high),
            count=len(agreement),
            teacher=1.0,
            floor=0.0,
            excess=float(agreement.mean()) - 1,
            excess_interval=(low - 1, high - 1),
        ),
        # a bootstrap of a share of 0 or 1 has no width; Wilson's interval has
        "class_accuracy": Figure(
            **{**vars(accuracy), "interval": _share(right), "floor": (teacher_high - teacher_low) / 2}
        ),
    }


def by_class(judge: Judge, teacher: np.ndarray, student: np.ndarray, labels: np.ndarray) -> Mapping[str, list]:
    """Accuracy of both for every label: {"labels", "teacher", "student"}."""
    theirs, ours = judge.classify(teacher) == labels, judge.classify(student) == labels
    present = np.unique(labels)
    return {
        "labels": present.tolist(),
        "teacher": [float(theirs[labels == label].mean()) for label in present],
        "student": [float(ours[labels == label].mean()) for label in present],
    }


def _share(hits: np.ndarray) -> Interval:
    return wilson(int(hits.sum()), len(hits))
