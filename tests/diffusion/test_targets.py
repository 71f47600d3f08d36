"""Distillation targets against closed forms."""

import itertools
import math

import pytest
import torch

from compress.diffusion.prediction import add_noise, target
from compress.diffusion.sampling import Sampling
from compress.diffusion.targets import arrival, clean_sample, clean_target, spaced, truncated_snr

LEVELS = [(0.0, 1.0), (0.1, math.sqrt(0.99)), (0.6, 0.8), (0.9, math.sqrt(0.19))]


def level(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def gaussian(sample: torch.Tensor, alpha: float, sigma: float, mean: float, spread: float) -> torch.Tensor:
    """The exact denoiser of data N(mean, spread²): E[x_0 | x_t]."""
    gain = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
    return mean + gain * (sample - alpha * mean)


def flow(sample: torch.Tensor, at: tuple[float, float], to: tuple[float, float], mean: float, spread: float):
    """The exact solution of the probability-flow ODE for such data: it keeps the quantile."""
    deviation = [math.sqrt((alpha * spread) ** 2 + sigma**2) for alpha, sigma in (at, to)]
    return to[0] * mean + deviation[1] / deviation[0] * (sample - at[0] * mean)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS[1:])
def test_clean_sample_undoes_the_noise(kind: str, alpha: float, sigma: float) -> None:
    clean, noise = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64).unbind()
    sample = add_noise(clean, noise, level(alpha), level(sigma))
    output = target(kind, clean, noise, level(alpha), level(sigma))
    sampling = Sampling(prediction_type=kind, timesteps=(500,))
    torch.testing.assert_close(clean_sample(sampling, sample, output, level(alpha), level(sigma)), clean)


@pytest.mark.parametrize("at", LEVELS)
@pytest.mark.parametrize("to", [*LEVELS[1:], (1.0, 0.0)])
def test_target_is_the_inverse_of_a_step(at: tuple[float, float], to: tuple[float, float]) -> None:
    if to[1] >= at[1]:
        return
    clean, sample = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64).unbind()
    levels = [level(value) for value in (*at, *to)]
    torch.testing.assert_close(clean_target(arrival(clean, sample, *levels), sample, *levels), clean)


def test_target_of_two_steps_on_gaussian_data_is_what_arrives_there() -> None:
    """Progressive: from t by two exact denoisers' steps to s; one step with the target must land in the same place."""
    sample = torch.randn(1000, 1, 1, 1, dtype=torch.float64)
    begin, middle, end = LEVELS[0], LEVELS[1], LEVELS[2]
    arrived = sample
    for at, to in ((begin, middle), (middle, end)):
        clean = gaussian(arrived, *at, mean=0.3, spread=0.5)
        arrived = arrival(clean, arrived, *(level(value) for value in (*at, *to)))
    levels = [level(value) for value in (*begin, *end)]
    wanted = clean_target(arrived, sample, *levels)
    torch.testing.assert_close(arrival(wanted, sample, *levels), arrived)
    # by hand: at pure noise the first estimate is the mean, and the ratio of sigmas carries the sample on
    first = 0.1 * 0.3 + LEVELS[1][1] * sample
    second = gaussian(first, *middle, mean=0.3, spread=0.5)
    by_hand = 0.6 * second + 0.8 / LEVELS[1][1] * (first - 0.1 * second)
    torch.testing.assert_close(arrived, by_hand)


def test_many_steps_approach_the_exact_flow_and_its_target_the_exact_jump() -> None:
    sample = torch.randn(1000, 1, 1, 1, dtype=torch.float64)
    angles = torch.linspace(math.pi / 2, 0, 2001, dtype=torch.float64)
    path = [(math.cos(a), math.sin(a)) for a in angles.tolist()]
    arrived = sample
    for at, to in itertools.pairwise(path):
        arrived = arrival(gaussian(arrived, *at, mean=-0.2, spread=0.7), arrived, *(level(v) for v in (*at, *to)))
    exact = flow(sample, path[0], path[-1], mean=-0.2, spread=0.7)
    torch.testing.assert_close(arrived, exact, atol=2e-3, rtol=0)
    one = clean_target(arrived, sample, *(level(v) for v in (*path[0], *path[-1])))
    torch.testing.assert_close(one, arrived, atol=1e-6, rtol=0)  # one step to σ = 0 is the clean sample itself


def test_guided_gaussians_have_an_exact_guided_target() -> None:
    """Classes N(±1, 1) with an even mixture as the unconditional: guidance adds (s − 1) times the difference."""
    sample = torch.linspace(-3, 3, 50, dtype=torch.float64)
    alpha, sigma, scale = 0.6, 0.8, 3.0
    up, down = (gaussian(sample, alpha, sigma, mean, 1.0) for mean in (1.0, -1.0))
    odds = torch.sigmoid(2 * alpha * sample / (alpha**2 + sigma**2))
    mixture = odds * up + (1 - odds) * down
    from compress.runtime.sampling import classifier_free_guidance

    guided = classifier_free_guidance(up, mixture, scale)
    torch.testing.assert_close(guided, up + (scale - 1) * (1 - odds) * (up - down))


def test_weight_is_the_larger_of_the_errors_of_clean_and_noise() -> None:
    alpha, sigma = (torch.tensor(values) for values in zip(*LEVELS, strict=True))
    error = torch.tensor(0.1)
    of_noise = alpha / sigma * error  # ε̂ = (x − α·x̂_0)/σ
    torch.testing.assert_close(truncated_snr(alpha, sigma) * error**2, torch.maximum(error**2, of_noise**2))


@pytest.mark.parametrize("length", [4, 7, 20, 50])
def test_spacings_are_nested(length: int) -> None:
    for count in range(1, length // 2 + 1):
        coarse, fine = spaced(length, count), spaced(length, 2 * count)
        assert fine[::2] == coarse and coarse[0] == 0 and len(set(fine)) == 2 * count and max(fine) < length
