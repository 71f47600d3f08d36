"""What a model predicts (ε, v or x_0) and how one follows from another.

α and σ are broadcastable to the sample's shape; α² + σ² = 1.
"""

from typing import Literal

import torch

PredictionType = Literal["epsilon", "v_prediction", "sample"]


def add_noise(clean: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """x_t = α·x_0 + σ·ε. Ho et al. 2020, eq. 4. All [b,c,h,w]."""
    return alpha * clean + sigma * noise


def target(
    kind: PredictionType, clean: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """What the model should output, [b,c,h,w]. v = α·ε − σ·x_0: Salimans & Ho 2022, appendix D."""
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return clean
    return alpha * noise - sigma * clean


def score_shift(kind: PredictionType, gradient: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """How the model's output changes when `gradient` [b,c,h,w] is added to the score ∇ log p(x_t).

    ε = −σ·∇ log p (Song et al. 2021, "Score-Based Generative Modeling"); x_0 and v follow from ε at the same x_t. Not
    finite at α = 0 but for ε.
    """
    if kind == "epsilon":
        return -sigma * gradient
    if kind == "sample":
        return sigma.square() / alpha * gradient
    return -sigma / alpha * gradient


def clean_coefficients(kind: PredictionType, alpha: float, sigma: float) -> tuple[float, float]:
    """(a, b) with x_0 = a·x_t + b·output.

    Raises ZeroDivisionError for ε-prediction at α = 0, where the sample holds no trace of x_0.
    """
    if kind == "epsilon":
        return 1 / alpha, -sigma / alpha
    if kind == "sample":
        return 0.0, 1.0
    return alpha, -sigma
