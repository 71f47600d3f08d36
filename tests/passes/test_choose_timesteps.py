"""Few timesteps without training."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from compress import passes
from compress.diffusion.schedules import cheapest_path
from compress.errors import PassError
from compress.model.denoiser import Denoiser, draw
from compress.model.reference import conditions_for, noise_like
from tests.conftest import CLASS_CONFIG, make_context, make_denoiser

CHOOSE = passes.module("choose_timesteps")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_path_is_the_cheapest_of_all(count: int) -> None:
    cost = np.random.default_rng(count).uniform(size=(7, 7))
    totals = {}
    for inner in itertools.combinations(range(1, 6), count - 1):
        path = (0, *inner)
        totals[path] = sum(cost[i, j] for i, j in itertools.pairwise((*path, 6)))
    assert tuple(cheapest_path(cost, count)) == min(totals, key=totals.__getitem__)


def test_path_of_no_or_too_many_steps_is_refused() -> None:
    for count in (0, 4):
        with pytest.raises(ValueError, match="steps over 3 places"):
            cheapest_path(np.zeros((4, 4)), count)


def error(model: Denoiser, wanted: torch.Tensor, noise: torch.Tensor, conditions: dict[str, torch.Tensor]) -> float:
    return float((draw(model, noise, conditions) - wanted).square().mean())


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_chosen_steps_lie_nearer_to_the_fine_sampling_than_most_others(solver: str, tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG, steps=12)
    context = make_context(model, tmp_path)
    few = CHOOSE.run(model, CHOOSE.Config(sampling_steps=3, solver=solver, samples=30), context).model
    grid = model.sampling.timesteps
    assert few.sampling.timesteps[0] == grid[0] and len(few.sampling.timesteps) == 3
    assert set(few.sampling.timesteps) <= set(grid) and few.sampling.solver == solver
    noise, conditions = noise_like(model, 40, 5), conditions_for(model, 40, context.dataset, 5)
    wanted = draw(model, noise, conditions)
    found = []
    for inner in itertools.combinations(grid[1:], 2):
        sampling = few.sampling.model_copy(update={"timesteps": (grid[0], *inner)})
        found.append(error(dataclasses.replace(model, sampling=sampling), wanted, noise, conditions))
    rank = sum(other < error(few, wanted, noise, conditions) for other in found) / len(found)
    assert rank < 0.35


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG, steps=4)
    context = make_context(model, tmp_path)
    with pytest.raises(PassError, match="sampling_steps: 5 of a model with 4"):
        CHOOSE.run(model, CHOOSE.Config(sampling_steps=5), context)
    distilled = dataclasses.replace(model, sampling=model.sampling.model_copy(update={"distilled": True}))
    with pytest.raises(PassError, match="are distilled"):
        CHOOSE.run(distilled, CHOOSE.Config(sampling_steps=2), context)
