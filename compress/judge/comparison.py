"""A student's samples beside its teacher's in one feature space: how far each is from what it should be.

    student   from some noise                      twin     the teacher's, from the same noise
    others    the teacher's, from other noise: what both are held against
    training  images the teacher was trained on    held_out real images that it never saw

The twin's figure is the noise floor: the teacher held against itself. Student and twin are paired and are resampled
together, so that what the noise does to both is not taken for a difference.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from compress.judge import distribution
from compress.judge.features import FeatureSpace
from compress.report.figure import against, beside
from compress.report.parts import Better, Figure
from compress.report.statistics import bootstrap, interval, multiplicities, recentred, resample

ROUNDS = 200
KERNEL_ITEMS = 3000  # kernel matrices are square: more items take memory and change little
LEAST_OF_A_CLASS = 8  # fewer, and a resample may hold none of a class
QUANTILE = 0.01  # of the held-out images' distances, below which a sample counts as memorised

Spread = Callable[..., float]  # of features [n,d] and labels [n] or None


@dataclass(frozen=True)
class Sets:
    """Images [n,c,h,w], or their features [n,d]. labels, other_labels: int64 [n], of the student and of the others."""

    student: np.ndarray
    twin: np.ndarray
    others: np.ndarray
    training: np.ndarray | None = None
    held_out: np.ndarray | None = None
    labels: np.ndarray | None = None
    other_labels: np.ndarray | None = None

    def embedded(self, space: FeatureSpace) -> "Sets":
        """The same with images replaced by their features."""
        images = ("student", "twin", "others", "training", "held_out")
        found = {name: getattr(self, name) for name in images}
        return replace(self, **{name: space(value) for name, value in found.items() if value is not None})


def compare(images: Sets, space: FeatureSpace, rounds: int = ROUNDS, seed: int = 0) -> dict[str, Figure]:
    """Every figure that the sets allow, by name; at least `space.enough` samples of student and others are needed.

    frechet          Fréchet distance to the others, extrapolated to infinitely many items
    kid              unbiased kernel distance to the others
    two_sample       how often a classifier tells a sample from the others' (0.5: never better than chance)
    density          mean number of balls of the others that a sample lies in, ÷ k
    coverage         share of the others with a sample in their ball
    vendi            effective number of different samples ÷ the others'
    class_variance   variance within a class ÷ the others'
    frechet_real     Fréchet distance to the training images
    frechet_ratio    the same ÷ the twin's; left out where the twin's cannot be told from 0, and a ratio means nothing
    memorised        share of samples closer to a training image than 99% of new real images are
    """
    sets = images.embedded(space)
    with threadpool_limits(1, user_api="blas"):  # small matrices by the thousand: more threads only wait for each other
        return _figures(sets, space, rounds, seed)


def _figures(sets: Sets, space: FeatureSpace, rounds: int, seed: int) -> dict[str, Figure]:
    figures = {
        "frechet": _frechet(sets, rounds, seed),
        "kid": _kid(sets, rounds, seed),
        "two_sample": _two_sample(sets, rounds, seed),
        **_density_coverage(sets, rounds, seed),
        "vendi": _share_of_others(sets, lambda x, labels: distribution.vendi(x), rounds, seed),
    }
    if sets.labels is not None and min(map(_rarest, (sets.labels, sets.other_labels))) >= LEAST_OF_A_CLASS:
        figures["class_variance"] = _share_of_others(sets, distribution.class_variance, rounds, seed)
    if sets.training is not None and len(sets.training) >= 8 * space.dimension:
        figures |= _frechet_to_real(sets, rounds, seed)
        if sets.held_out is not None and QUANTILE * len(sets.held_out) >= 1:
            figures["memorised"] = _memorised(sets, rounds, seed)
    return figures


def _rarest(labels: np.ndarray | None) -> int:
    return 0 if labels is None else int(np.unique(labels, return_counts=True)[1].min())


def _frechet(sets: Sets, rounds: int, seed: int) -> Figure:
    def distances(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        others = sets.others[j]
        return np.array([distribution.frechet_infinity(x[i], others, seed) for x in (sets.student, sets.twin)])

    n, m = len(sets.student), len(sets.others)
    estimate = distances(np.arange(n), np.arange(m))
    replicates = recentred(bootstrap(distances, n, m, rounds=rounds, seed=seed), estimate)
    return beside(float(estimate[0]), float(estimate[1]), replicates, "less", n)


def _frechet_to_real(sets: Sets, rounds: int, seed: int) -> dict[str, Figure]:
    """frechet_real, and frechet_ratio; the floor of the ratio is how far other samples of the teacher are from 1."""
    assert sets.training is not None
    training, n = sets.training, len(sets.student)
    others = sets.others[:n]

    def distances(i: np.ndarray, j: np.ndarray, k: np.ndarray) -> np.ndarray:
        drawn = (sets.student[i], sets.twin[i], others[j])
        return np.array([distribution.frechet_infinity(x, training[k], seed) for x in drawn])

    counts = (n, len(others), len(training))
    estimate = distances(*map(np.arange, counts))
    replicates = recentred(bootstrap(distances, *counts, rounds=rounds, seed=seed), estimate)
    student, twin, _ = map(float, estimate)
    figures = {"frechet_real": beside(student, twin, replicates[:, :2], "less", n)}
    if interval(replicates[:, 1])[0] > 0:
        ratios = replicates[:, (0, 2)] / replicates[:, 1:2]
        ends, (low, high) = (interval(column) for column in ratios.T)
        figures["frechet_ratio"] = against(student / twin, "less", ends, n, 1.0, (high - low) / 2)
    return figures


def _kid(sets: Sets, rounds: int, seed: int) -> Figure:
    others = sets.others[:KERNEL_ITEMS]
    student, twin = sets.student[:KERNEL_ITEMS], sets.twin[:KERNEL_ITEMS]
    own, floor = (distribution.KernelDistance(x, others) for x in (student, twin))
    indices = resample(len(student), len(others), rounds=rounds, seed=seed)
    weights = [multiplicities(index, count) for index, count in zip(indices, (len(student), len(others)), strict=True)]
    replicates = np.stack([own.value(*weights), floor.value(*weights)], axis=1)
    return beside(float(own.value()), float(floor.value()), replicates, "less", len(student))


def _two_sample(sets: Sets, rounds: int, seed: int) -> Figure:
    n = min(len(sets.student), len(sets.others))
    right = [distribution.two_sample_accuracy(x[:n], sets.others[:n], seed=seed) for x in (sets.student, sets.twin)]
    intervals = [distribution.two_sample_interval(hits) for hits in right]
    difference = right[0].astype(float) - right[1]
    # items count half, as in two_sample_interval: the folds' classifiers share what they were trained on
    index = np.random.default_rng(seed).integers(len(difference), size=(rounds, max(1, len(difference) // 2)))
    low, high = intervals[1]
    return Figure(
        value=float(right[0].mean()),
        better="less",
        interval=intervals[0],
        count=n,
        teacher=float(right[1].mean()),
        floor=(high - low) / 2,
        excess=float(difference.mean()),
        excess_interval=interval(difference[index].mean(axis=1)),
    )


def _density_coverage(sets: Sets, rounds: int, seed: int) -> dict[str, Figure]:
    found = [distribution.density_coverage(x, sets.others) for x in (sets.student, sets.twin)]
    names = ("density", "coverage")
    return {
        name: paired_means(found[0][which], found[1][which], "more", rounds, seed) for which, name in enumerate(names)
    }


def _share_of_others(sets: Sets, spread: Spread, rounds: int, seed: int) -> Figure:
    def shares(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        labels = None if sets.labels is None else sets.labels[i]
        other_labels = None if sets.other_labels is None else sets.other_labels[j]
        whole = spread(sets.others[j], other_labels)
        return np.array([spread(x[i], labels) / whole for x in (sets.student, sets.twin)])

    n, m = len(sets.student), len(sets.others)
    estimate = shares(np.arange(n), np.arange(m))
    replicates = recentred(bootstrap(shares, n, m, rounds=rounds, seed=seed), estimate)
    return beside(float(estimate[0]), float(estimate[1]), replicates, "more", n)


def _memorised(sets: Sets, rounds: int, seed: int) -> Figure:
    assert sets.training is not None and sets.held_out is not None
    student, twin = (
        distribution.memorised(x, sets.training, sets.held_out, QUANTILE)[0].astype(float)
        for x in (sets.student, sets.twin)
    )
    return paired_means(student, twin, "less", rounds, seed)


def paired_means(student: np.ndarray, teacher: np.ndarray, better: Better, rounds: int, seed: int = 0) -> Figure:
    """The mean of `student` [n] beside that of `teacher` [n], item by item of the same noise."""
    replicates = bootstrap(
        lambda i: np.array([student[i].mean(), teacher[i].mean()]), len(student), rounds=rounds, seed=seed
    )
    return beside(float(student.mean()), float(teacher.mean()), replicates, better, len(student))
