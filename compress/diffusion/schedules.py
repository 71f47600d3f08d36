"""Noise schedules and timestep spacings.

The forward process is x_t = α_t·x_0 + σ_t·ε with α_t² = ᾱ_t = Π(1 − β) and σ_t² = 1 − ᾱ_t
(variance preserving; Ho et al. 2020, eq. 4).
"""

import math
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from compress.settings import Frozen, Listed

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
Beta = Annotated[float, Field(ge=0, le=1)]
Spacing = Literal["leading", "trailing", "linspace"]


class Betas(Frozen):
    """Variances of the forward process, as diffusers' scheduler configs name them."""

    num_train_timesteps: Annotated[int, Field(ge=1, le=100_000)] = 1000
    beta_schedule: BetaSchedule = "linear"
    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02
    trained_betas: Listed[Beta] | None = None


def betas(kind: BetaSchedule, count: int, start: float, end: float) -> torch.Tensor:
    """Variances β_t, float64 [count].

    linear: Ho et al. 2020; scaled_linear: linear in √β (Rombach et al. 2022); squaredcos_cap_v2:
    Nichol & Dhariwal 2021, eq. 17, each β capped at 0.999 (`start` and `end` are not used).
    """
    if kind == "linear":
        return torch.linspace(start, end, count, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64) ** 2

    def alpha_bar(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    return torch.tensor(
        [min(1 - alpha_bar((i + 1) / count) / alpha_bar(i / count), 0.999) for i in range(count)],
        dtype=torch.float64,
    )


def rescale_zero_terminal_snr(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """ᾱ [n] shifted and scaled so that the last is 0 and the first is kept. Lin et al. 2024, alg. 1."""
    root = alphas_cumprod.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    return ((root - last) * first / (first - last)) ** 2


def timesteps(kind: Spacing, steps: int, count: int, offset: int = 0, multistep: bool = False) -> list[int]:
    """`steps` descending timesteps out of `count`. Lin et al. 2024, table 2.

    multistep: diffusers' multistep solvers place `leading` and `linspace` as if for one step more and
    leave out the last; its DDIM does not.
    """
    extra = int(multistep)
    if kind == "trailing":
        values = np.round(np.arange(count, 0, -count / steps))[:steps] - 1  # rounding may give one too many
    elif kind == "leading":
        values = (np.arange(0, steps + extra) * (count // (steps + extra)))[::-1][:steps] + offset
    else:
        values = np.round(np.linspace(0, count - 1, steps + extra))[::-1][:steps]
    return [int(value) for value in values]


def cheapest_path(cost: np.ndarray, count: int) -> list[int]:
    """Places [count] where the steps of the cheapest path from the first to the last place begin.

    cost [n + 1,n + 1]: of one step from place i to place j > i. Dynamic programming over the number of steps, as
    Chen et al. 2024, "On the Trajectory Regularity of ODE-based Diffusion Sampling", algorithm 1.
    """
    last = len(cost) - 1
    if not 1 <= count <= last:
        raise ValueError(f"{count} steps over {last} places")
    best = np.full((count + 1, last + 1), np.inf)
    before = np.zeros((count + 1, last + 1), dtype=int)
    best[0, 0] = 0
    for step in range(1, count + 1):
        for j in range(step, last + 1):
            options = best[step - 1, :j] + cost[:j, j]
            before[step, j] = int(np.argmin(options))
            best[step, j] = options[before[step, j]]
    path, place = [], last
    for step in range(count, 0, -1):
        place = int(before[step, place])
        path.append(place)
    return path[::-1]
