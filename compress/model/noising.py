"""Noisy samples and dropped conditions: what objectives and probes ask a net."""

import dataclasses
from collections.abc import Mapping

import torch

from compress.data import Batch
from compress.devices import send
from compress.diffusion.levels import Pair, spread
from compress.diffusion.prediction import add_noise, target
from compress.diffusion.targets import clean_sample
from compress.model.denoiser import Denoiser, guided, null_conditions
from compress.model.scalars import GUIDANCE_SCALE


@dataclasses.dataclass(frozen=True)
class Question:
    """What a net is asked: sample [b,…], timestep [b], conditions.

    levels: (α, σ) [b,1,…] of the sample; answer: what is true of it [b,…]. Both only where its image is known.
    """

    sample: torch.Tensor
    timestep: torch.Tensor
    conditions: Mapping[str, torch.Tensor]
    levels: Pair | None = None
    answer: torch.Tensor | None = None

    @property
    def asked(self) -> tuple[torch.Tensor, torch.Tensor, Mapping[str, torch.Tensor]]:
        """Sample, timestep and conditions."""
        return self.sample, self.timestep, self.conditions

    def __getitem__(self, part: slice) -> "Question":
        return Question(
            self.sample[part],
            self.timestep[part],
            {name: value[part] for name, value in self.conditions.items()},
            None if self.levels is None else (self.levels[0][part], self.levels[1][part]),
            None if self.answer is None else self.answer[part],
        )


def noised(
    model: Denoiser,
    batch: Batch,
    random: torch.Generator,
    known: torch.Tensor | None = None,
    at: torch.Tensor | None = None,
) -> Question:
    """A batch with noise, at timesteps drawn from `known`, by default those that the model samples at.

    at: timesteps [b] instead of those, which are drawn all the same.
    """
    known = torch.tensor(model.sampling.timesteps) if known is None else known
    drawn = known[torch.randint(len(known), (len(batch.images),), generator=random)]
    timestep = drawn if at is None else at
    noise = send(torch.randn(batch.images.shape, generator=random), batch.images.device)
    alpha, sigma = model.sampling.alpha_sigma(timestep, batch.images)
    kind, data = model.sampling.prediction_type, model.sampling.sigma_data
    return Question(
        add_noise(batch.images, noise, alpha, sigma),
        send(timestep, batch.images.device),
        batch.conditions,
        (alpha, sigma),
        target(kind, batch.images, noise, alpha, sigma, data),
    )


def with_null(model: Denoiser, question: Question, random: torch.Generator, share: float | None = None) -> Question:
    """The same with the null condition for a random share of items, by default its weight in the model's guidance."""
    share = null_share(model.sampling.guidance.scale) if share is None else share
    chosen = torch.rand(len(question.sample), generator=random) < share
    if model.sampling.guidance.kind != "cfg":
        return question
    given, null = question.conditions, null_conditions(model, question.conditions)
    mixed = {name: torch.where(spread(chosen, value), null[name], value) for name, value in given.items()}
    return dataclasses.replace(question, conditions=mixed)


def clean_estimate(
    model: Denoiser,
    sample: torch.Tensor,
    timestep: torch.Tensor,
    conditions: Mapping[str, torch.Tensor],
    levels: Pair,
) -> torch.Tensor:
    """x̂_0 [b,…] that a model's guided output says, for samples whose (α, σ) are `levels`."""
    return clean_sample(model.sampling, sample, guided(model, sample, timestep, conditions), *levels)


def null_share(scale: float) -> float:
    """(s − 1)/(2s − 1): the unconditional evaluation's share of the weights in s·c − (s − 1)·u; 0 for s ≤ 1."""
    return (scale - 1) / (2 * scale - 1) if scale > 1 else 0.0


def with_scale(
    scales: tuple[float, float] | None,
    conditions: Mapping[str, torch.Tensor],
    like: torch.Tensor,
    random: torch.Generator,
) -> Mapping[str, torch.Tensor]:
    """Conditions with a guidance scale for each of the samples, drawn from a range, unless they hold one."""
    if scales is None:
        return conditions
    low, high = scales
    drawn = low + (high - low) * torch.rand(len(like), generator=random)
    return {GUIDANCE_SCALE: send(drawn, like.device), **conditions}
