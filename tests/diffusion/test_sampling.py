"""From a scheduler's config to `Sampling`."""

import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler
from pydantic import ValidationError

from compress.diffusion.sampling import Guidance, Sampling
from compress.diffusion.schedulers import DEFAULT_STEPS, SCHEDULERS, SamplingOptions, from_scheduler_config
from compress.runtime.sampling import classifier_free_guidance
from tests.conftest import SCHEDULER


def test_unsupported_scheduler_is_refused_by_name():
    with pytest.raises(ValueError, match=r"LCMScheduler is not supported; supported: DDIMScheduler"):
        from_scheduler_config({"_class_name": "LCMScheduler"})


@pytest.mark.parametrize(
    "key, value",
    [
        ("thresholding", True),
        ("use_exponential_sigmas", True),
        ("use_beta_sigmas", True),
        ("use_lu_lambdas", True),
        ("use_flow_sigmas", True),
        ("solver_order", 3),
        ("solver_type", "heun"),
        ("algorithm_type", "dpmsolver"),
        ("lambda_min_clipped", -5.1),
    ],
)
def test_unsupported_setting_is_refused_with_its_remedy(key, value):
    with pytest.raises(ValueError, match=rf"{key}: .* is not supported with DPMSolverMultistepScheduler; set it"):
        from_scheduler_config({"_class_name": "DPMSolverMultistepScheduler", key: value})


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_epsilon_at_zero_terminal_snr_is_refused(solver):
    config = {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True}
    with pytest.raises(ValueError, match="epsilon prediction at zero terminal SNR is undefined"):
        from_scheduler_config(config, SamplingOptions(solver=solver))


@pytest.mark.parametrize("steps, count", [(1001, 1000), (51, 50)])
def test_too_many_steps_are_refused(steps, count):
    config = {"_class_name": "DDIMScheduler", "num_train_timesteps": count}
    with pytest.raises(ValueError, match=rf"{steps} sampling steps: must lie in 1…{count}"):
        from_scheduler_config(config, SamplingOptions(steps=steps))


def test_default_steps_of_a_short_schedule_are_refused_too():
    with pytest.raises(ValueError, match="50 sampling steps: must lie in 1…20"):
        from_scheduler_config({"_class_name": "DDIMScheduler", "num_train_timesteps": 20})


@pytest.mark.parametrize(
    "key, value",
    [("beta_schedule", "sigmoid"), ("prediction_type", "flow_prediction"), ("timestep_spacing", "quadratic")],
)
def test_unknown_choice_is_refused_and_named(key, value):
    with pytest.raises(ValueError, match=value):
        from_scheduler_config({"_class_name": "DDIMScheduler", key: value})


