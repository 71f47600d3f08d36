"""`Sampling`: how a denoiser is drawn from. It is part of the model: calibration, distillation,
export, verification and the device all read the same one."""

import dataclasses
import math
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from compress.devices import send
from compress.diffusion import levels, schedules, solvers
from compress.diffusion.prediction import PredictionType
from compress.diffusion.solvers import SolverName
from compress.runtime.sampling import Step
from compress.settings import Frozen, Listed, Pair

LARGEST = 1e8  # coefficient of a solver step; epsilon prediction on the cosine schedule has 2·10⁴
Schedule = Annotated[levels.Between | levels.Flow | levels.Edm, Field(discriminator="kind")]


class Guidance(Frozen):
    """How conditions steer the sample."""

    kind: Literal["none", "cfg", "classifier", "embedded", "baked"] = Field(
        "none",
        description="cfg: two evaluations, with and without the condition; classifier: one, and the gradient of a "
        "classifier of noisy samples; embedded: one, of a net that takes the scale as an input; baked: one, of a net "
        "that knows this scale alone",
    )
    scale: float = Field(
        1.0,
        description="diffusers' guidance_scale = 1 + w; 1 is conditional without guidance. Of a classifier: the factor "
        "of its gradient, and 0 is without guidance",
    )
    scales: Pair[float] | None = Field(None, description="the scales that an embedded net was trained for")
    null_class: int | None = Field(None, ge=0, description="label that stands for 'no class'")

    @property
    def online(self) -> bool:
        """Whether guidance costs more than one evaluation of the net, so that it can be distilled."""
        return self.kind in ("cfg", "classifier")


