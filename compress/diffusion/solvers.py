"""Deterministic solvers of the probability-flow ODE as tables of linear coefficients (`Step`).

A path is given by α [n+1] and σ [n+1]: n steps, the last entry being where the last step arrives.
"""

import math
from collections.abc import Sequence

from compress.diffusion.prediction import PredictionType, clean_coefficients
from compress.runtime.sampling import Step


def ddim(
    prediction: PredictionType, timesteps: Sequence[int], alpha: Sequence[float], sigma: Sequence[float]
) -> list[Step]:
    """DDIM, η = 0: x_s = α_s·x̂_0 + σ_s·ε̂ with ε̂ = (x_t − α_t·x̂_0)/σ_t. Song et al. 2021, eq. 12."""
    return [
        Step(timestep, *clean_coefficients(prediction, alpha[i], sigma[i]), *_first_order(i, alpha, sigma))
        for i, timestep in enumerate(timesteps)
    ]


def dpmpp_2m(
    prediction: PredictionType, timesteps: Sequence[int], alpha: Sequence[float], sigma: Sequence[float]
) -> list[Step]:
    """DPM-Solver++(2M). Lu et al. 2022, algorithm 2.

    x_s = (σ_s/σ_t)·x_t + (α_s − α_t·σ_s/σ_t)·D with D = (1 + 1/2r)·x̂_0 − (1/2r)·previous x̂_0 and
    r = previous h ÷ h, h = λ_s − λ_t, λ = ln(α/σ). First order for the first step, for a last step
    that arrives at σ = 0, and (as diffusers' lower_order_final) for the last of fewer than 15 steps.
    """
    steps = []
    for i, timestep in enumerate(timesteps):
        sample, clean = _first_order(i, alpha, sigma)
        last = i == len(timesteps) - 1
        if i == 0 or (last and (sigma[i + 1] == 0 or len(timesteps) < 15)):
            weight = 0.0
        else:
            weight = (_log_snr(i + 1, alpha, sigma) - _log_snr(i, alpha, sigma)) / (
                2 * (_log_snr(i, alpha, sigma) - _log_snr(i - 1, alpha, sigma))
            )  # 1/2r; 0 where the previous step started from pure noise (λ = −∞)
        to_clean = clean_coefficients(prediction, alpha[i], sigma[i])
        steps.append(Step(timestep, *to_clean, sample, clean * (1 + weight), -clean * weight))
    return steps


def _first_order(i: int, alpha: Sequence[float], sigma: Sequence[float]) -> tuple[float, float]:
    ratio = sigma[i + 1] / sigma[i]
    return ratio, alpha[i + 1] - alpha[i] * ratio


def _log_snr(i: int, alpha: Sequence[float], sigma: Sequence[float]) -> float:
    return math.log(alpha[i] / sigma[i]) if alpha[i] > 0 else -math.inf


SOLVERS = {"ddim": ddim, "dpmpp_2m": dpmpp_2m}
