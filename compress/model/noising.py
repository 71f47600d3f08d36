"""Noisy samples and dropped conditions, for objectives and probes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from compress.data import Batch
from compress.diffusion.levels import spread
from compress.diffusion.prediction import add_noise, target
from compress.model.denoiser import Denoiser, null_conditions


@dataclass(frozen=True)
class Noised:
    """Samples [b,…] as a model meets them: at timesteps [b] of levels α, σ [b,1,…]. truth: what it should say [b,…]."""

    sample: torch.Tensor
    timestep: torch.Tensor
    conditions: Mapping[str, torch.Tensor]
    truth: torch.Tensor
    alpha: torch.Tensor
    sigma: torch.Tensor


def noised(model: Denoiser, batch: Batch, random: torch.Generator, timesteps: torch.Tensor | None = None) -> Noised:
    """A batch at random ones of `timesteps` [n]; None: of those that the model samples at."""
    own = torch.tensor(model.sampling.timesteps) if timesteps is None else timesteps
    timestep = own[torch.randint(len(own), (len(batch.images),), generator=random)]
    noise = torch.randn(batch.images.shape, generator=random).to(batch.images)
    alpha, sigma = model.sampling.alpha_sigma(timestep, batch.images)
    truth = target(model.sampling.prediction_type, batch.images, noise, alpha, sigma, model.sampling.sigma_data)
    sample = add_noise(batch.images, noise, alpha, sigma)
    return Noised(sample, timestep.to(sample.device), batch.conditions, truth, alpha, sigma)


def as_sampled(model: Denoiser, batch: Batch, random: torch.Generator, timesteps: torch.Tensor | None = None) -> Noised:
    """As `noised`, with as many null conditions as the model's guidance gives weight to."""
    given = noised(model, batch, random, timesteps)
    null = torch.rand(len(given.sample), generator=random) < null_share(model.sampling.guidance.scale)
    return replace(given, conditions=with_null(model, given.conditions, null))


def with_null(
    model: Denoiser, conditions: Mapping[str, torch.Tensor], chosen: torch.Tensor
) -> Mapping[str, torch.Tensor]:
    """Conditions with the null condition in the places `chosen` (bool [b])."""
    if model.sampling.guidance.kind != "cfg":
        return conditions
    null = null_conditions(model, conditions)
    return {name: torch.where(spread(chosen, value), null[name], value) for name, value in conditions.items()}


def null_share(scale: float) -> float:
    """(s − 1)/(2s − 1): the unconditional evaluation's share of the weights in s·c − (s − 1)·u; 0 for s ≤ 1."""
    return (scale - 1) / (2 * scale - 1) if scale > 1 else 0.0