class Sampling(schedules.Betas):
    """Noise schedule, prediction type, solver, exact timesteps, clipping and guidance."""

    zero_terminal_snr: bool = False
    prediction_type: PredictionType = "epsilon"
    schedule: Schedule | None = Field(
        None, exclude_if=lambda schedule: schedule is None, description="absent: by the betas, at whole timesteps"
    )
    solver: SolverName = "ddim"
    timesteps: Listed[int | float] = Field(description="descending, each in 0…num_train_timesteps−1")
    final: Literal["clean", "first"] = Field(
        "clean", description="where the last step arrives: at σ = 0, or at the noise of timestep 0"
    )
    clip_range: float | None = Field(None, gt=0)
    guidance: Guidance = Guidance()
    others: Listed[Listed[int | float]] = Field(
        (), description="timesteps for other numbers of steps that the same net serves"
    )

    distilled: bool = Field(
        False, description="one evaluation does the work of several of the teacher's, at these timesteps alone"
    )

    @model_validator(mode="after")
    def _check_timesteps(self) -> "Sampling":
        for timesteps in (self.timesteps, *self.others):
            descending = sorted(set(timesteps), reverse=True)
            if not descending or list(timesteps) != descending:
                raise ValueError("timesteps should be a descending list without repetition")
            if self.schedule is None and any(type(timestep) is not int for timestep in timesteps):
                raise ValueError("timesteps should be whole numbers")
            last = self.num_train_timesteps - (not isinstance(self.schedule, levels.Flow))
            if not isinstance(self.schedule, levels.Edm) and (descending[0] > last or descending[-1] < 0):
                raise ValueError(f"timesteps should lie in 0…{last}")
        return self

    @model_validator(mode="after")
    def _check_schedule(self) -> "Sampling":
        found = None if self.trained_betas is None else len(self.trained_betas)
        if found not in (None, self.num_train_timesteps):
            raise ValueError(f"trained_betas: {found} numbers for {self.num_train_timesteps} training timesteps")
        for timesteps in (self.timesteps, *self.others):
            try:
                steps = self.model_copy(update={"timesteps": timesteps}).steps()
                numbers = [value for step in steps for value in dataclasses.astuple(step)[1:]]
            except (ArithmeticError, ValueError):  # of division by zero, and of the logarithm
                numbers = [math.nan]
            if not all(abs(number) < LARGEST for number in numbers):
                raise ValueError(
                    f"{'betas' if self.schedule is None else 'levels'}: a sample cannot be drawn with this noise "
                    "schedule, whose numbers at the timesteps are too large or infinite"
                )
        return self

    def at(self, count: int) -> "Sampling":
        """The same sampling in another number of steps that the net serves. Raises ValueError if it does not."""
        served = {len(timesteps): timesteps for timesteps in (self.timesteps, *self.others)}
        if count not in served:
            raise ValueError(f"{count} steps: the model serves {', '.join(map(str, sorted(served)))}")
        others = tuple(timesteps for number, timesteps in sorted(served.items()) if number != count)
        return self.model_copy(update={"timesteps": served[count], "others": others})

    @cached_property
    def alphas_cumprod(self) -> torch.Tensor:
        """ᾱ_t, float64 [num_train_timesteps]."""
        if self.trained_betas is not None:
            beta = torch.tensor(self.trained_betas, dtype=torch.float64)
        else:
            beta = schedules.betas(self.beta_schedule, self.num_train_timesteps, self.beta_start, self.beta_end)
        cumulative = torch.cumprod(1 - beta, dim=0)
        return schedules.rescale_zero_terminal_snr(cumulative) if self.zero_terminal_snr else cumulative

    @cached_property
    def training(self) -> torch.Tensor:
        """Every timestep that the net is trained at, cleanest first: [num_train_timesteps], int64 or float64."""
        count = self.num_train_timesteps
        if isinstance(self.schedule, levels.Flow):
            return torch.from_numpy(levels.shifted(np.arange(1, count + 1) / count, self.schedule.shift) * count)
        if isinstance(self.schedule, levels.Edm):
            noise = levels.karras(self.schedule.sigma_min, self.schedule.sigma_max, count)
            return torch.from_numpy(np.log(noise[::-1]) / 4)
        return torch.arange(count)

    @property
    def sigma_data(self) -> float:
        """The deviation of the data that the net's output supposes."""
        return self.schedule.sigma_data if isinstance(self.schedule, levels.Edm) else 1.0

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers that the net is told."""
        whole = self.schedule is None or (isinstance(self.schedule, levels.Between) and self.schedule.whole)
        return torch.int64 if whole else torch.float32

    def told(self, timestep: torch.Tensor) -> torch.Tensor:
        """What the net is told at timesteps, in their shape."""
        whole = self.dtype == torch.int64 and timestep.is_floating_point()
        return (timestep.round() if whole else timestep).to(self.dtype)

    def told_at(self, told: float) -> torch.Tensor:
        """The ends [2] of the timesteps at which the net is told a number; both the same unless it is rounded."""
        ends = torch.tensor([told, told], dtype=torch.int64 if self.schedule is None else torch.float64)
        if self.schedule is None or self.dtype == torch.float32:
            return ends
        return (ends + torch.tensor([-0.5, 0.5])).clamp(0, self.num_train_timesteps - 1)

    def _cumulative(self, timestep: torch.Tensor) -> torch.Tensor:
        """ᾱ, float64, at timesteps of a schedule by betas."""
        cumulative = send(self.alphas_cumprod, timestep.device)
        if isinstance(self.schedule, levels.Between):
            return levels.between(timestep, cumulative, self.schedule.interpolation)
        return cumulative[timestep]

    def level(self, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(α, σ), float64, at timesteps, in their shape."""
        if isinstance(self.schedule, levels.Flow):
            return levels.flow(timestep, self.num_train_timesteps)
        if isinstance(self.schedule, levels.Edm):
            return levels.edm(timestep, self.schedule.sigma_data)
        cumulative = self._cumulative(timestep)
        return cumulative.sqrt(), (1 - cumulative).sqrt()

    def alpha_sigma(self, timestep: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(α, σ), float32 [b,1,…], for timesteps [b] of samples [b,…]."""
        alpha, sigma = self.level(send(timestep, sample.device))
        return levels.spread(alpha.float(), sample), levels.spread(sigma.float(), sample)

    def levels(self) -> tuple[list[float], list[float]]:
        """(α, σ) at each of `timesteps` and where the last step arrives."""
        timesteps = torch.tensor(self.timesteps, dtype=torch.int64 if self.schedule is None else torch.float64)
        if isinstance(self.schedule, levels.Flow | levels.Edm):
            alpha, sigma = (values.tolist() for values in self.level(timesteps))
            return [*alpha, 1.0], [*sigma, 0.0]
        cumulative = self._cumulative(timesteps).tolist()
        cumulative.append(1.0 if self.final == "clean" else float(self.alphas_cumprod[0]))
        return [value**0.5 for value in cumulative], [(1 - value) ** 0.5 for value in cumulative]

    def steps(self) -> list[Step]:
        """The solver as a table, one entry for each of `timesteps`."""
        told = [round(timestep) if self.dtype == torch.int64 else timestep for timestep in self.timesteps]
        return solvers.table(self.solver, self.prediction_type, told, *self.levels(), self.sigma_data)