def test_no_steps_are_refused():
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        SamplingOptions(steps=0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_diffusers_own_default_config_is_accepted(name):
    sampling = from_scheduler_config({"_class_name": name, **getattr(diffusers, name)().config})
    assert sampling.solver == SCHEDULERS[name]
    assert len(sampling.timesteps) == DEFAULT_STEPS[sampling.solver]


def test_config_read_from_a_file_is_accepted(tmp_path):
    DPMSolverMultistepScheduler(beta_schedule="scaled_linear").save_pretrained(tmp_path)
    sampling = from_scheduler_config(json.loads((tmp_path / "scheduler_config.json").read_text()))
    assert (sampling.solver, sampling.beta_schedule, sampling.final) == ("dpmpp_2m", "scaled_linear", "clean")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_supported_scheduler_gives_a_table(name):
    sampling = from_scheduler_config({"_class_name": name}, SamplingOptions(steps=6))
    steps = sampling.steps()
    assert [step.timestep for step in steps] == list(sampling.timesteps)
    assert np.isfinite([list(vars(step).values()) for step in steps]).all()


def test_options_override_solver_and_steps():
    sampling = from_scheduler_config({"_class_name": "DDIMScheduler"}, SamplingOptions(solver="dpmpp_2m"))
    assert (sampling.solver, len(sampling.timesteps)) == ("dpmpp_2m", 20)
    sampling = from_scheduler_config(
        {"_class_name": "DPMSolverMultistepScheduler"}, SamplingOptions(solver="ddim", steps=3)
    )
    assert (sampling.solver, len(sampling.timesteps)) == ("ddim", 3)


@pytest.mark.parametrize(
    "config, final",
    [
        ({"_class_name": "DDIMScheduler"}, "clean"),
        ({"_class_name": "DDIMScheduler", "set_alpha_to_one": False}, "first"),
        ({"_class_name": "PNDMScheduler"}, "first"),
        ({"_class_name": "PNDMScheduler", "set_alpha_to_one": True}, "clean"),
        ({"_class_name": "DPMSolverMultistepScheduler"}, "clean"),
        ({"_class_name": "DPMSolverMultistepScheduler", "final_sigmas_type": "sigma_min"}, "first"),
    ],
)
def test_final_level_is_the_schedulers(config, final):
    assert from_scheduler_config(config).final == final


# Stable Diffusion's published configs: from_config keeps the settings of the scheduler it came from
def test_settings_left_over_from_another_scheduler_do_not_count():
    original = PNDMScheduler(set_alpha_to_one=False, beta_schedule="scaled_linear")
    config = dict(DPMSolverMultistepScheduler.from_config(original.config).config)
    assert config["set_alpha_to_one"] is False and config["final_sigmas_type"] == "zero"
    sampling = from_scheduler_config({**config, "_class_name": "DPMSolverMultistepScheduler"})
    assert sampling.final == "clean"


def test_clipping_left_over_from_ddim_does_not_count():
    config = dict(DPMSolverMultistepScheduler.from_config(DDIMScheduler(clip_sample=True).config).config)
    assert config["clip_sample"] is True
    assert from_scheduler_config({**config, "_class_name": "DPMSolverMultistepScheduler"}).clip_range is None


@pytest.mark.parametrize(
    "config, clip_range",
    [
        ({"_class_name": "DDIMScheduler"}, 1.0),
        ({"_class_name": "DDPMScheduler"}, 1.0),
        ({"_class_name": "DDIMScheduler", "clip_sample_range": 3}, 3.0),
        ({"_class_name": "DDIMScheduler", "clip_sample": False, "clip_sample_range": 3}, None),
        ({"_class_name": "PNDMScheduler"}, None),
        ({"_class_name": "EulerDiscreteScheduler"}, None),
        ({"_class_name": "DPMSolverMultistepScheduler"}, None),
    ],
)
def test_clip_range_is_the_schedulers(config, clip_range):
    assert from_scheduler_config(config).clip_range == clip_range


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "DDIMScheduler"},
        SCHEDULER,
        {"_class_name": "DPMSolverMultistepScheduler", "final_sigmas_type": "sigma_min", "clip_sample_range": 2},
        {"_class_name": "DDIMScheduler", "trained_betas": [0.01 / 3] * 60, "num_train_timesteps": 60},
    ],
)
def test_json_round_trip_keeps_everything(config):
    sampling = from_scheduler_config(config, SamplingOptions(steps=5))
    sampling = sampling.model_copy(update={"guidance": Guidance(kind="cfg", scale=1 / 3 + 2, null_class=10)})
    again = Sampling.model_validate_json(sampling.model_dump_json())
    assert again == sampling
    assert again.steps() == sampling.steps()
    assert torch.equal(again.alphas_cumprod, sampling.alphas_cumprod)


def test_json_with_an_unknown_key_is_refused():
    content = {**from_scheduler_config(SCHEDULER).model_dump(mode="json"), "eta": 0.5}
    with pytest.raises(ValidationError, match="eta"):
        Sampling.model_validate_json(json.dumps(content))


def test_sampling_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        from_scheduler_config(SCHEDULER).solver = "dpmpp_2m"


def test_alpha_and_sigma_broadcast_and_lie_on_the_circle():
    alpha, sigma = from_scheduler_config(SCHEDULER).alpha_sigma(torch.tensor([0, 400, 999]), torch.zeros(3, 1, 8, 8))
    assert alpha.shape == sigma.shape == (3, 1, 1, 1) and alpha.dtype == sigma.dtype == torch.float32
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(3, 1, 1, 1))
    assert alpha[2] == 0 and sigma[2] == 1 and alpha[0] > 0.99


@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
def test_guidance_formula(make):
    conditional, unconditional = make([1.0, 2.0, -3.0]), make([0.5, 4.0, -3.0])
    assert classifier_free_guidance(conditional, unconditional, 1.0).tolist() == [1.0, 2.0, -3.0]
    assert classifier_free_guidance(conditional, unconditional, 0.0).tolist() == [0.5, 4.0, -3.0]
    assert classifier_free_guidance(conditional, unconditional, 3.0).tolist() == [2.0, -2.0, -3.0]
