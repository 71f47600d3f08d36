"""Whole trajectories on every kind of level, against diffusers' schedulers and closed forms."""

import itertools
import math

import diffusers
import numpy as np
import pytest
import torch

from compress.diffusion.levels import Between, Edm, Flow
from compress.diffusion.prediction import add_noise, clean_coefficients, score_shift, target
from compress.diffusion.sampling import Sampling
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.runtime.sampling import solve
from tests.conftest import assert_close_db

KINDS = ["epsilon", "v_prediction", "sample"]
FLOW, EULER, DPM, UNIPC = (
    f"{name}Scheduler" for name in ("FlowMatchEulerDiscrete", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep")
)


def fake_model(sample, timestep):
    """Nonlinear in the sample and in time; takes numpy and torch."""
    return (0.8 * sample + math.cos(timestep / 150)) / (1 + 0.2 * sample * sample)


def noise() -> torch.Tensor:
    return torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def sampling_for(name: str, steps: int, **config) -> Sampling:
    return from_scheduler_config({"_class_name": name, **config}, SamplingOptions(steps=steps))


def compare(name: str, steps: int, least: float = 90, **config) -> None:
    """Our table against diffusers' steps, from one state; the net sees the same sample and number."""
    sampling = sampling_for(name, steps, **config)
    scheduler = getattr(diffusers, name)(**config)
    if hasattr(scheduler, "alphas_cumprod"):  # rounded to float32; test_schedules.py holds them to ours
        torch.testing.assert_close(sampling.alphas_cumprod, scheduler.alphas_cumprod.double(), atol=2e-6, rtol=2e-4)
        scheduler.alphas_cumprod = sampling.alphas_cumprod
    scheduler.set_timesteps(steps)
    seen, asked = [], []
    sample = noise()
    scheduler.set_begin_index(0)  # else it looks for the first timestep, which may be there twice
    scales = name != FLOW and ("Euler" in name or "EDM" in name)
    for place, timestep in enumerate(scheduler.timesteps):
        if scales and not place:  # from diffusers' coordinates to those that the net sees
            sample = sample / scheduler.scale_model_input(torch.ones((), dtype=torch.float64), timestep)
        scaled = scheduler.scale_model_input(sample, timestep) if scales else sample
        seen.append(float(timestep))
        sample = scheduler.step(fake_model(scaled, float(timestep)), timestep, sample).prev_sample

    def model(sample, timestep):
        asked.append(timestep)
        return fake_model(sample, timestep)

    found = solve(model, noise(), sampling.steps(), sampling.clip_range)
    assert np.isfinite(found.numpy()).all()
    np.testing.assert_allclose(asked, seen, rtol=2e-4, atol=2e-4)
    assert_close_db(sample.numpy(), found.numpy(), least)


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5, 12.0])
@pytest.mark.parametrize("steps", [1, 2, 4, 7, 28])
def test_flow_matching_equals_diffusers(steps, shift):
    compare(FLOW, steps, shift=shift)


def test_flow_matching_of_another_length_equals_diffusers():
    compare(FLOW, 5, shift=3.0, num_train_timesteps=200)


@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", KINDS)
def test_euler_equals_diffusers(kind, spacing, karras):
    config = {"prediction_type": kind, "timestep_spacing": spacing, "use_karras_sigmas": karras}
    for steps in (3, 10, 25):
        compare(EULER, steps, **config)


@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("schedule", ["scaled_linear", "squaredcos_cap_v2"])
def test_euler_on_other_schedules_equals_diffusers(schedule, karras):
    config = {"beta_schedule": schedule, "prediction_type": "v_prediction", "use_karras_sigmas": karras}
    compare(EULER, 10, least=80, **config)  # diffusers' σ/α is large, and float32
    compare(EULER, 10, least=80, final_sigmas_type="sigma_min", timestep_spacing="leading", steps_offset=1, **config)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [DPM, UNIPC])
def test_multistep_solvers_by_karras_equal_diffusers(name, kind, schedule):
    config = {"prediction_type": kind, "beta_schedule": schedule, "use_karras_sigmas": True}
    if name == DPM and schedule == "squaredcos_cap_v2":
        with pytest.raises(ValueError, match="use_karras_sigmas: true is not supported with this beta_schedule"):
            sampling_for(name, 5, **config)
        return
    for steps in (2, 5, 14, 15, 30):
        compare(name, steps, **config)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 20])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", KINDS)
def test_unipc_equals_diffusers(kind, spacing, steps):
    compare(UNIPC, steps, prediction_type=kind, timestep_spacing=spacing)


