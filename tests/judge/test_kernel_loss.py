"""Shipped kernels held to simulated ones."""

import numpy as np
import pytest

from compress.judge.probe import kernel_loss

RANDOM = np.random.default_rng(0)
WHOLE = RANDOM.standard_normal((4, 30, 1, 8, 8))


def with_noise(scale: float, seed: int) -> np.ndarray:
    return WHOLE + scale * np.random.default_rng(seed).standard_normal(WHOLE.shape)


@pytest.mark.parametrize(("factor", "loss"), [(1.0, 0.0), (2.0, 6.02), (0.5, -6.02)])
def test_loss_is_the_ratio_of_the_errors_in_db(factor: float, loss: float) -> None:
    figure = kernel_loss(WHOLE, with_noise(0.1, 1), with_noise(0.1 * factor, 2))
    assert figure.value == pytest.approx(loss, abs=0.2)
    assert figure.interval is not None and figure.interval[0] < figure.value < figure.interval[1]
    assert figure.resolved == (factor != 1)


def test_independent_roundings_of_one_size_are_no_loss() -> None:
    """The two differ from each other by 3 dB more than from the float model; that is not a fault."""
    simulated, shipped = with_noise(0.1, 1), with_noise(0.1, 2)
    assert np.square(simulated - shipped).sum() > 1.8 * np.square(simulated - WHOLE).sum()
    assert abs(kernel_loss(WHOLE, simulated, shipped).value) < 0.2


def test_exact_models_lose_nothing() -> None:
    assert kernel_loss(WHOLE, WHOLE, WHOLE).value == 0
