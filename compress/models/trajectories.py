"""States that a model's own sampling goes through: what a student is asked about when it is used."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from compress.data import HELD_OUT, Batch, Dataset, generator
from compress.files import write_atomically
from compress.models.denoiser import Denoiser, guided, walk
from compress.models.reference import Progress, conditions_for, noise_like
from compress.models.scalars import GUIDANCE_SCALE

WALK = 11  # key of the trajectories' noise: no other draw begins with the same
AT_ONCE = 50


@dataclass(frozen=True)
class Trajectories:
    """states [steps + 1,n,c,h,w] of a sampling, noise first and clean last; timesteps int64 [steps]; conditions [n,…].

    Where guidance scales were asked for, conditions hold them.
    """

    states: torch.Tensor
    timesteps: torch.Tensor
    conditions: dict[str, torch.Tensor]

    def draw(self, count: int, random: torch.Generator, held_out: bool = False) -> tuple[torch.Tensor, Batch]:
        """(timesteps int64 [b], states) at random, of the trajectories to train on or of those held out."""
        step = torch.randint(len(self.timesteps), (count,), generator=random)
        whole = self.paths(count, random, held_out)
        return self.timesteps[step], Batch(whole.images[step, torch.arange(count)], whole.conditions)

    def paths(self, count: int, random: torch.Generator, held_out: bool = False) -> Batch:
        """Whole trajectories [steps + 1,b,c,h,w] at random, of those to train on or of those held out."""
        every = self.states.shape[1]
        trained = every - int(HELD_OUT * every)
        start, end = (trained, every) if held_out and trained < every else (0, trained)
        which = torch.randint(start, end, (count,), generator=random)
        conditions = {name: value[which] for name, value in self.conditions.items()}
        return Batch(self.states[:, which], conditions)


def drawn(
    model: Denoiser,
    count: int,
    seed: int,
    dataset: Callable[[], Dataset],
    file: Path,
    progress: Progress,
    title: str,
    scales: tuple[float, float] | None = None,
) -> Trajectories:
    """`count` trajectories of the model's own sampling; kept in `file`, so that a killed run need not draw again.

    scales: draw each at a guidance scale of its own in this range.
    """
    conditions = conditions_for(model, count, dataset, seed)
    if scales:
        random = torch.rand(count, generator=generator(seed, WALK, 1))
        conditions[GUIDANCE_SCALE] = scales[0] + (scales[1] - scales[0]) * random
    timesteps = torch.tensor(model.sampling.timesteps)
    if file.is_file():
        return Trajectories(load_file(file)["states"], timesteps, conditions)
    noise = noise_like(model, count, seed, WALK)
    parts = []
    with progress(title, count) as task:
        for start in range(0, count, AT_ONCE):
            given = {name: value[start : start + AT_ONCE].to(model.device) for name, value in conditions.items()}
            parts.append(walk(model, noise[start : start + AT_ONCE].to(model.device), given).cpu())
            task.advance(parts[-1].shape[1])
    states = torch.cat(parts, dim=1)
    write_atomically(file, lambda part: save_file({"states": states}, part))
    return Trajectories(states, timesteps, conditions)


@torch.no_grad()
def seconds_each(model: Denoiser, seed: int, dataset: Callable[[], Dataset]) -> float:
    """Time of one trajectory, from one measured evaluation."""
    noise = noise_like(model, AT_ONCE, seed, WALK).to(model.device)
    given = {name: value.to(model.device) for name, value in conditions_for(model, AT_ONCE, dataset, seed).items()}
    timestep = torch.full((AT_ONCE,), model.sampling.timesteps[0], device=model.device)
    began = time.perf_counter()
    guided(model, noise, timestep, given)
    return (time.perf_counter() - began) / AT_ONCE * len(model.sampling.timesteps)