def test_unipc_down_to_the_smallest_noise_equals_diffusers():
    for steps in (1, 2, 8, 20):
        compare(UNIPC, steps, final_sigmas_type="sigma_min", prediction_type="v_prediction")


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_edm_equals_diffusers(name, kind):
    for steps, data in itertools.product((1, 2, 10, 20), (0.5, 1.0, 2.0)):
        compare(name, steps, prediction_type=kind, sigma_data=data)
    compare(name, 12, prediction_type=kind, sigma_min=0.01, sigma_max=20.0)


@pytest.mark.parametrize("name, config", [(FLOW, {"shift": 3.0}), ("EDMEulerScheduler", {})])
def test_timesteps_of_training_equal_diffusers(name, config):
    scheduler = getattr(diffusers, name)(num_train_timesteps=50, **config)
    wanted = scheduler.timesteps.flip(0).numpy()
    found = sampling_for(name, 4, num_train_timesteps=50, **config).training.numpy()
    if name == FLOW:
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    else:  # diffusers has one more, between the same ends
        np.testing.assert_allclose([found[0], found[-1], len(found)], [wanted[0], wanted[-1], 50], rtol=1e-5)


def test_noising_of_flow_matching_equals_diffusers():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    sampling = sampling_for(FLOW, 4, shift=3.0)
    clean, drawn = torch.randn(2, 6, 3, 7, generator=torch.Generator().manual_seed(1)).unbind()
    timestep = scheduler.timesteps[[0, 1, 300, 700, 998, 999]]
    alpha, sigma = sampling.alpha_sigma(timestep, clean)
    assert alpha.shape == (6, 1, 1) and alpha.dtype == torch.float32
    torch.testing.assert_close(add_noise(clean, drawn, alpha, sigma), scheduler.scale_noise(clean, timestep, drawn))


def test_what_edm_takes_and_gives_has_unit_variance():
    """On data of deviation d: what the network is given and what it should give (Karras et al. 2022, appendix B.6)."""
    random = torch.Generator().manual_seed(2)
    for data, kind in itertools.product((0.5, 2.0), ("edm", "v_prediction")):
        clean = data * torch.randn(400_000, generator=random)
        drawn = torch.randn(400_000, generator=random)
        sampling = Sampling(schedule=Edm(sigma_data=data), timesteps=(0.5, -1.0))
        for timestep in (-1.5, 0.0, 1.0):
            alpha, sigma = (float(level) for level in sampling.level(torch.tensor(timestep)))
            mixed = add_noise(clean, drawn, alpha, sigma)
            wanted = target(kind, clean, drawn, alpha, sigma, data)
            assert abs(mixed.std() - 1) < 0.01 and abs(wanted.std() - 1) < 0.01
            assert abs((mixed * wanted).mean()) < 0.01  # so the net need not copy its input


LEVELS = {
    "epsilon": [(0.6, 0.8), (1.0, 3.0), (0.2, 0.1)],
    "sample": [(0.6, 0.8), (0.0, 1.0)],
    "v_prediction": [(0.6, 0.8), (0.0, 1.0)],
    "flow_prediction": [(0.6, 0.4), (0.0, 1.0), (0.5, 3.0)],
}


@pytest.mark.parametrize("kind, levels", LEVELS.items())
def test_clean_sample_follows_from_the_target_on_any_level(kind, levels):
    for alpha, sigma in levels:
        from_sample, from_output = clean_coefficients(kind, alpha, sigma)
        output = target(kind, 0.3, -1.7, alpha, sigma)
        assert from_sample * add_noise(0.3, -1.7, alpha, sigma) + from_output * output == pytest.approx(0.3, abs=1e-12)


@pytest.mark.parametrize("kind", [*LEVELS, "edm"])
def test_a_change_of_the_score_is_a_change_of_the_clean_sample(kind):
    """x̂_0 = (x + σ²·∇ log p)/α (Tweedie), on the level of every kind."""
    alpha, sigma, data = {"flow_prediction": (0.6, 0.4, 1.0), "edm": (1.2, 0.8, 0.5)}.get(kind, (0.6, 0.8, 1.0))
    change = clean_coefficients(kind, alpha, sigma, data)[1] * score_shift(kind, 0.7, alpha, sigma, data)
    assert change == pytest.approx(sigma**2 / alpha * 0.7)


