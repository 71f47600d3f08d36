"""What a student learns that is to sample in few steps.

Its sample x_t, on the grid that the teacher samples on, is followed by the teacher to a later place of the grid; the
loss is that of the clean sample with which one step of DDIM arrives there:

    max(α²/σ², 1)·(x̂_0 of the student − its target)², divided by the same of the target    Salimans & Ho 2022, eq. 9
"""

import itertools
from collections.abc import Mapping

import torch

from compress.data import Batch
from compress.devices import send
from compress.diffusion.levels import spread
from compress.diffusion.moments import MomentGap
from compress.diffusion.prediction import add_noise
from compress.diffusion.targets import Grid
from compress.model import scalars
from compress.model.denoiser import Denoiser
from compress.model.noising import clean_estimate, with_scale
from compress.training.loop import Objective
from compress.training.trajectories import Trajectories


class Steps(Objective):
    """The objective of `distill_steps`. Only the student is trained.

    teacher: with the steps that it takes to lead the way. counts: numbers of steps of the student. By what is given it
    is trajectory, with what the teacher `walked` and the weight of moments; consistency, where the student's own
    average `leads`; else progressive.
    """

    def __init__(
        self,
        student: Denoiser,
        teacher: Denoiser,
        grid: Grid,
        counts: tuple[int, ...],
        walked: Trajectories | None = None,
        moments: float = 0.0,
    ) -> None:
        super().__init__(student, teacher)
        self.grid, self.counts, self.walked, self.moments = grid, counts, walked, moments
        self.gap = MomentGap(walked.states[-1]) if moments and walked else None

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """The weighted losses of one batch."""
        if self.walked:
            return self._walk(self.walked, len(batch.images), random, batch.images.device)
        count, size = self.counts[0], len(batch.images)
        segment = torch.randint(count, (size,), generator=random)
        places = torch.tensor(self.grid.places[count])
        begin, end = places[segment], places[segment + 1]
        conditions = with_scale(self.student.sampling.guidance.scales, batch.conditions, batch.images, random)
        if self.leads:
            begin = begin + (torch.rand(size, generator=random) * (end - begin)).long()
        noise = send(torch.randn(batch.images.shape, generator=random), batch.images.device)
        sample = add_noise(batch.images, noise, *self.grid.levels(begin, noise))
        with torch.no_grad():
            if self.leads:
                arrived = self._step(self.teacher, sample, conditions, begin, begin + 1)
                onwards = self._step(self.leads, arrived, conditions, (begin + 1).clamp_max(end - 1), end)
                arrived = torch.where(spread(begin + 1 == end, sample), arrived, onwards)
            else:
                middle = torch.tensor(self.grid.places[2 * count])[2 * segment + 1]
                arrived = self._step(self.teacher, sample, conditions, begin, middle)
                arrived = self._step(self.teacher, arrived, conditions, middle, end)
        found = self._clean(self.student, sample, conditions, begin)
        return {"steps": self.grid.error(found, arrived, sample, begin, end)}

    def _walk(
        self, walked: Trajectories, size: int, random: torch.Generator, device: torch.device
    ) -> Mapping[str, torch.Tensor]:
        """Mean loss over the steps of the student's own way from noise, and how far its samples' moments are off.

        Of several numbers of steps, every step counts alike, or those of the longest ways would hardly be learned.
        """
        count = self.counts[int(torch.randint(len(self.counts), (), generator=random))]
        whole = walked.paths(size, random, held_out=not self.training).to(device)
        states, conditions = whole.images, dict(whole.conditions)
        sample = arrived = states[0]
        if scalars.STEPS in self.student.inputs:
            conditions[scalars.STEPS] = torch.full((size,), float(count), device=device)
        errors = []
        for begin, end in itertools.pairwise(self.grid.places[count]):
            found = self._clean(self.student, sample, conditions, torch.full((size,), begin))
            errors.append(self.grid.error(found, states[end], sample, begin, end))
            arrived = self.grid.arrive(found, sample, begin, end)
            sample = arrived.detach()
        losses = {"steps": torch.stack(errors).sum() * len(self.counts) / sum(self.counts)}
        if self.gap is not None:
            losses["moments"] = self.moments * self.gap(arrived, states[-1], random)
        return losses

    def _clean(
        self, model: Denoiser, sample: torch.Tensor, conditions: Mapping[str, torch.Tensor], place: torch.Tensor
    ) -> torch.Tensor:
        timestep = send(self.grid.timesteps[place], sample.device)
        return clean_estimate(model, sample, timestep, conditions, self.grid.levels(place, sample))

    def _step(
        self,
        model: Denoiser,
        sample: torch.Tensor,
        conditions: Mapping[str, torch.Tensor],
        begin: torch.Tensor,
        end: torch.Tensor,
    ) -> torch.Tensor:
        return self.grid.arrive(self._clean(model, sample, conditions, begin), sample, begin, end)
