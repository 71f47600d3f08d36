"""Ranges from histograms, on distributions whose right range is known."""

import numpy as np
import pytest
import torch

from compress.models.histograms import LEVELS, entropy, percentile


def counts(values: np.ndarray, bins: int = 2048) -> tuple[torch.Tensor, float, float]:
    found, edges = np.histogram(values, bins)
    return torch.from_numpy(found).float(), float(edges[0]), float(edges[-1])


@pytest.mark.parametrize("share", [1e-3, 1e-2, 0.1])
def test_percentile_is_that_of_the_values(share: float) -> None:
    values = np.random.default_rng(0).gamma(2.0, size=200_000)
    given = counts(values)
    width = (given[2] - given[1]) / 2048
    low, high = percentile(*given, share)
    assert abs(low - np.quantile(values, share)) <= width
    assert abs(high - np.quantile(values, 1 - share)) <= width


def test_percentile_of_one_value_keeps_it() -> None:
    given = torch.zeros(16)
    given[5] = 100
    low, high = percentile(given, 0.0, 16.0)
    assert (low, high) == (5.0, 6.0)


def test_entropy_clips_rare_far_values_and_nothing_else() -> None:
    random = np.random.default_rng(0)
    even = random.uniform(-1, 1, 500_000)
    low, high = entropy(*counts(even))
    assert low < -0.99 and high > 0.99
    low, high = entropy(*counts(np.concatenate([random.normal(size=500_000), [-60.0, 80.0]])))
    assert -8 < low < -3 and 3 < high < 8


def test_few_distinct_values_are_all_kept() -> None:
    values = np.repeat(np.linspace(0, 1, LEVELS), 50)
    low, high = entropy(*counts(values))
    assert low <= 0.01 and high >= 0.99


def test_empty_histogram_gives_a_range() -> None:
    assert percentile(torch.zeros(8), -1.0, 1.0)[1] > -1.0
