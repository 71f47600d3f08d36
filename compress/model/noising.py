"""Noisy samples and dropped conditions, for objectives and probes."""

from collections.abc import Mapping

import torch

from compress.data import Batch
from compress.diffusion.levels import spread
from compress.diffusion.prediction import add_noise
from compress.model.denoiser import Denoiser, null_conditions


def noised(
    model: Denoiser, batch: Batch, timestep: torch.Tensor, random: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(noisy sample, noise, α, σ) for a batch at timesteps [b]."""
    noise = torch.randn(batch.images.shape, generator=random).to(batch.images)
    alpha, sigma = model.sampling.alpha_sigma(timestep, batch.images)
    return add_noise(batch.images, noise, alpha, sigma), noise, alpha, sigma


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
