"""Intervals that hold the truth as often as they say."""

import numpy as np
import pytest
from scipy import stats

from compress.evaluation.statistics import bootstrap_mean, wilson


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
