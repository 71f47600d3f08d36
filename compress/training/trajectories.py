"""States that a model's own sampling goes through: what a student is asked about when it is used."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
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

AT_ONCE = 50  # of a file
VALUES = AT_ONCE * 2**14  # that a GPU is given at once: fewer leave it waiting for the host


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
    files = []
    for start in range(skip, skip + count, AT_ONCE):
        given = {name: value[start : start + AT_ONCE] for name, value in conditions.items()}
        files.append(_File(folder, model, seed, start, min(AT_ONCE, skip + count - start), given))
    mine = context.processes.mine(files)
    parts: dict[int, torch.Tensor] = {}
    with context.progress(f"{context.name}: the teacher's trajectories", sum(map(len, mine))) as task:
        for some in _at_once(mine):
            parts |= _filled(some)
            task.advance(sum(map(len, some)))
    context.processes.wait()
    for some in _at_once([file for file in files if file.start not in parts]):
        parts |= _filled(some)
    conditions = {name: value[skip:] for name, value in conditions.items()}
    every = torch.cat([parts[file.start] for file in files], dim=1)
    return Trajectories(every, torch.tensor(model.sampling.timesteps), conditions)


@dataclass(frozen=True)
class _File:
    """Trajectories of a seed that are kept together: n from `start` on, of the conditions [n,…]."""

    folder: Path
    model: Denoiser
    seed: int
    start: int
    count: int
    conditions: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return self.count

    @property
    def path(self) -> Path:
        return self.folder / f"{self.seed}-{self.start:06d}-{len(self)}-{key_of(self.conditions)}.safetensors"

    def noise(self) -> torch.Tensor:
        return noise_like(self.model, AT_ONCE, self.seed, Draw.TRAJECTORIES, self.start)[: len(self)]

    def read(self) -> torch.Tensor | None:
        """States of an earlier run; None if there are none that can be used."""
        try:
            states = load_file(self.path)["states"]
        except (SafetensorError, OSError, KeyError):
            return None
        shape = (len(self.model.sampling.timesteps) + 1, len(self), *self.model.sample_shape)
        return states if states.shape == shape and states.isfinite().all() else None


def _at_once(files: Sequence[_File]) -> Iterator[Sequence[_File]]:
    """One at a time; on a GPU as many as keep it busy."""
    if files:
        model = files[0].model
        count = max(1, VALUES // (AT_ONCE * math.prod(model.sample_shape))) if model.device.type == "cuda" else 1
        yield from (files[first : first + count] for first in range(0, len(files), count))


def _filled(files: Sequence[_File]) -> dict[int, torch.Tensor]:
    """States of each file by its start; what is missing is drawn together, and kept."""
    found = {file.start: states for file in files if (states := file.read()) is not None}
    missing = [file for file in files if file.start not in found]
    if missing:
        model = missing[0].model
        noise = torch.cat([file.noise() for file in missing]).to(model.device)
        given = {
            name: torch.cat([file.conditions[name] for file in missing]).to(model.device)
            for name in missing[0].conditions
        }
        states = walk(model, noise, given).cpu().split([len(file) for file in missing], dim=1)
        for file, each in zip(missing, states, strict=True):
            found[file.start] = each.contiguous()
            write_atomically(file.path, partial(save_file, {"states": found[file.start]}))
    return found


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
