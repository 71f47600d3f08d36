"""Levels: how much of the clean sample and of noise a noisy one holds, x = α·x_0 + σ·ε, at the number told to the net.

x is what the net takes. A net of noise of deviation s that is given x divided by √(s² + d²) sees the quotient, so that
quotient is x here and nothing is scaled between sampler and net; solvers keep their form where a path is scaled.

    betas   α² + σ² = 1, told the timestep. Karras's s is σ/α, and Euler's step in s is DDIM's
    flow    α = 1 − σ, told num_train_timesteps·σ. Lipman et al. 2023; Esser et al. 2024
    edm     α = 1/√(s² + d²), σ = s·α for data of deviation d, told ln(s)/4. Karras et al. 2022, table 1
"""

from typing import Literal

import numpy as np
import torch
from pydantic import Field

from compress.devices import send
from compress.settings import Frozen

Pair = tuple[torch.Tensor, torch.Tensor]
RHO = 7.0  # of Karras's spacing


class Between(Frozen):
    """By betas, at numbers between the training timesteps too."""

    kind: Literal["between"] = "between"
    interpolation: Literal["linear", "log"] = Field("linear", description="of σ/α between two training timesteps")
    whole: bool = Field(False, description="the net is told the nearest training timestep")


class Flow(Frozen):
    """Flow matching."""

    kind: Literal["flow"] = "flow"
    shift: float = Field(1.0, gt=0, description="towards noise, of the levels of training: s·σ/(1 + (s − 1)·σ)")


class Edm(Frozen):
    """σ-parameterised noise on data of deviation `sigma_data`."""

    kind: Literal["edm"] = "edm"
    sigma_min: float = Field(0.002, gt=0)
    sigma_max: float = Field(80.0, gt=0)
    sigma_data: float = Field(0.5, gt=0)


def between(timestep: torch.Tensor, alphas_cumprod: torch.Tensor, interpolation: str) -> torch.Tensor:
    """ᾱ, float64 [b], at numbers [b] between training timesteps. alphas_cumprod: float64 [num_train_timesteps]."""
    below = timestep.floor().long()
    ends = alphas_cumprod[below], alphas_cumprod[(below + 1).clamp_max(len(alphas_cumprod) - 1)]
    low, high = (((1 - end) / end).sqrt() for end in ends)
    share = timestep.double() - below
    ratio = torch.lerp(low.log(), high.log(), share).exp() if interpolation == "log" else torch.lerp(low, high, share)
    return torch.where(share == 0, ends[0], 1 / (1 + ratio.square()))


def flow(timestep: torch.Tensor, count: int) -> Pair:
    """(α, σ), float64, of flow matching with `count` training timesteps."""
    sigma = timestep.double() / count
    return 1 - sigma, sigma


def edm(timestep: torch.Tensor, data: float) -> Pair:
    """(α, σ), float64, of σ-parameterised noise on data of that deviation."""
    noise = (4 * timestep.double()).exp()
    alpha = (noise.square() + data**2).rsqrt()
    return alpha, noise * alpha


def shifted(sigma: np.ndarray, shift: float) -> np.ndarray:
    """Levels of flow matching moved towards noise. Esser et al. 2024, eq. 23."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def flow_timesteps(shift: float, steps: int, count: int) -> np.ndarray:
    """`steps` descending timesteps of flow matching. As in diffusers, the smallest of training is shifted once more."""
    least = shifted(np.array(1 / count), shift)
    return shifted(np.linspace(1, least, steps), shift) * count


def karras(low: float, high: float, steps: int) -> np.ndarray:
    """Descending noise-to-signal ratios. Karras et al. 2022, eq. 5."""
    ramp = np.linspace(0, 1, steps)
    return (high ** (1 / RHO) + ramp * (low ** (1 / RHO) - high ** (1 / RHO))) ** RHO


def karras_timesteps(low: float, high: float, steps: int, alphas_cumprod: torch.Tensor) -> np.ndarray:
    """Numbers between training timesteps, with σ/α spaced so and interpolated in its logarithm."""
    log_ratio = (((1 - alphas_cumprod) / alphas_cumprod).log() / 2).numpy()
    return np.interp(np.log(karras(low, high, steps)), log_ratio, np.arange(len(log_ratio)))


def spread(value: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """One number for each item, [b], as [b,1,…] on the device of samples [b,…]."""
    return send(value, sample.device).view(-1, *[1] * (sample.ndim - 1))