@pytest.mark.parametrize(
    "name, config, schedule, dtype",
    [
        (FLOW, {"shift": 2.0}, Flow(shift=2.0), torch.float32),
        ("EDMEulerScheduler", {"sigma_max": 20.0}, Edm(sigma_max=20.0), torch.float32),
        (EULER, {}, Between(), torch.float32),
        (EULER, {"timestep_spacing": "leading"}, None, torch.int64),
        (UNIPC, {"use_karras_sigmas": True}, Between(interpolation="log", whole=True), torch.int64),
    ],
)
def test_json_keeps_the_schedule_and_what_the_net_is_told(name, config, schedule, dtype):
    sampling = sampling_for(name, 7, **config)
    again = Sampling.model_validate_json(sampling.model_dump_json())
    assert again == sampling and again.steps() == sampling.steps()
    assert sampling.schedule == schedule and sampling.dtype == dtype
    assert ("schedule" in sampling.model_dump()) == (schedule is not None)
    told = sampling.told(torch.tensor(sampling.timesteps))
    assert told.dtype == dtype and told.tolist() == pytest.approx([step.timestep for step in sampling.steps()])
    for timestep, step in zip(sampling.timesteps, sampling.steps(), strict=True):
        low, high = sampling.told_at(step.timestep).tolist()
        assert low <= timestep <= high and high - low <= 1


@pytest.mark.parametrize(
    "name, config, message",
    [
        (FLOW, {"use_dynamic_shifting": True}, "use_dynamic_shifting: true is not supported with FlowMatch"),
        (FLOW, {"shift_terminal": 0.1}, "shift_terminal: 0.1 is not supported"),
        (FLOW, {"invert_sigmas": True}, "invert_sigmas: true is not supported"),
        (FLOW, {"use_karras_sigmas": True}, "use_karras_sigmas: true is not supported with FlowMatch"),
        (FLOW, {"shift": 0.0}, "shift: should be greater than 0"),
        (
            FLOW,
            {"prediction_type": "epsilon"},
            "epsilon is not supported .* set it to flow_prediction",
        ),
        (EULER, {"prediction_type": "flow_prediction"}, "prediction_type: flow_prediction is not supported"),
        (EULER, {"timestep_type": "continuous"}, "timestep_type: 'continuous' is not supported"),
        (EULER, {"interpolation_type": "log_linear"}, "interpolation_type: 'log_linear' is not supported"),
        (EULER, {"sigma_max": 10.0}, "sigma_max: 10.0 is not supported .* set it to null"),
        (UNIPC, {"disable_corrector": [0]}, r"disable_corrector: \[0\] is not supported"),
        (UNIPC, {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}, "with this final_sigmas_type"),
        (DPM, {"use_karras_sigmas": True, "rescale_betas_zero_snr": True, "prediction_type": "sample"}, "zero_snr"),
        ("DDIMScheduler", {"use_karras_sigmas": True}, "use_karras_sigmas: true is not supported with DDIMScheduler"),
        ("EDMEulerScheduler", {"sigma_min": 90.0}, r"sigma_min: should be below sigma_max, 80.0; got 90.0"),
        ("EDMEulerScheduler", {"prediction_type": "sample"}, "set it to epsilon or v_prediction"),
        ("EDMEulerScheduler", {"sigma_schedule": "exponential"}, "sigma_schedule: 'exponential' is not supported"),
        ("EDMEulerScheduler", {"final_sigmas_type": "sigma_min"}, "final_sigmas_type: sigma_min is not supported"),
    ],
)
def test_what_is_not_reproduced_is_refused(name, config, message):
    with pytest.raises(ValueError, match=message):
        sampling_for(name, 5, **config)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"timesteps": (10, 5.5)}, "timesteps should be whole numbers"),
        ({"timesteps": (1000.5, 5.0), "schedule": Flow()}, "timesteps should lie in 0…1000"),
        ({"timesteps": (999.5,), "schedule": Between()}, "timesteps should lie in 0…999"),
        ({"timesteps": (500.0, 0.0), "schedule": Flow(), "prediction_type": "flow_prediction"}, "cannot be drawn"),
    ],
)
def test_timesteps_that_no_schedule_has_are_refused(content, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**content)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc"])
def test_every_solver_follows_the_flow_of_a_gaussian(solver):
    """Of data N(0.3, 0.5²) the velocity is known, and so is where it carries the noise; from pure noise on, α = 0."""

    def velocity(sample, timestep):
        alpha, sigma = 1 - timestep / 1000, timestep / 1000
        clean = 0.3 + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * (sample - alpha * 0.3)
        return (sample - clean) / sigma

    errors = []
    for steps in (20, 200):
        sampling = from_scheduler_config({"_class_name": FLOW}, SamplingOptions(steps=steps, solver=solver))
        assert sampling.levels()[0][0] == 0
        found = solve(velocity, noise(), sampling.steps())
        errors.append(float((found - (0.3 + 0.5 * noise())).abs().max()))
    assert errors[0] < 0.15 and errors[1] < errors[0] / 8
