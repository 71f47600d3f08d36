"""How sure a figure is: 95% intervals, by resampling or in closed form.

The bootstrap (Efron 1979) draws *indices*, one array for each group of items that is independent of the others.
What is paired belongs to one group and takes the same index; so the degradation of a student whose samples `s` come
from the same noise as the teacher's samples `t`, both held against other samples `r` of the teacher, is

    bootstrap(lambda i, j: distance(s[i], r[j]) - distance(t[i], r[j]), len(s), len(r))

Equal counts, rounds and seed give equal indices, so that figures computed one after the other are paired as well.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Interval = tuple[float, float]
ROUNDS = 1000


def resample(*counts: int, rounds: int = ROUNDS, seed: int = 0) -> tuple[np.ndarray, ...]:
    """For each independent group of `counts` items the indices of its resamples, int64 [rounds, count]."""
    if min(counts, default=0) < 1 or rounds < 1:
        raise ValueError(f"resampling needs items and rounds; got {counts} items, {rounds} rounds")
    return tuple(
        np.random.default_rng([seed, group]).integers(count, size=(rounds, count)) for group, count in enumerate(counts)
    )


def bootstrap(statistic: Callable[..., Any], *counts: int, rounds: int = ROUNDS, seed: int = 0) -> np.ndarray:
    """`statistic` of every resample, [rounds, ...]; it is given one index array [count] for each of the `counts`."""
    indices = resample(*counts, rounds=rounds, seed=seed)
    return np.array([statistic(*(index[i] for index in indices)) for i in range(rounds)], dtype=np.float64)


def interval(replicates: np.ndarray) -> Interval:
    """95% percentile interval of bootstrap replicates [rounds]. Efron 1979. Raises ValueError for NaN."""
    if not np.isfinite(replicates).all():
        raise ValueError("an interval needs finite replicates")
    low, high = np.percentile(replicates, [2.5, 97.5])
    return float(low), float(high)


def recentred(replicates: np.ndarray, estimate: float | np.ndarray) -> np.ndarray:
    """The replicates [rounds, ...], shifted so that their mean is `estimate`; for distances between distributions.

    A resample is further from anything than its sample is, since it lacks a third of the items: the replicates
    of a distance are too large by about the bias of the plain distance, which their mean shows. Their spread is
    right. Where distances are combined (a ratio), recentre each of them first.
    """
    return replicates - replicates.mean(axis=0) + estimate


def estimated(statistic: Callable[..., Any], *counts: int, rounds: int = ROUNDS) -> tuple[np.ndarray, np.ndarray]:
    """(`statistic` of all items, its replicates [rounds, ...] recentred on it); else as `bootstrap`."""
    estimate = np.asarray(statistic(*map(np.arange, counts)))
    return estimate, recentred(bootstrap(statistic, *counts, rounds=rounds), estimate)


def bootstrap_mean(values: np.ndarray, seed: int = 0, rounds: int = 2000) -> Interval:
    """95% percentile bootstrap interval of the mean of `values` [n]. Efron 1979."""
    (index,) = resample(len(values), rounds=rounds, seed=seed)
    return interval(values[index].mean(axis=1))


def wilson(successes: float, count: float) -> Interval:
    """95% interval of a share; right also at 0 and 1, where the bootstrap is not. Wilson 1927.

    An effective count, of items that are not independent, need not be whole.
    """
    z = 1.959964
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)
