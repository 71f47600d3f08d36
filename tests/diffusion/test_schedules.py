"""Noise schedules and timesteps, with diffusers as the oracle."""

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from compress.diffusion import schedules
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config

BETA_SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"]
SPACINGS = ["leading", "trailing", "linspace"]
ORACLES = {"DDIMScheduler": DDIMScheduler, "DPMSolverMultistepScheduler": DPMSolverMultistepScheduler}


def sampling_for(name: str = "DDIMScheduler", steps: int = 5, **config):
    return from_scheduler_config({"_class_name": name, **config}, SamplingOptions(steps=steps))


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("kind", BETA_SCHEDULES)
@pytest.mark.parametrize("name", ORACLES)
def test_alphas_cumprod_equal_diffusers(name, kind, zero_snr):
    config = {"beta_schedule": kind, "rescale_betas_zero_snr": zero_snr, "prediction_type": "v_prediction"}
    expected = ORACLES[name](**config).alphas_cumprod.double()
    if zero_snr and name == "DPMSolverMultistepScheduler":
        assert expected[-1] == 2**-24  # diffusers' own nudge, which is not reproduced
        expected[-1] = 0
    found = sampling_for(name, **config).alphas_cumprod
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-4)


@pytest.mark.parametrize("start, end, count", [(1e-4, 0.02, 1000), (0.00085, 0.012, 1000), (0.001, 0.2, 100)])
@pytest.mark.parametrize("kind", ["linear", "scaled_linear"])
def test_beta_range_and_count_equal_diffusers(kind, start, end, count):
    config = {"beta_schedule": kind, "beta_start": start, "beta_end": end, "num_train_timesteps": count}
    expected = DDIMScheduler(**config).alphas_cumprod.double()
    torch.testing.assert_close(sampling_for(**config).alphas_cumprod, expected, atol=1e-6, rtol=1e-4)


def test_trained_betas_equal_diffusers():
    betas = list(np.random.default_rng(0).uniform(0.001, 0.03, 50))
    expected = DDIMScheduler(trained_betas=betas, num_train_timesteps=50).alphas_cumprod.double()
    found = sampling_for(trained_betas=betas, num_train_timesteps=50).alphas_cumprod
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", BETA_SCHEDULES)
def test_alphas_cumprod_decrease_within_zero_and_one(kind):
    cumulative = sampling_for(beta_schedule=kind).alphas_cumprod
    assert cumulative.dtype == torch.float64
    assert (cumulative.diff() < 0).all() and cumulative[-1] > 0 and cumulative[0] < 1


@pytest.mark.parametrize("kind", BETA_SCHEDULES)
def test_zero_snr_ends_at_zero_and_keeps_the_first(kind):
    plain = torch.cumprod(1 - schedules.betas(kind, 1000, 1e-4, 0.02), dim=0)
    rescaled = schedules.rescale_zero_terminal_snr(plain)
    assert rescaled[-1] == 0
    assert math.isclose(rescaled[0], plain[0], rel_tol=1e-12)
    assert (rescaled.diff() < 0).all()


def test_rescaling_leaves_its_argument_alone():
    plain = torch.cumprod(1 - schedules.betas("linear", 100, 1e-4, 0.02), dim=0)
    before = plain.clone()
    schedules.rescale_zero_terminal_snr(plain)
    assert torch.equal(plain, before)


def test_cosine_betas_are_capped():
    betas = schedules.betas("squaredcos_cap_v2", 1000, 1e-4, 0.02)
    assert betas.max() == 0.999 and (betas == 0.999).sum() == 1


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 10, 20, 33, 50, 64, 100, 250, 500])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", ORACLES)
def test_timesteps_equal_diffusers(name, spacing, steps, offset):
    oracle = ORACLES[name](timestep_spacing=spacing, steps_offset=offset)
    oracle.set_timesteps(steps)
    found = sampling_for(name, steps, timestep_spacing=spacing, steps_offset=offset).timesteps
    assert list(found) == oracle.timesteps.tolist()


@pytest.mark.parametrize("count", [100, 250, 1000])
@pytest.mark.parametrize("multistep", [False, True])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_step_count_gives_that_many_descending_timesteps_in_range(spacing, multistep, count):
    faulty = []
    for steps in range(1, count):
        found = schedules.timesteps(spacing, steps, count, 0, multistep)
        descending = all(a > b for a, b in itertools.pairwise(found))
        if len(found) != steps or not descending or found[-1] < 0 or found[0] >= count:
            faulty.append(steps)
    assert not faulty, f"{len(faulty)} step counts out of {count - 1}: {faulty[:8]}"


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", ORACLES)
def test_as_many_steps_as_timesteps_is_refused_or_sound(name, spacing, offset):
    config = {"num_train_timesteps": 50, "timestep_spacing": spacing, "steps_offset": offset}
    try:
        sampling = sampling_for(name, 50, **config)
    except ValueError:
        return
    assert sorted(set(sampling.timesteps), reverse=True) == list(sampling.timesteps)
    assert len(sampling.timesteps) == 50 and sampling.timesteps[-1] >= 0 and sampling.timesteps[0] < 50
    assert all(math.isfinite(value) for step in sampling.steps() for value in vars(step).values())
