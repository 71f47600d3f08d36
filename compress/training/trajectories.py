"""States that a model's own sampling goes through: what a student is asked about when it is used."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from compress.contract import Context
from compress.data import HELD_OUT, Batch
from compress.files import cache_folder, write_atomically
from compress.model.denoiser import Denoiser, guided, walk
from compress.model.reference import conditions_for, identity, key_of, noise_like
from compress.model.scalars import GUIDANCE_SCALE
from compress.randomness import Draw, generator

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
    model: Denoiser, count: int, context: Context, scales: tuple[float, float] | None = None, skip: int = 0
) -> Trajectories:
    """`count` trajectories of the model's own sampling, drawn once and then kept in the cache, fifty a file.

    Stopped and called again, it goes on with the first file that is missing. Processes that run the pass together draw
    a share each.
    scales: draw each at a guidance scale of its own in this range. skip: leave out the first so many of the seed.
    """
    seed = context.seed
    folder = cache_folder() / "trajectories" / identity(model)[:24]
    conditions = conditions_for(model, skip + count, context.dataset, seed)
    if scales:
        random = torch.rand(skip + count, generator=generator(seed, Draw.TRAJECTORY_SCALES))
        conditions[GUIDANCE_SCALE] = scales[0] + (scales[1] - scales[0]) * random
    steps = len(model.sampling.timesteps) + 1
    starts = range(skip, skip + count, AT_ONCE)

    items = {start: min(AT_ONCE, skip + count - start) for start in starts}

    def states(start: int) -> torch.Tensor:
        given = {name: value[start : start + items[start]] for name, value in conditions.items()}
        file = folder / f"{seed}-{start:06d}-{items[start]}-{key_of(given)}.safetensors"
        found = _read_kept(file, (steps, items[start], *model.sample_shape))
        if found is None:
            noise = noise_like(model, AT_ONCE, seed, Draw.TRAJECTORIES, start)[: items[start]].to(model.device)
            found = walk(model, noise, {name: value.to(model.device) for name, value in given.items()}).cpu()
            kept = {"states": found}
            write_atomically(file, lambda part: save_file(kept, part))
        return found

    parts, mine = {}, context.processes.mine(starts)
    with context.progress(f"{context.name}: the teacher's trajectories", sum(items[start] for start in mine)) as task:
        for start in mine:
            parts[start] = states(start)
            task.advance(items[start])
    context.processes.wait()
    every = torch.cat([parts[start] if start in parts else states(start) for start in starts], dim=1)
    conditions = {name: value[skip:] for name, value in conditions.items()}
    return Trajectories(every, torch.tensor(model.sampling.timesteps), conditions)


def _read_kept(file: Path, shape: tuple[int, ...]) -> torch.Tensor | None:
    """States of an earlier run; None if there are none that can be used."""
    try:
        states = load_file(file)["states"]
    except (SafetensorError, OSError, KeyError):
        return None
    return states if states.shape == shape and states.isfinite().all() else None


@torch.no_grad()
def seconds_each(model: Denoiser, context: Context) -> float:
    """Time of one trajectory, from one measured evaluation."""
    noise = noise_like(model, AT_ONCE, context.seed, Draw.TRAJECTORIES).to(model.device)
    conditions = conditions_for(model, AT_ONCE, context.dataset, context.seed)
    given = {name: value.to(model.device) for name, value in conditions.items()}
    timestep = torch.full((AT_ONCE,), model.sampling.timesteps[0], device=model.device)
    began = time.perf_counter()
    guided(model, noise, timestep, given)
    return (time.perf_counter() - began) / AT_ONCE * len(model.sampling.timesteps)
