"""Distances between distributions against closed forms, loops and other people's code."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from compress.judge.distribution import (
    class_variance,
    density_coverage,
    frechet_distance,
    frechet_infinity,
    kernel_distances,
    memorised,
    nearest_distances,
    two_sample_accuracy,
    two_sample_interval,
    vendi,
)
from compress.report.statistics import bootstrap, interval, recentred, resample


def normal(count: int, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width))


def with_moments(mean: np.ndarray, root: np.ndarray, count: int = 200, seed: int = 0) -> np.ndarray:
    """Items with exactly this mean and the covariance root·rootᵀ."""
    x = normal(count, len(mean), seed)
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return x @ root.T + mean


# Fréchet distance


@pytest.mark.parametrize("width", [1, 3, 8])
def test_frechet_equals_the_matrix_root(width):
    random = np.random.default_rng(width)
    x = random.standard_normal((50, width)) @ random.standard_normal((width, width)) + 1
    y = random.standard_normal((70, width)) @ random.standard_normal((width, width))
    one, two = np.atleast_2d(np.cov(x, rowvar=False)), np.atleast_2d(np.cov(y, rowvar=False))
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(one + two - 2 * np.real(sqrtm(one @ two)))
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    theirs = _compute_fid(*map(torch.from_numpy, (x.mean(0), one, y.mean(0), two)))
    assert frechet_distance(x, y) == pytest.approx(float(theirs), rel=1e-6)


def test_frechet_of_known_moments():
    rotation = np.linalg.qr(normal(4, 4))[0]
    s, t = np.array([1.0, 2, 3, 4]), np.array([4.0, 2, 1, 0.5])
    shift = np.array([1.0, -2, 0, 0.5])
    x = with_moments(np.zeros(4), rotation * s)  # commuting covariances: Σ(s − t)² is the distance of the spreads
    y = with_moments(shift, rotation * t, seed=1)
    assert frechet_distance(x, y) == pytest.approx(np.square(shift).sum() + np.square(s - t).sum(), rel=1e-9)


def test_frechet_of_equal_moments_is_zero():
    x = normal(50)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("count", [2, 5, 20])
def test_frechet_of_fewer_items_than_dimensions(count):
    x, y = normal(count, 20), normal(count, 20, seed=1)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 2) == pytest.approx(20 * 4)
    # the spread seen from the other side, in n×n: the singular values of one's items in terms of the other's
    inner = (x - x.mean(0)) @ (y - y.mean(0)).T / (count - 1)
    spread = x.var(0, ddof=1).sum() + y.var(0, ddof=1).sum() - 2 * np.linalg.svd(inner, compute_uv=False).sum()
    assert frechet_distance(x, y) == pytest.approx(np.square(x.mean(0) - y.mean(0)).sum() + spread)


def test_frechet_of_constants():
    assert frechet_distance(np.zeros((9, 3)), np.ones((5, 3))) == 3
    assert frechet_distance(np.zeros((9, 3)), np.zeros((5, 3))) == 0


def test_extrapolation_removes_the_bias():
    random = np.random.default_rng(0)
    draw = lambda spread: spread * random.standard_normal((400, 16))  # noqa: E731
    wide, narrow = np.linspace(0.5, 1.5, 16), np.linspace(1.5, 0.5, 16)
    truth = np.square(wide - narrow).sum()
    for one, two, expected in ((wide, wide, 0.0), (wide, narrow, truth)):
        pairs = [(draw(one), draw(two)) for _ in range(60)]
        plain = np.array([frechet_distance(*pair) for pair in pairs]) - expected
        infinite = np.array([frechet_infinity(*pair) for pair in pairs]) - expected
        error = infinite.std() / math.sqrt(len(pairs))
        assert plain.mean() > 8 * error
        assert abs(infinite.mean()) < 3 * error + 0.02 * plain.mean()


def test_extrapolation_of_unequal_counts():
    values = [frechet_infinity(normal(200, 8, seed), normal(700, 8, 1000 + seed)) for seed in range(60)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(60) + 0.005


def test_extrapolation_depends_on_the_seed_alone():
    x, y = normal(100, 4), normal(100, 4, seed=1)
    assert frechet_infinity(x, y, 3) == frechet_infinity(x, y, 3) != frechet_infinity(x, y, 4)


@pytest.mark.parametrize("shift, least, most", [(0.5, 0.90, 0.99), (0.0, 0.90, 1.0)])
def test_frechet_interval_covers_the_truth(shift, least, most):
    """Without recentring it does not; where the truth is 0 it is cautious."""
    random = np.random.default_rng(0)
    held = plain = 0
    for seed in range(200):
        x, y = random.standard_normal((100, 3)) + shift, random.standard_normal((100, 3))
        found = bootstrap(lambda i, j: frechet_distance(x[i], y[j]), 100, 100, rounds=50, seed=seed)  # noqa: B023
        low, high = interval(recentred(found, frechet_infinity(x, y)))
        held += low <= 3 * shift**2 <= high
        low, high = interval(found)
        plain += low <= 3 * shift**2 <= high
    assert least <= held / 200 <= most
    assert plain < held


def test_interval_of_equal_distributions_holds_zero():
    x, y = normal(300, 8), normal(300, 8, seed=1)
    found = bootstrap(lambda i, j: frechet_infinity(x[i], y[j]), 300, 300, rounds=100)
    low, high = interval(recentred(found, frechet_infinity(x, y)))
    assert low < 0 < high < frechet_distance(x, y)


# Kernel distance


def kernel(a: np.ndarray, b: np.ndarray) -> float:
    return float((a @ b / len(a) + 1) ** 3)


def kid(x: np.ndarray, y: np.ndarray) -> float:
    none = np.empty((0, 0), int)
    return float(kernel_distances([x], y, none, none)[0, 0])


def kid_by_loops(x: np.ndarray, y: np.ndarray) -> float:
    """Bińkowski et al. 2018 / Gretton et al. 2012, eq. 3, term by term."""
    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def kid_of_gaussians(mean: float, spread: float, width: int) -> float:
    """Exact, of N(mean, spread²) in every dimension against N(0, 1): the kernel is a polynomial in the moments."""
    one = [1, mean, mean**2 + spread**2, mean**3 + 3 * mean * spread**2]
    two = [1, 0, 1, 0]
    total = 0.0
    for powers in itertools.product(range(4), repeat=width):
        if (degree := sum(powers)) <= 3:
            times = math.factorial(3) / math.factorial(3 - degree) / math.prod(map(math.factorial, powers))
            gap = math.prod(one[p] for p in powers) - math.prod(two[p] for p in powers)
            total += times / width**degree * gap**2
    return total


@pytest.mark.parametrize("n, m, width", [(2, 2, 1), (7, 12, 3), (15, 15, 5)])
def test_kid_equals_the_loops(n, m, width):
    x, y = normal(n, width), normal(m, width, seed=1) + 0.5
    assert kid(x, y) == pytest.approx(kid_by_loops(x, y), rel=1e-10)


def test_kid_equals_torchmetrics():
    x, y = normal(40), normal(40, seed=1) + 0.5
    assert kid(x, y) == pytest.approx(float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y))), rel=1e-10)


@pytest.mark.parametrize("mean, spread", [(0.0, 1.0), (0.5, 1.0), (0.0, 1.5)])
def test_kid_is_unbiased(mean, spread):
    random = np.random.default_rng(0)
    draws = [kid(mean + spread * random.standard_normal((30, 3)), random.standard_normal((30, 3))) for _ in range(400)]
    assert abs(np.mean(draws) - kid_of_gaussians(mean, spread, 3)) < 3 * np.std(draws) / 20


def test_weights_are_repetitions_whose_own_copies_do_not_meet():
    x, y = normal(6, 3), normal(8, 3, seed=1) + 1
    index, other = resample(6, 8, rounds=3, seed=2)
    first, *found = kernel_distances([x], y, index, other)[:, 0]
    assert first == pytest.approx(kid(x, y))

    def within(items: np.ndarray, drawn: np.ndarray) -> float:
        pairs = [(a, b) for a in drawn for b in drawn if a != b]
        return sum(kernel(items[a], items[b]) for a, b in pairs) / len(pairs)

    for value, i, j in zip(found, index, other, strict=True):
        between = np.mean([kernel(a, b) for a in x[i] for b in y[j]])
        assert value == pytest.approx(within(x, i) + within(y, j) - 2 * between)
    both = kernel_distances([x, x + 1], y, np.tile(np.arange(6), (2, 1)), np.tile(np.arange(8), (2, 1)))
    assert both == pytest.approx(np.tile([kid(x, y), kid(x + 1, y)], (3, 1)))


@pytest.mark.parametrize("shift, least, most", [(0.4, 0.90, 0.99), (0.0, 0.95, 1.0)])
def test_kid_interval_covers_the_truth(shift, least, most):
    """Where both distributions are the same it is cautious."""
    random = np.random.default_rng(1)
    truth = kid_of_gaussians(shift, 1, 3)
    held = 0
    for seed in range(200):
        x, y = random.standard_normal((100, 3)) + shift, random.standard_normal((100, 3))
        index, other = resample(100, 100, rounds=200, seed=seed)
        low, high = interval(kernel_distances([x], y, index, other)[1:, 0])
        held += low <= truth <= high
    assert least <= held / 200 <= most


@pytest.mark.parametrize("distance", [frechet_distance, kid])
def test_order_does_not_matter(distance):
    x, y = normal(40), normal(50, seed=1) + 0.3
    order = np.random.default_rng(0).permutation(40)
    assert distance(x[order], y[::-1]) == pytest.approx(distance(x, y), rel=1e-9)
    assert distance(y, x) == pytest.approx(distance(x, y), rel=1e-9)


# Density and coverage


@pytest.mark.parametrize("k", [1, 3, 5])
def test_density_and_coverage_equal_the_loops(k):
    generated, real = normal(30, 3) * 1.2, normal(40, 3, seed=1)
    radii = np.sort(cdist(real, real), axis=1)[:, k]
    inside = cdist(generated, real) < radii
    density, covered = density_coverage(generated, real, k)
    np.testing.assert_allclose(density, inside.sum(axis=1) / k)
    np.testing.assert_array_equal(covered, inside.any(axis=0))


def test_density_and_coverage_where_they_agree():
    """The expected values of Naeem et al. 2020: 1, and 1 − Π (N−1−j)/(2N−1−j) over the k nearest."""
    density, covered = density_coverage(normal(1500, 4), normal(1500, 4, seed=1))
    expected = 1 - math.prod((1500 - 1 - j) / (2 * 1500 - 1 - j) for j in range(5))
    assert density.mean() == pytest.approx(1, abs=0.1)
    assert covered.mean() == pytest.approx(expected, abs=0.02)


def test_lost_mode_costs_coverage_and_strangers_have_no_density():
    real = np.concatenate([normal(200, 3), 20 + normal(200, 3, seed=1)])
    one_mode = normal(400, 3, seed=2)
    assert density_coverage(one_mode, real)[1].mean() < 0.55
    density, covered = density_coverage(100 + one_mode, real)
    assert density.max() == 0 and not covered.any()


def test_density_and_coverage_of_equal_and_of_constant_items():
    x = normal(20, 3)
    assert density_coverage(x, x)[1].all()
    assert density_coverage(np.full((8, 3), 0.1), np.full((9, 3), 0.1))[1].all()


# Two-sample test


def test_two_sample_test_of_one_distribution_is_chance():
    found = [two_sample_accuracy(normal(300, 8, seed), normal(300, 8, seed + 100), seed=seed) for seed in range(8)]
    assert found[0].shape == (600,) and found[0].dtype == bool
    assert np.mean(found) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("change", ["mean", "spread", "correlation"])
def test_two_sample_test_sees(change):
    x, y = normal(300, 8), normal(300, 8, seed=1)
    if change == "mean":
        y = y + 1.5
    elif change == "spread":
        y = 3 * y
    else:
        y[:, 4:] = y[:, :4] + 0.1 * y[:, 4:]
    assert two_sample_accuracy(x, y).mean() > 0.9


def test_two_sample_interval_covers_chance():
    """Which an interval that takes all items for independent does not, 95 times in 100."""
    random = np.random.default_rng(0)
    held = 0
    for seed in range(120):
        right = two_sample_accuracy(random.standard_normal((60, 3)), random.standard_normal((60, 3)), 3, seed)
        low, high = two_sample_interval(right)
        held += low <= 0.5 <= high
    assert 0.9 <= held / 120 <= 1


def test_two_sample_test_of_equal_and_of_constant_items_is_not_above_chance():
    assert two_sample_accuracy(normal(50), normal(50)).mean() <= 0.5
    assert two_sample_accuracy(np.ones((50, 3)), np.ones((50, 3))).mean() == 0.5


# Diversity and memory


@pytest.mark.parametrize("count, width", [(30, 5), (5, 30), (1, 4)])
def test_vendi_equals_the_similarity_matrix(count, width):
    x = normal(count, width) + 0.3
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(unit @ unit.T / count)
    eigenvalues = eigenvalues[eigenvalues > 1e-12]
    assert vendi(x) == pytest.approx(np.exp(-(eigenvalues * np.log(eigenvalues)).sum()))


def test_vendi_counts_different_items():
    assert vendi(np.ones((9, 4))) == pytest.approx(1)
    assert vendi(np.tile(np.eye(6), (5, 1))) == pytest.approx(6)
    assert vendi(np.tile(np.eye(6), (5, 1)) * 7) == pytest.approx(6)


def test_class_variance_is_that_within_classes():
    labels = np.arange(3000) % 3
    x = normal(3000, 4) * np.array([1, 2, 3, 4]) + 100 * labels[:, None]
    assert class_variance(x, labels) == pytest.approx(30, rel=0.05)
    by_hand = np.mean([np.trace(np.cov(x[labels == label], rowvar=False)) for label in range(3)])
    assert class_variance(x, labels) == pytest.approx(by_hand)
    assert class_variance(np.ones((6, 2)), np.arange(6) % 3) == 0


def test_nearest_distance_equals_the_loops_and_is_zero_for_a_copy():
    x, training = normal(30, 5), 1000 + normal(50, 5, seed=1)
    np.testing.assert_allclose(nearest_distances(x, training), cdist(x, training).min(axis=1), rtol=1e-9)
    assert (nearest_distances(training[:7], training) == 0).all()


def test_new_items_are_memorised_as_often_as_the_quantile_says():
    training, held_out = normal(500, 4), normal(2000, 4, seed=1)
    flags, threshold = memorised(normal(4000, 4, seed=2), training, held_out, 0.05)
    assert flags.shape == (4000,) and flags.mean() == pytest.approx(0.05, abs=0.02)
    assert (nearest_distances(held_out, training) < threshold).mean() == pytest.approx(0.05, abs=0.001)


def test_copies_are_found():
    training, held_out = normal(500, 8), normal(200, 8, seed=1)
    generated = np.concatenate([training[:30] + 0.01, normal(70, 8, seed=2)])
    flags, _ = memorised(generated, training, held_out)
    assert flags[:30].all() and flags[30:].mean() < 0.1


# What cannot be measured


@pytest.mark.parametrize("measure", [frechet_distance, frechet_infinity, kid, density_coverage, two_sample_accuracy])
def test_unusable_features_are_named(measure):
    good = normal(60)
    with pytest.raises(ValueError, match="NaN"):
        measure(np.where(good > 2, np.nan, good), good)
    with pytest.raises(ValueError, match="2D array"):
        measure(good[:, 0], good)
    with pytest.raises(ValueError, match="width"):
        measure(good[:, :3], good)
    with pytest.raises(ValueError, match="minimum of"):
        measure(good[:0], good)


def test_too_few_items_are_named():
    x = normal(40)
    with pytest.raises(ValueError, match="minimum of 48"):
        frechet_infinity(x, x)
    with pytest.raises(ValueError, match="minimum of 2"):
        kid(x[:1], x)
    with pytest.raises(ValueError, match="k must be from 1 to 39"):
        density_coverage(x, x, k=40)
    with pytest.raises(ValueError, match="equally many"):
        two_sample_accuracy(x, x[:30])
    with pytest.raises(ValueError, match="minimum of 5"):
        two_sample_accuracy(x[:4], x[:4])
    with pytest.raises(ValueError, match="class 7 has a single item"):
        class_variance(x, np.array([7] + [1] * 39))
    with pytest.raises(ValueError, match="inconsistent"):
        class_variance(x, np.zeros(39))
    with pytest.raises(ValueError, match="zeros"):
        vendi(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="too few"):
        memorised(x, x, x, 0.01)
