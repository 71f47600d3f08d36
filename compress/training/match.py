"""What a student of few steps learns so that its samples are distributed as its teacher's guided ones.

A loss between pairs averages over what a student cannot know. Here a follower, at first the teacher's net, learns to
denoise the student's samples x, and these are moved along the difference of two scores: of x_t, x with noise,

    ∇ = (x̂_0 of the follower − x̂_0 of the teacher, with its guidance) ÷ mean |x − x̂_0 of the teacher|

says where the student's samples lie closer than the teacher's would (Yin et al. 2024a, "One-step Diffusion with
Distribution Matching Distillation", eq. 7 and 8). Where the follower takes several steps to one of the student,
no pairs of noise and sample are needed (Yin et al. 2024b, "Improved Distribution Matching Distillation", section 4.2).
"""

import itertools
from collections.abc import Mapping

import torch

from compress.data import Batch
from compress.devices import send
from compress.diffusion.targets import Grid, relative_error
from compress.model.denoiser import Denoiser
from compress.model.noising import clean_estimate, noised, with_scale
from compress.training.loop import Objective

ENDS = (0.02, 0.98)  # of the training timesteps: nothing is told from noise, or from a clean sample, beyond


class Match(Objective):
    """The objective of `distill_steps: {method: distribution}`. Student and follower are trained.

    follower: has the teacher's net to begin with, and no guidance. pace: how many steps it takes to one of the student.
    """

    unused = True  # the student's weights, in steps of the follower alone

    def __init__(self, student: Denoiser, teacher: Denoiser, follower: Denoiser, grid: Grid, pace: int) -> None:
        super().__init__(student, teacher)
        self.follower, self.follows = follower, follower.module
        self.grid, self.pace = grid, pace
        known = teacher.sampling.training
        first, last = (round(end * (len(known) - 1)) for end in ENDS)
        self.known = known.sort().values[first : last + 1]

    @property
    def models(self) -> tuple[Denoiser, ...]:
        """The follower too."""
        return (*super().models, self.follower)

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """`match`, by which samples move, 0 in steps of the follower alone; `follow`, the follower's own loss."""
        leads = bool(torch.rand((), generator=random) * self.pace < 1)
        conditions = with_scale(self.student.sampling.guidance.scales, batch.conditions, batch.images, random)
        with torch.set_grad_enabled(leads and torch.is_grad_enabled()):
            samples = self._drawn(batch, conditions, random)
        still = Batch(samples.detach(), conditions)
        match = self._moved(samples, still, random) if leads else samples.new_zeros(())
        return {"match": match, "follow": self._followed(still, random)}

    def _drawn(self, batch: Batch, conditions: Mapping[str, torch.Tensor], random: torch.Generator) -> torch.Tensor:
        """The student's own samples, by all of its steps."""
        sample = send(torch.randn(batch.images.shape, generator=random), batch.images.device)
        (places,) = self.grid.places.values()
        for begin, end in itertools.pairwise(places):
            timestep = send(self.grid.timesteps[begin].expand(len(sample)), sample.device)
            levels = self.grid.levels(begin, sample)
            clean = clean_estimate(self.student, sample, timestep, conditions, levels)
            sample = self.grid.arrive(clean, sample, begin, end)
        return sample

    def _moved(self, samples: torch.Tensor, still: Batch, random: torch.Generator) -> torch.Tensor:
        """Its gradient by the samples is ∇ ÷ their number."""
        with torch.no_grad():
            question = noised(self.teacher, still, random, self.known)
            assert question.levels is not None
            real, fake = (
                clean_estimate(one, *question.asked, question.levels) for one in (self.teacher, self.follower)
            )
            size = (still.images - real).abs().flatten(1).mean(1).clamp_min(1e-6)
            step = (fake - real) / size.view(-1, *[1] * (real.dim() - 1))
            wanted = (still.images - step).float()
        return (samples.float() - wanted).square().mean() / 2

    def _followed(self, still: Batch, random: torch.Generator) -> torch.Tensor:
        """The follower's own loss: of the clean samples that it sees in noisy ones, weighted as in distillation."""
        question = noised(self.follower, still, random, self.known)
        assert question.levels is not None
        found = clean_estimate(self.follower, *question.asked, question.levels)
        return relative_error(found.float(), still.images, *question.levels)
