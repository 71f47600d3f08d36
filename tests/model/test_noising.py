"""A batch is met at the timesteps and the guidance that a model is sampled with."""

import dataclasses

import pytest
import torch

from compress.model.denoiser import Denoiser
from compress.model.noising import noised, null_share, with_null
from compress.randomness import generator
from tests.conftest import dataset_for


def test_samples_are_noised_at_the_models_own_timesteps(any_model: Denoiser) -> None:
    batch = dataset_for(any_model).batch(64, 0)
    given = noised(any_model, batch, generator(1))
    assert set(given.timestep.tolist()) == set(any_model.sampling.timesteps)
    alpha, sigma = any_model.sampling.alpha_sigma(given.timestep, batch.images)
    assert given.levels is not None and torch.equal(alpha, given.levels[0]) and torch.equal(sigma, given.levels[1])
    noise = (given.sample - alpha * batch.images) / sigma
    assert noise.mean().abs() < 0.1 and (noise.std() - 1).abs() < 0.1
    torch.testing.assert_close(given.answer, alpha * noise - sigma * batch.images)  # v
    assert given.conditions is batch.conditions


def test_timesteps_may_be_given_and_leave_what_is_drawn_after_them(class_model: Denoiser) -> None:
    batch = dataset_for(class_model).batch(8, 0)
    first, second = generator(1), generator(1)
    one = noised(class_model, batch, first, at=torch.tensor([3]).expand(8))
    other = noised(class_model, batch, second)
    assert one.timestep.tolist() == [3] * 8 and not torch.equal(one.sample, other.sample)
    labels = [with_null(class_model, given, drawn).conditions for given, drawn in ((one, first), (other, second))]
    assert torch.equal(labels[0]["class_labels"], labels[1]["class_labels"])


@pytest.mark.parametrize("scale", [1.0, 2.0, 5.0])
def test_conditions_are_null_as_often_as_guidance_weighs_it(class_model: Denoiser, scale: float) -> None:
    guidance = class_model.sampling.guidance.model_copy(update={"scale": scale})
    model = dataclasses.replace(class_model, sampling=class_model.sampling.model_copy(update={"guidance": guidance}))
    random = generator(2)
    given = with_null(model, noised(model, dataset_for(model).batch(2000, 0), random), random)
    labels = given.conditions["class_labels"]
    assert float((labels == 10).float().mean()) == pytest.approx(null_share(scale), abs=0.05)
