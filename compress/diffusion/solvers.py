"""Deterministic solvers of the probability-flow ODE as tables of linear coefficients (`Step`).

A path is given by α [n+1] and σ [n+1]: n steps, the last entry being where the last step arrives. A solver says, for
each step, what the next sample takes of the sample, of x̂_0, and of the x̂_0 before that.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from compress.diffusion.prediction import PredictionType, clean_coefficients
from compress.runtime.sampling import Step

SolverName = Literal["ddim", "dpmpp_2m", "unipc"]
Weights = Iterator[tuple[float, ...]]


def table(
    solver: SolverName,
    prediction: PredictionType,
    told: Sequence[float],
    alpha: Sequence[float],
    sigma: Sequence[float],
    data: float = 1.0,
) -> list[Step]:
    """The steps of a solver. told: what the net is told at each. data: as in `prediction`."""
    clean = [clean_coefficients(prediction, alpha[i], sigma[i], data) for i in range(len(told))]
    return [Step(*step) for step in ((told[i], *clean[i], *to) for i, to in enumerate(SOLVERS[solver](alpha, sigma)))]


def ddim(alpha: Sequence[float], sigma: Sequence[float]) -> Weights:
    """DDIM, η = 0: x_s = α_s·x̂_0 + σ_s·ε̂ with ε̂ = (x_t − α_t·x̂_0)/σ_t. Song et al. 2021, eq. 12."""
    for i in range(len(alpha) - 1):
        ratio = sigma[i + 1] / sigma[i]
        yield ratio, alpha[i + 1] - alpha[i] * ratio


def dpmpp_2m(alpha: Sequence[float], sigma: Sequence[float]) -> Weights:
    """DPM-Solver++(2M). Lu et al. 2022, algorithm 2.

    x_s = (σ_s/σ_t)·x_t + (α_s − α_t·σ_s/σ_t)·D with D = (1 + 1/2r)·x̂_0 − (1/2r)·previous x̂_0 and
    r = previous h ÷ h, h = λ_s − λ_t, λ = ln(α/σ). First order for the first step, for a last step
    that arrives at σ = 0, and (as diffusers' lower_order_final) for the last of fewer than 15 steps.
    """
    count = len(alpha) - 1
    for i, (sample, clean) in enumerate(ddim(alpha, sigma)):
        if i == 0 or (i == count - 1 and (sigma[i + 1] == 0 or count < 15)):
            weight = 0.0
        else:
            weight = (_log_snr(i + 1, alpha, sigma) - _log_snr(i, alpha, sigma)) / (
                2 * (_log_snr(i, alpha, sigma) - _log_snr(i - 1, alpha, sigma))
            )  # 1/2r; 0 where the previous step started from pure noise (λ = −∞)
        yield sample, clean * (1 + weight), -clean * weight


def unipc(alpha: Sequence[float], sigma: Sequence[float]) -> Weights:
    """UniPC of order 2 with B(h) = e^h − 1. Zhao et al. 2023, algorithms 1 and 2.

    The corrector of a step needs x̂_0 of where it arrived, so it is part of the next: it adds to the sample
    K·(ρ·(x̂_0 − previous) + c·(the one before − previous)), K being what the last step took of x̂_0. The last step is of
    first order and has no corrector, as in diffusers.
    """
    before = (0.0, 0.0, 0.0)  # K, ρ and c of the last step
    for i, (sample, clean) in enumerate(ddim(alpha, sigma)):
        weight, rho, extra = 0.0, 0.5, 0.0
        if 0 < i < len(alpha) - 2:
            h = _log_snr(i + 1, alpha, sigma) - _log_snr(i, alpha, sigma)
            place = (_log_snr(i - 1, alpha, sigma) - _log_snr(i, alpha, sigma)) / h
            whole = -1 / math.expm1(-h)
            both = whole - 1 / h  # ρ of both differences together
            past = (both - whole + 2 * both / h) / (1 - place)
            weight, rho, extra = 0.5 / place, both - past, (past - 0.5) / place
        corrected, new, old = sample * before[0], before[1], before[2]
        yield (
            sample,
            clean * (1 - weight) + corrected * new,
            clean * weight - corrected * (new + old),
            corrected * old,
        )
        before = (clean, rho, extra)


def _log_snr(i: int, alpha: Sequence[float], sigma: Sequence[float]) -> float:
    return math.log(alpha[i] / sigma[i]) if alpha[i] > 0 else -math.inf


SOLVERS: dict[SolverName, Callable[[Sequence[float], Sequence[float]], Weights]] = {
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "unipc": unipc,
}
