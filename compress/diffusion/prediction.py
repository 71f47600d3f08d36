"""What a model predicts (ε, v, x_0, a velocity) and how one follows from another, for any α and σ.

Every output is a mixture p·x_0 + q·ε, so x_0 follows from it and x_t = α·x_0 + σ·ε. α and σ are numbers, or tensors
broadcastable to the sample's shape. data: standard deviation of the data that v and EDM's output suppose, 1 for a
variance-preserving model.
"""

from typing import Any, Literal

import torch

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow_prediction", "edm"]


def _mixture(kind: PredictionType, alpha: Any, sigma: Any, data: float) -> tuple[Any, Any, Any]:
    """(p, q, α·q − σ·p).

    v = α·ε − σ·x_0: Salimans & Ho 2022, appendix D. flow_prediction: ε − x_0, Esser et al. 2024, section 2. edm: F of
    Karras et al. 2022, eq. 7, which is −v of data ÷ its deviation.
    """
    if kind == "epsilon":
        return 0.0, 1.0, alpha
    if kind == "sample":
        return 1.0, 0.0, -sigma
    if kind == "flow_prediction":
        return -1.0, 1.0, alpha + sigma
    sign = -1.0 if kind == "edm" else 1.0
    return -sign * sigma / data, sign * alpha * data, sign / data


def add_noise(clean: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """x_t = α·x_0 + σ·ε, of any shape."""
    return alpha * clean + sigma * noise


def target(
    kind: PredictionType,
    clean: torch.Tensor,
    noise: torch.Tensor,
    alpha: torch.Tensor,
    sigma: torch.Tensor,
    data: float = 1.0,
) -> torch.Tensor:
    """What the model should output, in the shape of `clean`."""
    from_clean, from_noise, _ = _mixture(kind, alpha, sigma, data)
    mixed: torch.Tensor = from_clean * clean + from_noise * noise
    return mixed


def score_shift(
    kind: PredictionType, gradient: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor, data: float = 1.0
) -> torch.Tensor:
    """How the model's output changes when `gradient` is added to the score ∇ log p(x_t). Not finite at α = 0.

    ε = −σ·∇ log p (Song et al. 2021, "Score-Based Generative Modeling"); the others follow from ε at the same x_t.
    """
    shift: torch.Tensor = -sigma / alpha * _mixture(kind, alpha, sigma, data)[2] * gradient
    return shift


def clean_coefficients(kind: PredictionType, alpha: Any, sigma: Any, data: float = 1.0) -> tuple[Any, Any]:
    """(a, b) with x_0 = a·x_t + b·output: (q, −σ) ÷ (α·q − σ·p).

    Raises ZeroDivisionError for ε-prediction at α = 0, where the sample holds no trace of x_0; of tensors, infinity.
    """
    if kind == "sample":
        return 0.0, 1.0
    _, from_noise, determinant = _mixture(kind, alpha, sigma, data)
    return from_noise / determinant, -sigma / determinant
