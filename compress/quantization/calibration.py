"""Where a model is evaluated when samples are drawn, and what it answers there."""

import dataclasses
from collections.abc import Callable, Sequence

import torch

from compress.data import Dataset
from compress.model.denoiser import Denoiser, null_conditions, walk
from compress.model.reference import conditions_for, noise_like
from compress.model.scalars import GUIDANCE_SCALE, STEPS
from compress.randomness import Draw, generator

BATCH = 50  # a graph takes at most 63


def trajectory_points(
    model: Denoiser,
    samples: int,
    evaluations: int,
    seed: int,
    dataset: Callable[[], Dataset],
    draw: Draw = Draw.CALIBRATION,
) -> list[torch.Tensor]:
    """(sample, timestep, *inputs), each [evaluations, ...]: where the model will be evaluated. draw: of the noise.

    Timesteps in equal numbers, of every number of steps that the model serves; half of them with the null condition
    where guidance takes one; guidance scales that are an input over their whole range.
    """
    device = model.device
    noise = noise_like(model, samples, seed, draw).to(device)
    given = conditions_for(model, samples, dataset, seed)
    if GUIDANCE_SCALE in model.inputs:
        guidance = model.sampling.guidance
        given[GUIDANCE_SCALE] = torch.linspace(*(guidance.scales or (guidance.scale,) * 2), samples)
    given = {name: value.to(device) for name, value in given.items()}
    visited: list[torch.Tensor] = []
    times: list[float] = []
    counts: list[int] = []
    for path in (model.sampling.timesteps, *model.sampling.others):
        sampling = model.sampling.at(len(path))
        states = walk(dataclasses.replace(model, sampling=sampling), noise, given)[:-1]
        visited += list(states)
        times += path
        counts += [len(path)] * len(path)
    steps = len(visited)
    random = generator(seed, Draw.POINTS, draw)
    step = torch.arange(evaluations) % steps
    item = torch.randint(samples, (evaluations,), generator=random)
    order = torch.randperm(evaluations, generator=random)
    step, item = step[order], item[order]
    sample = torch.stack(visited)[step, item]
    timestep = model.sampling.told(torch.tensor(times))[step].to(device)
    chosen = {name: value[item.to(device)] for name, value in given.items()}
    if STEPS in model.inputs:
        chosen[STEPS] = torch.tensor(counts)[step].float().to(device)
    if model.sampling.guidance.kind == "cfg":
        null = null_conditions(model, chosen)
        chosen = {name: torch.cat([value[::2], null[name][1::2]]) for name, value in chosen.items()}
        sample, timestep = torch.cat([sample[::2], sample[1::2]]), torch.cat([timestep[::2], timestep[1::2]])
    return [sample, timestep, *(chosen[name] for name in model.inputs)]


@torch.no_grad()
def answers(
    model: Denoiser,
    points: Sequence[torch.Tensor],
    advance: Callable[[int], None] = lambda count: None,
    batch: int = BATCH,
) -> torch.Tensor:
    """Outputs [n,…] at points, as many at once as an exported graph takes. advance: is told of each batch."""
    found = []
    for part in zip(*(value.split(batch) for value in points), strict=True):
        found.append(model.module(*part))
        advance(len(part[0]))
    return torch.cat(found)
