"""diffusers' own scheduler, made from our sampling, draws what we draw."""

import diffusers
import pytest
import torch

from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.diffusion.stock_schedulers import Stock, stock_scheduler
from compress.judge.quality import sqnr
from compress.runtime.sampling import solve
from tests.conftest import FLOW, SCHEDULER

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
PNDM = {"_class_name": "PNDMScheduler", **SD, "set_alpha_to_one": False}
EULER = {"_class_name": "EulerDiscreteScheduler", **SD}
EDM = {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 80.0}
CLIPPED = {"_class_name": "DDIMScheduler", **SD, "clip_sample": True, "clip_sample_range": 1.5}
# diffusers' Euler starts from noise of deviation σ where the path has √(σ² + 1), so that it draws from 0.998 of our
# noise at these betas
ROUNDED, STARTED = 110, 48


def net(sample: torch.Tensor, timestep: float) -> torch.Tensor:
    return torch.tanh(0.7 * sample + 0.001 * timestep)


def drawn(stock: Stock, steps: int, noise: torch.Tensor) -> torch.Tensor:
    """As a pipeline of diffusers draws."""
    config = dict(stock.config)
    own = getattr(diffusers, config.pop("_class_name")).from_config(config)
    own.set_timesteps(steps)
    sample = noise * getattr(own, "init_noise_sigma", 1)
    for timestep in own.timesteps:
        sample = own.step(net(own.scale_model_input(sample, timestep), float(timestep)), timestep, sample).prev_sample
    return sample


@pytest.mark.parametrize(
    ("config", "solver", "steps", "named", "least"),
    [
        (PNDM, None, 10, "DDIMScheduler", ROUNDED),
        (SCHEDULER, None, 8, "DDIMScheduler", ROUNDED),
        ({**PNDM, "timestep_spacing": "trailing"}, None, 7, "EulerDiscreteScheduler", STARTED),  # 1000 / 7 is not whole
        (EULER, None, 7, "EulerDiscreteScheduler", STARTED),
        ({**EULER, "timestep_spacing": "leading", "use_karras_sigmas": True}, None, 7, "EulerDiscreteScheduler", 110),
        ({**PNDM, "timestep_spacing": "trailing"}, "dpmpp_2m", 7, "DPMSolverMultistepScheduler", ROUNDED),
        ({**SD, "_class_name": "DPMSolverMultistepScheduler"}, None, 7, "DPMSolverMultistepScheduler", ROUNDED),
        ({**SD, "_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}, None, 7,
         "DPMSolverMultistepScheduler", ROUNDED),
        ({**PNDM, "timestep_spacing": "trailing"}, "unipc", 7, "UniPCMultistepScheduler", ROUNDED),
    ],
)  # fmt: skip
def test_the_same_samples(config: dict, solver: str | None, steps: int, named: str, least: float) -> None:
    sampling = from_scheduler_config(config, SamplingOptions(solver=solver, steps=steps))
    stock = stock_scheduler(sampling, config)
    assert stock.config["_class_name"] == named and stock.off == 0 and stock.warning is None
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = solve(net, noise, sampling.steps(), sampling.clip_range)
    assert sqnr(ours.numpy(), drawn(stock, steps, noise).numpy()) > least


@pytest.mark.parametrize("config", [FLOW, EDM])
def test_other_levels_keep_their_own(config: dict) -> None:
    sampling = from_scheduler_config(config, SamplingOptions(steps=3))
    assert stock_scheduler(sampling, config) == Stock(config, 0)


def test_what_differs_is_told() -> None:
    sampling = from_scheduler_config(PNDM, SamplingOptions(solver="dpmpp_2m", steps=10))
    near = stock_scheduler(sampling, PNDM)  # its `leading` has other timesteps than DDIM's
    assert near.config["_class_name"] == "DPMSolverMultistepScheduler"
    assert near.off == 89 and "up to 89 away from the bundle's" in str(near.warning)
    distilled = stock_scheduler(sampling.model_copy(update={"distilled": True}), PNDM)
    assert distilled == Stock(PNDM, None) and "the checkpoint's own PNDMScheduler" in str(distilled.warning)
    flow = from_scheduler_config(FLOW, SamplingOptions(solver="dpmpp_2m", steps=3))
    clipped = from_scheduler_config(CLIPPED, SamplingOptions(steps=10))
    assert stock_scheduler(flow, FLOW).off is None and stock_scheduler(clipped, CLIPPED).off is None
