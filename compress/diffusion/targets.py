"""What a student is to predict so that one of its steps arrives where several of its teacher's do.

Samples [b,…]; levels α and σ, of where a step begins and of where it arrives (`_to`), broadcastable to them.
"""

from collections.abc import Iterable

import torch

from compress.diffusion.levels import spread
from compress.diffusion.prediction import PredictionType, clean_coefficients
from compress.diffusion.sampling import Sampling


def clean_sample(
    kind: PredictionType,
    sample: torch.Tensor,
    output: torch.Tensor,
    alpha: torch.Tensor,
    sigma: torch.Tensor,
    data: float = 1.0,
) -> torch.Tensor:
    """x̂_0 that a model's output says. ε-prediction has none at α = 0: the result is then not finite."""
    from_sample, from_output = clean_coefficients(kind, alpha, sigma, data)
    clean: torch.Tensor = from_sample * sample + from_output * output
    return clean


def arrival(
    clean: torch.Tensor,
    sample: torch.Tensor,
    alpha: torch.Tensor,
    sigma: torch.Tensor,
    alpha_to: torch.Tensor,
    sigma_to: torch.Tensor,
) -> torch.Tensor:
    """Where a step of DDIM with η = 0 arrives. Song et al. 2021, eq. 12: α_s·x̂_0 + (σ_s/σ_t)·(x_t − α_t·x̂_0)."""
    return alpha_to * clean + sigma_to / sigma * (sample - alpha * clean)


def clean_target(
    arrived: torch.Tensor,
    sample: torch.Tensor,
    alpha: torch.Tensor,
    sigma: torch.Tensor,
    alpha_to: torch.Tensor,
    sigma_to: torch.Tensor,
) -> torch.Tensor:
    """x̂_0 with which a step of DDIM arrives at `arrived`: the inverse of `arrival`.

    Salimans & Ho 2022, appendix G: (x_s − (σ_s/σ_t)·x_t) ÷ (α_s − (σ_s/σ_t)·α_t).
    """
    ratio = sigma_to / sigma
    return (arrived - ratio * sample) / (alpha_to - ratio * alpha)


def truncated_snr(alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """max(α²/σ², 1): weight of a squared error of x̂_0, the larger of it and that of ε. Salimans & Ho 2022, eq. 9."""
    return (alpha / sigma).square().clamp_min(1)


def spaced(length: int, count: int) -> list[int]:
    """Places of `count` steps in a grid of `length`, from its first on; those of 2·count contain those of count."""
    return [round(i * length / count) for i in range(count)]


class Grid:
    """The levels that a teacher's sampling goes through, noise first and clean last.

    timesteps [n]; alpha, sigma float32 [n + 1]; places: step count → where on the grid its steps begin, and the end.
    """

    def __init__(self, sampling: Sampling, counts: Iterable[int], own: tuple[float, ...]) -> None:
        self.timesteps = torch.tensor(sampling.timesteps)
        self.alpha, self.sigma = map(torch.tensor, sampling.levels())
        length = len(self.timesteps)
        chosen = [sampling.timesteps.index(t) for t in own] if set(own) <= set(sampling.timesteps) else []
        self.places = {n: [*(chosen if len(chosen) == n else spaced(length, n)), length] for n in counts}

    def levels(self, place: torch.Tensor | int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(α, σ) at places of the grid, for samples like these."""
        return spread(self.alpha[place], like), spread(self.sigma[place], like)
