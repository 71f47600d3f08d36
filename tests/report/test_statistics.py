"""Intervals that hold the truth as often as they say."""

import numpy as np
import pytest
from scipy import stats

from compress.report.statistics import (
    bootstrap,
    bootstrap_mean,
    interval,
    recentred,
    resample,
    wilson,
)


@pytest.mark.parametrize(
    "successes, count", [(0, 1), (1, 1), (0, 10), (10, 10), (3, 10), (187, 200), (1, 1000), (500, 1000)]
)
def test_wilson_equals_scipy(successes, count):
    expected = stats.binomtest(successes, count).proportion_ci(method="wilson")
    assert wilson(successes, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize("count", [30, 100, 300])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.95])
def test_wilson_covers_the_true_share_95_times_in_100(share, count):
    intervals = [wilson(k, count) for k in range(count + 1)]
    held = [low <= share <= high for low, high in intervals]
    coverage = stats.binom.pmf(np.arange(count + 1), count, share)[held].sum()
    assert 0.9 <= coverage <= 0.98


def test_wilson_stays_within_zero_and_one():
    for count in (1, 7, 50):
        for k in range(count + 1):
            low, high = wilson(k, count)
            assert 0 <= low <= k / count + 1e-12 and k / count - 1e-12 <= high <= 1 and low < high


@pytest.mark.parametrize("draw, mean", [("standard_normal", 0), ("standard_exponential", 1), ("random", 0.5)])
def test_bootstrap_covers_the_true_mean_95_times_in_100(draw, mean):
    random = np.random.default_rng(1)
    intervals = [bootstrap_mean(getattr(random, draw)(60), seed=i, rounds=400) for i in range(400)]
    coverage = np.mean([low <= mean <= high for low, high in intervals])
    assert 0.9 <= coverage <= 0.98


def test_bootstrap_interval_has_the_width_of_the_standard_error():
    values = np.random.default_rng(0).standard_normal(400)
    low, high = bootstrap_mean(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_bootstrap_depends_on_the_seed_alone():
    values = np.random.default_rng(0).standard_normal(50)
    assert bootstrap_mean(values) == bootstrap_mean(values.copy())
    assert bootstrap_mean(values) != bootstrap_mean(values, seed=1)


def test_bootstrap_of_a_constant_is_a_point():
    assert bootstrap_mean(np.full(10, 3.5)) == (3.5, 3.5)


def test_groups_are_resampled_apart_and_repeatably():
    one, two = resample(50, 50, rounds=20, seed=3)
    assert one.shape == two.shape == (20, 50) and one.min() >= 0 and one.max() < 50
    assert not np.array_equal(one, two)
    again, longer = resample(50, 70, rounds=20, seed=3)
    assert np.array_equal(one, again) and longer.shape == (20, 70)
    assert not np.array_equal(one, resample(50, rounds=20, seed=4)[0])


def test_bootstrap_of_a_mean_is_bootstrap_mean():
    values = np.random.default_rng(0).standard_normal(40)
    found = bootstrap(lambda i: values[i].mean(), 40, rounds=300, seed=5)
    assert interval(found) == bootstrap_mean(values, seed=5, rounds=300)


def test_statistic_may_be_an_array():
    values = np.random.default_rng(0).standard_normal((40, 3))
    assert bootstrap(lambda i: values[i].mean(axis=0), 40, rounds=8).shape == (8, 3)


def test_pairs_share_an_index_and_their_common_noise_cancels():
    random = np.random.default_rng(0)
    common = random.standard_normal(100)
    student, teacher = common + 1, common
    low, high = interval(bootstrap(lambda i: student[i].mean() - teacher[i].mean(), 100, rounds=50))
    assert (low, high) == pytest.approx((1, 1))
    apart = interval(bootstrap(lambda i, j: student[i].mean() - teacher[j].mean(), 100, 100, rounds=50))
    assert apart[1] - apart[0] > 0.3


def test_difference_of_two_groups_is_covered_95_times_in_100():
    random = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        x, y = random.standard_normal(50) + 1, 2 * random.standard_normal(80)
        found = bootstrap(lambda i, j: x[i].mean() - y[j].mean(), 50, 80, rounds=200, seed=seed)  # noqa: B023
        low, high = interval(found)
        held += low <= 1 <= high
    assert 0.9 <= held / 200 <= 0.99


def test_recentring_keeps_the_spread():
    found = np.random.default_rng(0).standard_normal((50, 2)) + 7
    moved = recentred(found, np.array([1.0, 2.0]))
    np.testing.assert_allclose(moved.mean(axis=0), [1, 2])
    np.testing.assert_allclose(moved.std(axis=0), found.std(axis=0))


def test_what_cannot_be_resampled_is_an_error():
    with pytest.raises(ValueError, match="items"):
        resample(5, 0)
    with pytest.raises(ValueError, match="items"):
        bootstrap(lambda: 0.0)
    with pytest.raises(ValueError, match="finite"):
        interval(np.array([1, np.nan]))
