"""Outputs on the frozen probe: exact for the teacher, proportional for known deviations."""

import dataclasses

import numpy as np
import pytest
import torch

from compress.judge import probe
from compress.judge.images import at_scale
from compress.judge.quality import sqnr
from compress.model.denoiser import Denoiser, guided
from compress.model.reference import Drawn, noise_like
from tests.conftest import CLASS_CONFIG, inputs_for, make_denoiser


def frozen(model: Denoiser, count: int = 8) -> probe.Probe:
    _, _, conditions = inputs_for(model, count)
    samples = noise_like(model, count, 3)
    return probe.make(model, Drawn(samples, conditions, samples), model.sampling.timesteps, seed=0)


def test_teacher_answers_without_error(any_model: Denoiser) -> None:
    answer = probe.answer(frozen(any_model), probe.of_model(any_model))
    error, low, high = answer.curve(rounds=20)
    assert error.shape == (len(any_model.sampling.timesteps),)
    assert max(error.max(), low.max(), high.max()) < 1e-9
    assert answer.sqnr() > 80


def test_samples_have_the_noise_of_their_timestep() -> None:
    model = make_denoiser(CLASS_CONFIG)
    zeros = torch.zeros(400, 1, 8, 8)
    drawn = Drawn(zeros, {"class_labels": torch.zeros(400, dtype=torch.int64)}, zeros)
    found = probe.make(model, drawn, model.sampling.timesteps, seed=0)
    for timestep, samples in zip(found.timesteps, found.samples, strict=True):
        sigma = float((1 - model.sampling.alphas_cumprod[timestep]) ** 0.5)
        assert samples.std() == pytest.approx(sigma, rel=0.05)


def test_error_is_relative_and_per_timestep() -> None:
    """A student whose output is the teacher's times 1.1 at the second timestep alone: error 0.01 there."""
    model = make_denoiser(CLASS_CONFIG)
    own = probe.of_model(model)
    factors = [1, 1.1, 1, 1]
    answer = probe.answer(frozen(model), lambda s, place, t, given: own(s, place, t, given) * factors[place])
    assert answer.curve(rounds=2)[0] == pytest.approx([0, 0.01, 0, 0], abs=1e-6)
    found = probe.figures(answer, probe.answer(frozen(model), own))
    assert found["worst_timestep_error"].value == pytest.approx(0.01, rel=1e-3)
    assert found["output_error"].value == pytest.approx(0.0025, rel=1e-3)
    assert found["output_error"].resolved and found["worst_timestep_error"].resolved
    assert answer.sqnr() == pytest.approx(sqnr(answer.probe.guided, answer.guided))


@pytest.mark.parametrize("scale", [1.5, 2.0, 2.5, 4.0])
def test_guidance_ratio_is_the_scale_that_was_used(scale: float) -> None:
    model = make_denoiser(CLASS_CONFIG, scale=2.0)
    found = probe.answer(frozen(model), probe.of_model(at_scale(model, scale)))
    figure = probe.figures(found, probe.answer(frozen(model), probe.of_model(model)))["guidance_ratio"]
    assert figure.value == pytest.approx(scale / 2, rel=1e-4)
    assert figure.resolved == (scale != 2)


def test_guidance_ratio_ignores_errors_across_its_direction() -> None:
    model = make_denoiser(CLASS_CONFIG, scale=2.0)
    wanted = frozen(model)
    direction = wanted.conditional - wanted.unconditional
    noise = np.random.default_rng(0).standard_normal(direction.shape).astype(np.float32)
    axes = (2, 3, 4)
    along = (noise * direction).sum(axes, keepdims=True) / np.square(direction).sum(axes, keepdims=True)
    answer = probe.Answer(wanted, wanted.guided + 0.1 * (noise - along * direction))
    figure = probe.figures(answer, probe.Answer(wanted, wanted.guided))["guidance_ratio"]
    assert figure.value == pytest.approx(1, abs=1e-4)


def test_unguided_model_has_no_guidance_ratio() -> None:
    model = make_denoiser(CLASS_CONFIG, scale=None)
    found = probe.answer(frozen(model), probe.of_model(model))
    assert set(probe.figures(found, found)) == {"output_error", "worst_timestep_error"}


def test_model_answers_with_its_own_guidance() -> None:
    model = make_denoiser(CLASS_CONFIG)
    wanted = frozen(model)
    sample = torch.from_numpy(wanted.samples[2])
    times = torch.full((len(sample),), wanted.timesteps[2])
    conditions = {name: torch.from_numpy(value) for name, value in wanted.conditions.items()}
    with torch.no_grad():
        output = guided(model, sample, times, conditions).numpy()
    assert sqnr(wanted.guided[2], output) > 80
    assert dataclasses.replace(wanted, scale=1.0).guided[2] == pytest.approx(wanted.conditional[2], abs=1e-6)
