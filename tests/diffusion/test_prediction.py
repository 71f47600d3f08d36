"""What a model predicts and how one follows from another."""

import math

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.diffusion.prediction import add_noise, clean_coefficients, target
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config

KINDS = ["epsilon", "v_prediction", "sample"]
values = st.floats(-5, 5, allow_subnormal=False)
# angle of (α, σ) = (cos, sin); ε-prediction loses precision as 1/α
angles = st.floats(0.001, math.pi / 2 - 0.01)
quick = settings(max_examples=80, deadline=None, derandomize=True)


def tensor(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


@quick
@given(st.sampled_from(KINDS), values, values, angles)
def test_clean_sample_is_recovered_from_the_target(kind, clean, noise, angle):
    alpha, sigma = math.cos(angle), math.sin(angle)
    args = tensor(clean), tensor(noise), tensor(alpha), tensor(sigma)
    from_sample, from_output = clean_coefficients(kind, alpha, sigma)
    found = from_sample * add_noise(*args) + from_output * target(kind, *args)
    assert math.isclose(found.item(), clean, abs_tol=1e-10)


@quick
@given(values, values, angles)
def test_all_predictions_name_the_same_clean_sample(sample, clean, angle):
    alpha, sigma = math.cos(angle), math.sin(angle)
    noise = (sample - alpha * clean) / sigma
    outputs = {kind: target(kind, *map(tensor, (clean, noise, alpha, sigma))).item() for kind in KINDS}
    for kind in KINDS:
        from_sample, from_output = clean_coefficients(kind, alpha, sigma)
        assert math.isclose(from_sample * sample + from_output * outputs[kind], clean, rel_tol=1e-8, abs_tol=1e-8)


@quick
@given(values, values, angles)
def test_noise_and_velocity_rotate_back_to_the_noise(clean, noise, angle):
    alpha, sigma = math.cos(angle), math.sin(angle)
    args = tensor(clean), tensor(noise), tensor(alpha), tensor(sigma)
    found = sigma * add_noise(*args) + alpha * target("v_prediction", *args)
    assert math.isclose(found.item(), noise, abs_tol=1e-12)


@quick
@given(values, values, angles)
def test_sample_and_velocity_keep_the_length(clean, noise, angle):
    args = tensor(clean), tensor(noise), tensor(math.cos(angle)), tensor(math.sin(angle))
    length = math.hypot(add_noise(*args).item(), target("v_prediction", *args).item())
    assert math.isclose(length, math.hypot(clean, noise), abs_tol=1e-12)


def test_pure_noise_has_no_epsilon_estimate():
    with pytest.raises(ZeroDivisionError):
        clean_coefficients("epsilon", 0.0, 1.0)
    assert clean_coefficients("v_prediction", 0.0, 1.0) == (0.0, -1.0)
    assert clean_coefficients("sample", 0.0, 1.0) == (0.0, 1.0)


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(6, 2, 4, 4, generator=random) for _ in range(2))
    return clean, noise, torch.tensor([0, 1, 250, 500, 998, 999])


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noising_and_velocity_equal_diffusers(batch, kind, zero_snr):
    clean, noise, timestep = batch
    config = {"beta_schedule": kind, "rescale_betas_zero_snr": zero_snr, "prediction_type": "v_prediction"}
    oracle = DDIMScheduler(**config)
    sampling = from_scheduler_config({"_class_name": "DDIMScheduler", **config}, SamplingOptions(steps=5))
    alpha, sigma = sampling.alpha_sigma(timestep, clean)
    expected = oracle.add_noise(clean, noise, timestep)
    torch.testing.assert_close(add_noise(clean, noise, alpha, sigma), expected, atol=1e-4, rtol=1e-4)
    expected = oracle.get_velocity(clean, noise, timestep)
    torch.testing.assert_close(target("v_prediction", clean, noise, alpha, sigma), expected, atol=1e-4, rtol=1e-4)


def test_epsilon_and_sample_targets_are_noise_and_clean(batch):
    clean, noise, _ = batch
    half = torch.full((6, 1, 1, 1), 0.5**0.5)
    assert torch.equal(target("epsilon", clean, noise, half, half), noise)
    assert torch.equal(target("sample", clean, noise, half, half), clean)
