"""Bundles of models that are told fractions, and of a solver that looks back two steps."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.diffusion.sampling import Sampling
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.errors import BundleError, PassError
from compress.judge.probe import sampling_error
from compress.measure.bench import callable_for
from compress.model.denoiser import Denoiser, draw
from compress.passes import export_onnx
from compress.runtime import Bundle
from tests.conftest import FLOW, UNCONDITIONAL_CONFIG, assert_close_db, make_context, make_denoiser

SCHEDULERS = {
    "flow": FLOW,
    "edm": {"_class_name": "EDMDPMSolverMultistepScheduler"},
    "euler": {"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction"},
    "karras": {"_class_name": "UniPCMultistepScheduler", "prediction_type": "v_prediction", "use_karras_sigmas": True},
}


def model_of(kind: str, **options: object) -> Denoiser:
    sampling = from_scheduler_config(SCHEDULERS[kind], SamplingOptions(steps=5, **options))
    return dataclasses.replace(make_denoiser(UNCONDITIONAL_CONFIG), sampling=sampling, scheduler=SCHEDULERS[kind])


def exported(model: Denoiser, folder: Path, **settings: object) -> Bundle:
    export_onnx.run(model, export_onnx.Config(**settings), make_context(model, folder))
    return Bundle(folder / "files" / "onnx", threads=1)


@pytest.mark.parametrize("kind, solver", [("flow", "unipc"), ("edm", None), ("euler", None), ("karras", None)])
def test_draws_as_the_model_does_step_by_step_and_at_once(kind: str, solver: str | None, tmp_path: Path) -> None:
    model = model_of(kind, solver=solver)
    bundle = exported(model, tmp_path, sampler=True)
    noise = torch.randn(2, *model.sample_shape, generator=torch.Generator().manual_seed(4))
    wanted = draw(model, noise, {}).numpy()
    assert_close_db(wanted, bundle.sample(noise.numpy()), 80)
    assert_close_db(wanted, bundle.sample_at_once(noise.numpy()), 60)
    assert sampling_error(bundle, model).value < 1e-6
    whole = bundle.inputs["timestep"]["dtype"] == "int64"
    assert whole == (kind == "karras") and np.isfinite(callable_for(bundle.path, 1, 2)()[0]).all()


def test_a_level_that_is_not_the_timesteps_is_found(tmp_path: Path) -> None:
    model = model_of("karras")
    bundle = exported(model, tmp_path)
    step = bundle.steps[2]
    bundle.steps[2] = dataclasses.replace(step, timestep=step.timestep + 1)
    assert sampling_error(bundle, model).value > 1e-5


def test_what_such_bundles_cannot_do_is_refused(tmp_path: Path) -> None:
    for kind, settings, message in (
        ("flow", {"timesteps": "own"}, "timesteps: own needs whole numbers"),
        ("karras", {"adaptive": True}, "adaptive: steps cannot adapt, because the solver unipc"),
    ):
        with pytest.raises(PassError, match=message):
            exported(model_of(kind), tmp_path, **settings)
    bundle = exported(model_of("karras"), tmp_path / "bundle")
    with pytest.raises(BundleError, match="cannot adapt: unipc"):
        bundle.sample_adaptively(np.zeros((1, *bundle.sample_shape), np.float32), tolerance=0.1)


def test_steps_of_dpm_solver_on_flow_matching_adapt(tmp_path: Path) -> None:
    model = model_of("flow", solver="dpmpp_2m")
    bundle = exported(model, tmp_path)
    noise = np.random.default_rng(0).standard_normal((2, *bundle.sample_shape)).astype(np.float32)
    found, evaluations = bundle.sample_adaptively(noise, tolerance=0.0)
    assert evaluations.tolist() == [5, 5]
    assert_close_db(bundle.sample(noise), found, 100)


def test_sampling_of_another_kind_is_part_of_a_models_identity() -> None:
    """Two flow models that differ in nothing but the shift draw otherwise."""
    first, second = (
        from_scheduler_config({**FLOW, "shift": shift}, SamplingOptions(steps=5)).model_dump_json()
        for shift in (1.0, 3.0)
    )
    assert first != second and Sampling.model_validate_json(first).schedule.shift == 1.0
