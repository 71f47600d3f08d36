"""What a student of few steps learns so that its samples are distributed as its teacher's guided ones.

A loss between pairs averages over what a student cannot know. Here a net, at first the teacher's, learns to denoise the
student's samples x, and these are moved along the difference of two scores, each of a distribution with noise: of x_t,
x with noise,

    ∇ = (x̂_0 of the student's distribution − x̂_0 of the teacher's) ÷ mean |x − x̂_0 of the teacher's|

says where the student's samples lie closer than the teacher's would (Yin et al. 2024a, "One-step Diffusion with
Distribution Matching Distillation", eq. 7 and 8). Where the nets that follow take several steps to one of the student,
no pairs of noise and sample are needed (Yin et al. 2024b, "Improved Distribution Matching Distillation", section 4.2).

The score of the teacher's distribution is its own guided one, which guidance keeps from being that of what it draws; or
what another net, at first the teacher's too, learns of the teacher's samples. The errors that both nets share then
cancel.
"""

import dataclasses
import itertools
from collections.abc import Mapping

import torch

from compress.data import Batch
from compress.devices import send
from compress.diffusion.targets import Grid, relative_error
from compress.model.denoiser import Denoiser
from compress.model.noising import clean_estimate, noised
from compress.training.loop import Objective
from compress.training.trajectories import Trajectories

ENDS = (0.02, 0.98)  # of the training timesteps: nothing is told from noise, or from a clean sample, beyond


class Match(Objective):
    """The objective of `distill_steps: {method: distribution}`. The student, and the nets that follow, are trained.

    fake: learns the student's samples; has the teacher's net to begin with, and no guidance. real: says the score of
    the teacher's distribution: the teacher, or another such net, which learns the ends of the teacher's trajectories
    `known`. pace: how many steps these take to one of the student.
    """

    unused = True  # the student's weights, in steps of the others alone

    def __init__(
        self,
        student: Denoiser,
        real: Denoiser,
        fake: Denoiser,
        grid: Grid,
        pace: int,
        known: Trajectories | None = None,
    ) -> None:
        super().__init__(student, real)
        self.fake, self.follow = fake, fake.module
        self.known = known and dataclasses.replace(known, states=known.states[-1:].clone())
        self.learn = real.module if known else None
        self.grid, self.pace = grid, pace
        timesteps = real.sampling.training
        first, last = (round(end * (len(timesteps) - 1)) for end in ENDS)
        self.timesteps = timesteps.sort().values[first : last + 1]

    @property
    def models(self) -> tuple[Denoiser, ...]:
        """The one that follows the student too."""
        return (*super().models, self.fake)

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """`match`, by which samples move, 0 in steps of the others alone; `fake` and `real`, the others' own losses."""
        leads = bool(torch.rand((), generator=random) * self.pace < 1)
        with torch.set_grad_enabled(leads and torch.is_grad_enabled()):
            samples = self._drawn(batch, random)
        still = Batch(samples.detach(), batch.conditions)
        match = self._moved(samples, still, random) if leads else samples.new_zeros(())
        losses = {"match": match, "fake": self._followed(self.fake, still, random)}
        if self.known is not None:
            drawn = self.known.paths(len(samples), random).to(samples.device)
            losses["real"] = self._followed(self.teacher, Batch(drawn.images[-1], drawn.conditions), random)
        return losses

    def _drawn(self, batch: Batch, random: torch.Generator) -> torch.Tensor:
        """The student's own samples, by all of its steps."""
        sample = send(torch.randn(batch.images.shape, generator=random), batch.images.device)
        (places,) = self.grid.places.values()
        for begin, end in itertools.pairwise(places):
            timestep = send(self.grid.timesteps[begin].expand(len(sample)), sample.device)
            levels = self.grid.levels(begin, sample)
            clean = clean_estimate(self.student, sample, timestep, batch.conditions, levels)
            sample = self.grid.arrive(clean, sample, begin, end)
        return sample

    def _moved(self, samples: torch.Tensor, still: Batch, random: torch.Generator) -> torch.Tensor:
        """Its gradient by the samples is ∇ ÷ their number."""
        with torch.no_grad():
            question = noised(self.teacher, still, random, self.timesteps)
            assert question.levels is not None
            real, fake = (clean_estimate(one, *question.asked, question.levels) for one in (self.teacher, self.fake))
            size = (still.images - real).abs().flatten(1).mean(1).clamp_min(1e-6)
            step = (fake - real) / size.view(-1, *[1] * (real.dim() - 1))
            wanted = (still.images - step).float()
        return (samples.float() - wanted).square().mean() / 2

    def _followed(self, model: Denoiser, still: Batch, random: torch.Generator) -> torch.Tensor:
        """The loss of a net that follows: of the samples that it sees in noisy ones, weighted as in distillation."""
        question = noised(model, still, random, self.timesteps)
        assert question.levels is not None
        found = clean_estimate(model, *question.asked, question.levels)
        return relative_error(found.float(), still.images, *question.levels)
