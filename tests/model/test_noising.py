"""A batch is met at the timesteps and the guidance that a model is sampled with."""

import dataclasses

import pytest
import torch

from compress.model.denoiser import Denoiser
from compress.model.noising import as_sampled, noised, null_share
from compress.randomness import generator
from tests.conftest import dataset_for


def test_samples_are_noised_at_the_models_own_timesteps(any_model: Denoiser) -> None:
    batch = dataset_for(any_model).batch(64, 0)
    given = noised(any_model, batch, generator(1))
    assert set(given.timestep.tolist()) == set(any_model.sampling.timesteps)
    alpha, sigma = any_model.sampling.alpha_sigma(given.timestep, batch.images)
    assert torch.equal(alpha, given.alpha) and torch.equal(sigma, given.sigma)
    noise = (given.sample - alpha * batch.images) / sigma
    assert noise.mean().abs() < 0.1 and (noise.std() - 1).abs() < 0.1
    torch.testing.assert_close(given.truth, alpha * noise - sigma * batch.images)  # v
    assert given.conditions is batch.conditions


def test_timesteps_may_be_given(class_model: Denoiser) -> None:
    batch = dataset_for(class_model).batch(8, 0)
    one = as_sampled(class_model, batch, generator(1), torch.tensor([3]))
    other = as_sampled(class_model, batch, generator(1))
    assert one.timestep.tolist() == [3] * 8
    assert torch.equal(one.conditions["class_labels"], other.conditions["class_labels"])  # what is drawn after it


@pytest.mark.parametrize("scale", [1.0, 2.0, 5.0])
def test_conditions_are_null_as_often_as_guidance_weighs_it(class_model: Denoiser, scale: float) -> None:
    guidance = class_model.sampling.guidance.model_copy(update={"scale": scale})
    model = dataclasses.replace(class_model, sampling=class_model.sampling.model_copy(update={"guidance": guidance}))
    labels = as_sampled(model, dataset_for(model).batch(2000, 0), generator(2)).conditions["class_labels"]
    assert float((labels == 10).float().mean()) == pytest.approx(null_share(scale), abs=0.05)
