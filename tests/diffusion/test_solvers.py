"""Whole trajectories of `solve`, against diffusers' schedulers and closed forms."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from compress.diffusion import solvers
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.runtime.sampling import solve
from tests.conftest import assert_close_db

KINDS = ["epsilon", "v_prediction", "sample"]
SPACINGS = ["leading", "trailing", "linspace"]
ORACLES = {"DDIMScheduler": DDIMScheduler, "DPMSolverMultistepScheduler": DPMSolverMultistepScheduler}


def fake_model(sample, timestep):
    """Nonlinear in the sample and in time; takes numpy and torch."""
    return (0.8 * sample + math.cos(timestep / 150)) / (1 + 0.2 * sample * sample)


def noise(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_diffusers(scheduler, start: torch.Tensor, steps: int, model=fake_model, **options) -> np.ndarray:
    scheduler.set_timesteps(steps)
    sample = start
    for timestep in scheduler.timesteps:
        sample = scheduler.step(model(sample, int(timestep)), timestep, sample, **options).prev_sample
    return sample.numpy()


def sampling_for(name: str, steps: int, **config):
    return from_scheduler_config({"_class_name": name, **config}, SamplingOptions(steps=steps))


def ours(sampling, start: torch.Tensor, model=fake_model) -> np.ndarray:
    return solve(model, start, sampling.steps(), sampling.clip_range).numpy()


def compare(name: str, steps: int, least: float = 80, clipped: bool = False, **config) -> None:
    start = noise()
    options = {"use_clipped_model_output": True} if clipped else {}
    expected = by_diffusers(ORACLES[name](**config), start, steps, **options)
    assert np.isfinite(expected).all()
    assert_close_db(expected, ours(sampling_for(name, steps, **config), start), least)


# leading steps are equidistant for any count, trailing ones where the count divides 1000; elsewhere
# diffusers' DDIM steps to a level (t − 1000 // steps) that is not its next timestep
@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize(
    "spacing, steps", [("leading", 4), ("leading", 7), ("leading", 50), ("trailing", 4), ("trailing", 20)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_ddim_equals_diffusers(kind, spacing, steps, to_one):
    config = {"prediction_type": kind, "timestep_spacing": spacing, "set_alpha_to_one": to_one, "clip_sample": False}
    compare("DDIMScheduler", steps, **config)


@pytest.mark.parametrize("clip_range", [1.0, 0.4])
@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_clipped_ddim_equals_diffusers(kind, to_one, clip_range):
    config = {"prediction_type": kind, "set_alpha_to_one": to_one, "clip_sample": True, "clip_sample_range": clip_range}
    compare("DDIMScheduler", 10, clipped=True, **config)


def test_clipping_is_the_default_of_ddim_and_matters():
    sampling = sampling_for("DDIMScheduler", 10)
    assert sampling.clip_range == 1.0
    start = noise()
    expected = by_diffusers(DDIMScheduler(), start, 10, use_clipped_model_output=True)
    assert_close_db(expected, ours(sampling, start), 80)
    assert not np.allclose(expected, ours(sampling.model_copy(update={"clip_range": None}), start), atol=0.01)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_ddim_equals_diffusers_on_other_schedules(schedule, offset):
    config = {
        "beta_schedule": schedule,
        "steps_offset": offset,
        "prediction_type": "v_prediction",
        "clip_sample": False,
    }
    compare("DDIMScheduler", 10, **config)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_ddim_at_zero_terminal_snr_equals_diffusers(kind):
    config = {"prediction_type": kind, "timestep_spacing": "trailing", "clip_sample": False}
    compare("DDIMScheduler", 10, least=60, rescale_betas_zero_snr=True, beta_schedule="squaredcos_cap_v2", **config)


@pytest.mark.parametrize("spacing, steps", [("linspace", 6), ("trailing", 7)])
def test_ddim_goes_to_its_own_next_timestep(spacing, steps):
    config = {"timestep_spacing": spacing, "prediction_type": "v_prediction", "clip_sample": False}
    cumulative = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    oracle = DDIMScheduler(**config)
    oracle.set_timesteps(steps)
    times = oracle.timesteps.tolist()
    sample = noise().numpy()
    for now, after in zip(times, [*times[1:], None], strict=True):
        here, there = cumulative[now], 1.0 if after is None else cumulative[after]
        output = fake_model(sample, now)
        clean = here**0.5 * sample - (1 - here) ** 0.5 * output
        direction = here**0.5 * output + (1 - here) ** 0.5 * sample
        sample = there**0.5 * clean + (1 - there) ** 0.5 * direction
    assert_close_db(sample, ours(sampling_for("DDIMScheduler", steps, **config), noise()), 150)


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_dpmpp_2m_equals_diffusers(kind, spacing, steps):
    compare("DPMSolverMultistepScheduler", steps, prediction_type=kind, timestep_spacing=spacing)


@pytest.mark.parametrize("steps", [1, 2, 5, 14, 15, 20])
def test_dpmpp_2m_down_to_the_smallest_noise_equals_diffusers(steps):
    compare("DPMSolverMultistepScheduler", steps, final_sigmas_type="sigma_min", prediction_type="v_prediction")


@pytest.mark.parametrize("schedule", ["scaled_linear", "squaredcos_cap_v2"])
def test_dpmpp_2m_equals_diffusers_on_other_schedules(schedule):
    config = {"beta_schedule": schedule, "steps_offset": 1, "timestep_spacing": "leading"}
    compare("DPMSolverMultistepScheduler", 10, prediction_type="v_prediction", **config)


# diffusers replaces ᾱ = 0 by 2⁻²⁴, so that its second step extrapolates from pure noise a little
@pytest.mark.parametrize("steps, least", [(5, 40), (10, 60), (20, 60)])
def test_dpmpp_2m_at_zero_terminal_snr_is_near_diffusers(steps, least):
    config = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    compare("DPMSolverMultistepScheduler", steps, least=least, **config)


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_dpmpp_2m_with_diffusers_nudge_at_zero_terminal_snr_equals_diffusers(steps):
    config = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    sampling = sampling_for("DPMSolverMultistepScheduler", steps, **config)
    cumulative = sampling.alphas_cumprod[list(sampling.timesteps)].tolist()
    assert cumulative[0] == 0
    cumulative = [2**-24, *cumulative[1:], 1.0]
    alpha, sigma = [c**0.5 for c in cumulative], [(1 - c) ** 0.5 for c in cumulative]
    table = solvers.table("dpmpp_2m", "v_prediction", sampling.timesteps, alpha, sigma)
    expected = by_diffusers(DPMSolverMultistepScheduler(**config), noise(), steps)
    assert_close_db(expected, solve(fake_model, noise(), table).numpy(), 70)


def test_zero_terminal_snr_starts_at_first_order():
    config = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    steps = sampling_for("DPMSolverMultistepScheduler", 10, **config).steps()
    assert steps[0].next_from_previous == steps[1].next_from_previous == steps[-1].next_from_previous == 0
    assert all(step.next_from_previous < 0 for step in steps[2:-1])


@pytest.mark.parametrize("steps, setting", [(5, {"lower_order_final": False}), (20, {"euler_at_final": True})])
def test_order_of_the_last_step_equals_diffusers_or_is_refused(steps, setting):
    config = {"final_sigmas_type": "sigma_min", "prediction_type": "v_prediction", **setting}
    try:
        sampling_for("DPMSolverMultistepScheduler", steps, **config)
    except ValueError:
        return
    compare("DPMSolverMultistepScheduler", steps, **config)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("final", ["clean", "first"])
def test_constant_estimate_is_reached_exactly(solver, final):
    config = {"_class_name": "DDIMScheduler", "prediction_type": "sample", "clip_sample": False}
    sampling = from_scheduler_config(config, SamplingOptions(steps=20, solver=solver))
    sampling = sampling.model_copy(update={"final": final})
    found = ours(sampling, noise(), lambda sample, timestep: torch.full_like(sample, 0.7))
    alpha, sigma = (1, 0) if final == "clean" else ((1 - 1e-4) ** 0.5, 0.01)
    first = sampling.alphas_cumprod[sampling.timesteps[0]].item()
    direction = (noise().numpy() - first**0.5 * 0.7) / (1 - first) ** 0.5
    np.testing.assert_allclose(found, alpha * 0.7 + sigma * direction, atol=1e-9)


def gaussian(sampling, mean: float, spread: float) -> SimpleNamespace:
    """The exact denoiser of data N(mean, spread²) and where the probability flow takes the noise."""
    cumulative = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    if sampling.zero_terminal_snr:
        root = np.sqrt(cumulative)
        cumulative = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2

    def denoise(sample, timestep):
        alpha, sigma = cumulative[timestep] ** 0.5, (1 - cumulative[timestep]) ** 0.5
        variance = alpha**2 * spread**2 + sigma**2
        clean = mean + alpha * spread**2 / variance * (sample - alpha * mean)
        eps = (sample - alpha * clean) / sigma
        return {"epsilon": eps, "sample": clean, "v_prediction": alpha * eps - sigma * clean}[sampling.prediction_type]

    first = cumulative[sampling.timesteps[0]]
    exact = mean + spread * (noise().numpy() - first**0.5 * mean) / (first * spread**2 + 1 - first) ** 0.5
    return SimpleNamespace(denoise=denoise, exact=exact)


def gaussian_error(solver: str, steps: int, mean=0.3, spread=0.6, zero_snr=False, kind="v_prediction") -> float:
    config = {"prediction_type": kind, "rescale_betas_zero_snr": zero_snr, "timestep_spacing": "trailing"}
    config = {"_class_name": "DDIMScheduler", "clip_sample": False, **config}
    sampling = from_scheduler_config(config, SamplingOptions(steps=steps, solver=solver))
    case = gaussian(sampling, mean, spread)
    return float(np.abs(ours(sampling, noise(), case.denoise) - case.exact).max())


@pytest.mark.parametrize(
    "kind, zero_snr", [(kind, False) for kind in KINDS] + [("v_prediction", True), ("sample", True)]
)
def test_fine_ddim_is_the_exact_flow_of_a_gaussian(kind, zero_snr):
    assert gaussian_error("ddim", 1000, zero_snr=zero_snr, kind=kind) < 0.01


def test_ddim_converges_at_first_order():
    coarse, fine = gaussian_error("ddim", 100), gaussian_error("ddim", 200)
    assert 1.7 < coarse / fine < 2.3


@pytest.mark.parametrize("steps", [10, 20, 50])
@pytest.mark.parametrize("spread", [0.3, 0.6, 1.5])
def test_dpmpp_2m_is_more_accurate_than_ddim(steps, spread):
    assert gaussian_error("dpmpp_2m", steps, spread=spread) < 0.95 * gaussian_error("ddim", steps, spread=spread)


def error_on_even_log_snr(solver: str, steps: int) -> float:
    """Largest error of the Gaussian flow on a path whose λ = ln(α/σ) rises from -3 to 3 in equal steps."""
    log_snr = np.linspace(-3, 3, steps + 1)
    alpha, sigma = (1 + np.exp(-2 * log_snr)) ** -0.5, (1 + np.exp(2 * log_snr)) ** -0.5
    mean, spread = 0.3, 0.6
    table = solvers.table(solver, "sample", range(steps), alpha.tolist(), sigma.tolist())

    def clean(sample, i):
        return mean + alpha[i] * spread**2 / (alpha[i] ** 2 * spread**2 + sigma[i] ** 2) * (sample - alpha[i] * mean)

    width = np.sqrt(alpha**2 * spread**2 + sigma**2)
    start = noise().numpy()
    exact = alpha[-1] * mean + width[-1] * (start - alpha[0] * mean) / width[0]
    return float(np.abs(solve(clean, start, table) - exact).max())


@pytest.mark.parametrize("solver, order", [("ddim", 1), ("dpmpp_2m", 2)])
def test_order_of_convergence(solver, order):
    coarse, fine = error_on_even_log_snr(solver, 80), error_on_even_log_snr(solver, 160)
    assert abs(math.log2(coarse / fine) - order) < 0.2


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_one_point_of_data_is_hit_exactly(solver):
    assert gaussian_error(solver, 5, spread=0.0) < 1e-9


@pytest.mark.parametrize("clip_range", [None, 0.5])
@pytest.mark.parametrize("name", ORACLES)
def test_numpy_and_torch_agree(name, clip_range):
    steps = sampling_for(name, 10, prediction_type="v_prediction").steps()
    by_torch = solve(fake_model, noise(), steps, clip_range)
    by_numpy = solve(fake_model, noise().numpy(), steps, clip_range)
    assert isinstance(by_numpy, np.ndarray) and isinstance(by_torch, torch.Tensor)
    np.testing.assert_allclose(by_numpy, by_torch.numpy(), rtol=1e-12, atol=1e-12)


def test_solve_keeps_float32_and_its_argument():
    steps = sampling_for("DPMSolverMultistepScheduler", 5).steps()
    start = noise().numpy().astype(np.float32)
    before = start.copy()
    assert solve(fake_model, start, steps, 1.0).dtype == np.float32
    assert np.array_equal(start, before)


def test_solve_visits_the_timesteps_in_order_and_reports_each():
    sampling = sampling_for("DDIMScheduler", 7)
    seen, reported = [], []

    def model(sample, timestep):
        seen.append(timestep)
        return sample

    solve(model, noise(), sampling.steps(), on_step=lambda: reported.append(len(seen)))
    assert seen == list(sampling.timesteps)
    assert reported == list(range(1, 8))
