"""What a student is to predict so that one of its steps arrives where several of its teacher's do.

Samples [b,…]; levels α and σ, of where a step begins and of where it arrives (`_to`), broadcastable to them.
"""

from collections.abc import Iterable

import torch

from compress.diffusion.levels import spread
from compress.diffusion.prediction import clean_coefficients
from compress.diffusion.sampling import Sampling

Place = torch.Tensor | int  # of a grid, one for each sample or one for all


def clean_sample(
    sampling: Sampling, sample: torch.Tensor, output: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """x̂_0 that a model's output says. ε-prediction has none at α = 0: the result is then not finite."""
    from_sample, from_output = clean_coefficients(sampling.prediction_type, alpha, sigma, sampling.sigma_data)
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


def relative_error(found: torch.Tensor, wanted: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The squared error of x̂_0, so weighted, ÷ the same of what is wanted: it means the same on every model."""
    weight = truncated_snr(alpha, sigma)
    return (weight * (found - wanted).square()).mean() / (weight * wanted.square()).mean()


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

    def levels(self, place: Place, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(α, σ) at places of the grid, for samples like these."""
        return spread(self.alpha[place], like), spread(self.sigma[place], like)

    def arrive(self, clean: torch.Tensor, sample: torch.Tensor, begin: Place, end: Place) -> torch.Tensor:
        """Where a step from place to place arrives that finds this clean sample."""
        return arrival(clean, sample, *self.levels(begin, sample), *self.levels(end, sample))

    def error(
        self, clean: torch.Tensor, arrived: torch.Tensor, sample: torch.Tensor, begin: Place, end: Place
    ) -> torch.Tensor:
        """How far a clean sample is from the one with which the step from place to place arrives at `arrived`."""
        levels = self.levels(begin, sample)
        return relative_error(clean, clean_target(arrived, sample, *levels, *self.levels(end, sample)), *levels)
