"""What is measured of a student's samples beside its teacher's: every metric a row of one table.

The teacher's own figure is that of its samples from the student's noise, the twin, held against the same others: how
far chance alone leads. Student and twin are resampled together, so that what the noise does to both is no difference.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from compress.judge import distribution, quality
from compress.judge.features import LEAST
from compress.report.parts import Better, ClassAccuracy, Figure, against, beside
from compress.report.statistics import bootstrap, bootstrap_mean, estimated, interval, resample, wilson

KERNEL_ITEMS = 3000  # kernel matrices are square: more items take memory and change little
Perhaps = Any  # an array, or None where there is none or too little of it


@dataclass(frozen=True)
class Sets:
    """Images [n,c,h,w], or all of them as features [n,d] in one space.

    student   from some noise                      twin     the teacher's, from the same noise
    again     the first of the twin once more, by another runtime at the same precision
    others    the teacher's, from other noise: what both are held against
    training  images the teacher was trained on    held_out real images that it never saw

    labels, other_labels: int64 [n], what student and others were asked for. classes: what a classifier takes student
    and twin for, two of int64 [n]. alignments: of both with their texts, two of float [n]. rounds: resamples.
    """

    student: np.ndarray
    twin: np.ndarray
    again: Perhaps = None
    others: Perhaps = None
    training: Perhaps = None
    held_out: Perhaps = None
    labels: Perhaps = None
    other_labels: Perhaps = None
    classes: Perhaps = None
    alignments: Perhaps = None
    rounds: int = 200

    @property
    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Student and twin."""
        return self.student, self.twin

    @cached_property
    def in_balls(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of both sides, (density of each item, whether each of the others is covered)."""
        return [distribution.density_coverage(x, self.others) for x in self.sides]

    @cached_property
    def to_training(self) -> tuple[np.ndarray, np.ndarray]:
        """Fréchet distances of student, twin and as many others to the training images: [3], replicates [rounds,3]."""
        drawn, training = (*self.sides, self.others[: len(self.student)]), self.training

        def distances(i: np.ndarray, j: np.ndarray, k: np.ndarray) -> list[float]:
            items = zip(drawn, (i, i, j), strict=True)
            return [distribution.frechet_infinity(x[at], training[k]) for x, at in items]

        return estimated(distances, *map(len, (*drawn[1:], training)), rounds=self.rounds)


def figures(sets: Sets) -> dict[str, Figure]:
    """Every figure of METRICS that the sets allow, by name."""
    found = {}
    with threadpool_limits(1, user_api="blas"):  # small matrices by the thousand: more threads only wait for each other
        for name, metric in METRICS.items():
            if metric.figure and all(getattr(sets, need) is not None for need in metric.needs):
                found[name] = metric.figure(sets, metric.better)
    return {name: figure for name, figure in found.items() if figure is not None}


def lacking(need: str) -> dict[str, str]:
    """The metrics that need this, and why they mean nothing without it."""
    return {name: REASONS[need] for name, metric in METRICS.items() if need in metric.needs}


def by_class(sets: Sets) -> tuple[ClassAccuracy, ...]:
    """Accuracy of both sides for every label; nothing without a classifier."""
    if sets.classes is None:
        return ()
    rows = []
    for label in np.unique(sets.labels):
        student, teacher = (float((own[sets.labels == label] == label).mean()) for own in sets.classes)
        rows.append(ClassAccuracy(label=int(label), teacher=teacher, student=student))
    return tuple(rows)


def paired_means(sides: Sequence[np.ndarray], better: Better, rounds: int) -> Figure:
    """The mean of the student's values [n] beside that of the twin's, item by item of the same noise."""
    values = np.stack(sides, axis=1).astype(float)
    replicates = bootstrap(lambda i: values[i].mean(axis=0), len(values), rounds=rounds)
    return beside(values.mean(axis=0), replicates, better, len(values))


def of_pairs(metric: Callable[[np.ndarray, np.ndarray], np.ndarray], sets: Sets, better: Better) -> Figure:
    """Of a value of each pair of images; the floor is how far apart two runs of one model are."""
    values, own = metric(sets.twin, sets.student), metric(sets.twin[: len(sets.again)], sets.again)
    ends, (low, high) = bootstrap_mean(values), bootstrap_mean(own)
    more = ends[0] - high, ends[1] - low
    return against(float(values.mean()), better, ends, len(values), float(own.mean()), (high - low) / 2, more)


def of_items(values: Callable[[Sets], Sequence[np.ndarray]], sets: Sets, better: Better) -> Figure:
    """Of a value of each item of both sides; the figure is their mean."""
    return paired_means(values(sets), better, sets.rounds)


def of_sets(statistic: Callable[..., float], sets: Sets, better: Better, labelled: bool = False) -> Figure:
    """Of features [n,d] of one side and [m,d] of the others, and if `labelled` of the labels of both."""

    def both(i: np.ndarray, j: np.ndarray) -> list[float]:
        others, labels = sets.others[j], (sets.labels[i], sets.other_labels[j]) if labelled else ()
        return [statistic(x[i], others, *labels) for x in sets.sides]

    n = len(sets.student)
    return beside(*estimated(both, n, len(sets.others), rounds=sets.rounds), better, n)


def _vendi(x: np.ndarray, others: np.ndarray) -> float:
    return distribution.vendi(x) / distribution.vendi(others)


def _class_variance(x: np.ndarray, others: np.ndarray, labels: np.ndarray, other_labels: np.ndarray) -> float:
    return distribution.class_variance(x, labels) / distribution.class_variance(others, other_labels)


def _memorised(sets: Sets) -> list[np.ndarray]:
    return [distribution.memorised(x, sets.training, sets.held_out)[0] for x in sets.sides]


def named_alike(sides: Sequence[np.ndarray], better: Better = "more") -> Figure:
    """The share of pairs that a classifier takes for the same; sides: what it takes student and twin for, int64 [n]."""
    same = np.equal(*sides)
    return against(float(same.mean()), better, wilson(int(same.sum()), len(same)), len(same), 1.0, 0.0)


def named_as_asked(sides: Sequence[np.ndarray], asked: np.ndarray, better: Better = "more") -> Figure:
    """The share that a classifier takes for what was `asked`, int64 [n]; sides: as for `named_alike`."""
    right = [own == asked for own in sides]
    # a bootstrap of a share of 0 or 1 has no width; Wilson's interval has
    ends, (low, high) = (wilson(int(side.sum()), len(side)) for side in right)
    return paired_means(right, better, 1000).model_copy(update={"interval": ends, "floor": (high - low) / 2})


def _kid(sets: Sets, better: Better) -> Figure:
    (student, twin), others = (x[:KERNEL_ITEMS] for x in sets.sides), sets.others[:KERNEL_ITEMS]
    index = resample(len(student), len(others), rounds=sets.rounds)
    estimates, *replicates = distribution.kernel_distances((student, twin), others, *index)
    return beside(estimates, np.stack(replicates), better, len(student))


def _two_sample(sets: Sets, better: Better) -> Figure:
    n = min(map(len, (sets.student, sets.others)))
    right = [distribution.two_sample_accuracy(x[:n], sets.others[:n]) for x in sets.sides]
    (student, twin), (ends, (low, high)) = map(np.mean, right), map(distribution.two_sample_interval, right)
    # items count half, as in two_sample_interval: the folds' classifiers share what they were trained on
    index = np.random.default_rng(0).integers(2 * n, size=(sets.rounds, n))
    more = interval(np.subtract(*right, dtype=float)[index].mean(axis=1))
    return against(float(student), better, ends, n, float(twin), (high - low) / 2, more)


def _frechet_real(sets: Sets, better: Better) -> Figure:
    estimates, replicates = sets.to_training
    return beside(estimates[:2], replicates[:, :2], better, len(sets.student))


def _frechet_ratio(sets: Sets, better: Better) -> Figure | None:
    """Student ÷ twin; the floor is how far other samples of the teacher are from 1. None where the twin's distance
    cannot be told from 0, and a ratio means nothing."""
    (student, twin, _), replicates = sets.to_training
    if interval(replicates[:, 1])[0] <= 0:
        return None
    ends, (low, high) = (interval(column / replicates[:, 1]) for column in (replicates[:, 0], replicates[:, 2]))
    return against(float(student / twin), better, ends, len(sets.student), 1.0, (high - low) / 2)


@dataclass(frozen=True)
class Metric:
    """needs: what there must be, of `Sets` and of REASONS. figure: None where `probe` or `attributes` measures it."""

    needs: tuple[str, ...]
    better: Better = "less"
    figure: Callable[[Sets, Better], Figure | None] | None = None


METRICS = {
    "psnr": Metric(("again",), "more", partial(of_pairs, quality.psnr)),
    "ssim": Metric(("again",), "more", partial(of_pairs, quality.ssim)),
    # named as the teacher's image is, and as was asked for
    "class_agreement": Metric(("again", "classes"), "more", lambda sets, better: named_alike(sets.classes, better)),
    "class_accuracy": Metric(
        ("classes",), "more", lambda sets, better: named_as_asked(sets.classes, sets.labels, better)
    ),
    "alignment": Metric(
        ("alignments",), "more", lambda sets, better: paired_means(sets.alignments, better, 1000)
    ),  # of a picture with its text
    "attribute_agreement": Metric(("again", "attributes"), "more"),
    "attribute_accuracy": Metric(("attributes",), "more"),
    "output_error": Metric(("evaluations",)),
    "worst_timestep_error": Metric(("evaluations",)),
    "guidance_ratio": Metric(("evaluations", "guidance")),
    "frechet": Metric(("others",), "less", partial(of_sets, distribution.frechet_infinity)),
    "kid": Metric(("others",), "less", _kid),
    "two_sample": Metric(("others",), "less", _two_sample),  # 0.5: not told apart better than by chance
    "density": Metric(("others",), "more", partial(of_items, lambda sets: [one for one, _ in sets.in_balls])),
    "coverage": Metric(("others",), "more", partial(of_items, lambda sets: [one for _, one in sets.in_balls])),
    "vendi": Metric(("others",), "more", partial(of_sets, _vendi)),
    "class_variance": Metric(
        ("others", "other_labels", "labels"), "more", partial(of_sets, _class_variance, labelled=True)
    ),
    "frechet_real": Metric(("others", "training"), "less", _frechet_real),
    "frechet_ratio": Metric(("others", "training"), "less", _frechet_ratio),
    "memorised": Metric(("others", "training", "held_out"), "less", partial(of_items, _memorised)),
}
REASONS = {
    "again": "the student does not map noise to images as the teacher does",
    "classes": "the data have no labels",
    "alignments": "no model of `alignment` is named",
    "attributes": "no classifier of `attributes` is named, or the prompts do not say what it names",
    "evaluations": "one evaluation of the student does the work of several of the teacher's",
    "guidance": "the teacher is not guided",
    "others": f"there are too few samples; at least {LEAST} are needed",
    **dict.fromkeys(("labels", "other_labels"), "the data have no labels, or too few of a class"),
    "training": "there are no real images, or too few of them; or the teacher's own are not told from them",
    "held_out": "there are no real images, or too few of them",
}
