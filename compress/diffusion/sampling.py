"""`Sampling`: how a denoiser is drawn from. It is part of the model: calibration, distillation,
export, verification and the device all read the same one."""

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from compress.diffusion import schedules, solvers
from compress.diffusion.prediction import PredictionType
from compress.errors import short
from compress.runtime.sampling import Step
from compress.settings import Frozen, KeyFaults, Listed, Pair, plain, unknown_keys, words

SolverName = Literal["ddim", "dpmpp_2m"]

# diffusers' scheduler class → this package's solver. Stochastic and pseudo-numerical ones share the
# noise schedule and are sampled by DDIM.
SCHEDULERS: dict[str, SolverName] = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddim",
    "PNDMScheduler": "ddim",
    "EulerDiscreteScheduler": "ddim",
    "EulerAncestralDiscreteScheduler": "ddim",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "dpmpp_2m",
}
DEFAULT_STEPS: dict[SolverName, int] = {"ddim": 50, "dpmpp_2m": 20}

LARGEST = 1e8  # coefficient of a solver step; epsilon prediction on the cosine schedule has 2·10⁴
Beta = Annotated[float, Field(ge=0, le=1)]
TrainTimesteps = Annotated[int, Field(ge=1, le=100_000)]

# Settings of diffusers' schedulers that change the result and are not reproduced: absent or one of these.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "thresholding": (False,),
    "use_karras_sigmas": (False,),
    "use_exponential_sigmas": (False,),
    "use_beta_sigmas": (False,),
    "use_lu_lambdas": (False,),
    "use_flow_sigmas": (False,),
    "solver_order": (2,),
    "solver_type": ("midpoint", "bh2"),
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
    "lower_order_final": (True,),
    "euler_at_final": (False,),
    "lambda_min_clipped": (float("-inf"), "-inf", "-Infinity"),
}


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


class Sampling(Frozen):
    """Noise schedule, prediction type, solver, exact timesteps, clipping and guidance."""

    num_train_timesteps: TrainTimesteps = 1000
    beta_schedule: schedules.BetaSchedule = "linear"
    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02
    trained_betas: Listed[Beta] | None = None
    zero_terminal_snr: bool = False
    prediction_type: PredictionType = "epsilon"
    solver: SolverName = "ddim"
    timesteps: Listed[int] = Field(description="descending, each in 0…num_train_timesteps−1")
    final: Literal["clean", "first"] = Field(
        "clean", description="where the last step arrives: at σ = 0, or at the noise of timestep 0"
    )
    clip_range: float | None = Field(None, gt=0)
    guidance: Guidance = Guidance()
    others: Listed[Listed[int]] = Field((), description="timesteps for other numbers of steps that the same net serves")

    distilled: bool = Field(
        False, description="one evaluation does the work of several of the teacher's, at these timesteps alone"
    )

    @model_validator(mode="after")
    def _check_timesteps(self) -> "Sampling":
        for timesteps in (self.timesteps, *self.others):
            descending = sorted(set(timesteps), reverse=True)
            if not descending or list(timesteps) != descending:
                raise ValueError("timesteps should be a descending list without repetition")
            if descending[0] >= self.num_train_timesteps or descending[-1] < 0:
                raise ValueError(f"timesteps should lie in 0…{self.num_train_timesteps - 1}")
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
                    "betas: a sample cannot be drawn with this noise schedule, whose numbers at the timesteps are too "
                    "large or infinite"
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

    def alpha_sigma(self, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(α, σ), float32 [b,1,1,1], for integer timesteps [b]."""
        cumulative = self.alphas_cumprod.to(timestep.device)[timestep][:, None, None, None]
        return cumulative.sqrt().float(), (1 - cumulative).sqrt().float()

    def levels(self) -> tuple[list[float], list[float]]:
        """(α, σ) at each of `timesteps` and where the last step arrives."""
        cumulative = self.alphas_cumprod[list(self.timesteps)].tolist()
        cumulative.append(1.0 if self.final == "clean" else float(self.alphas_cumprod[0]))
        return [value**0.5 for value in cumulative], [(1 - value) ** 0.5 for value in cumulative]

    def steps(self) -> list[Step]:
        """The solver as a table, one entry for each of `timesteps`."""
        alpha, sigma = self.levels()
        return solvers.SOLVERS[self.solver](self.prediction_type, self.timesteps, alpha, sigma)


class SchedulerConfig(Frozen, extra="ignore"):
    """What is read of a diffusers `scheduler_config.json`. It may hold left-overs of the one that it was made from."""

    num_train_timesteps: TrainTimesteps = 1000
    beta_schedule: schedules.BetaSchedule = "linear"
    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02
    trained_betas: Listed[Beta] | None = None
    rescale_betas_zero_snr: bool = False
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: schedules.Spacing | None = None
    steps_offset: int = Field(0, ge=0, lt=100_000)
    set_alpha_to_one: bool | None = None
    final_sigmas_type: Literal["zero", "sigma_min"] | None = None
    clip_sample: bool = True
    clip_sample_range: float = Field(1.0, gt=0)


class SamplingOptions(Frozen):
    """What a recipe may say about sampling; what it leaves out is the checkpoint's own."""

    solver: SolverName | None = Field(None, description="default: the scheduler's own")
    steps: int | None = Field(None, ge=1, description="default: 50 for ddim, 20 for dpmpp_2m")
    scheduler: dict[str, Any] | None = Field(
        None, description="diffusers scheduler config, instead of the checkpoint's"
    )

    @field_validator("scheduler")
    @classmethod
    def _check_scheduler(cls, config: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        if config is not None:
            faults = unknown_keys(config, _class_name(config), (*SchedulerConfig.model_fields, *_NEUTRAL))
            try:
                from_scheduler_config(config, cls.model_construct(None, scheduler=None, **info.data))
            except KeyFaults as error:
                faults |= error.faults
            if faults:
                raise KeyFaults(faults)
        return config


def from_scheduler_config(config: Mapping[str, Any], options: SamplingOptions | None = None) -> Sampling:
    """The sampling that a diffusers `scheduler_config.json` describes, without guidance.

    Every step arrives at the next timestep. diffusers' DDIM arrives at t − num_train_timesteps // steps
    instead, which is the same for `leading`, and for `trailing` where the division is exact.
    Raises ValueError (KeyFaults where keys are to blame) for what cannot be reproduced.
    """
    options = options or SamplingOptions()
    name = _class_name(config)
    faults = {
        key: f"{short(config[key])} is not supported with {name}; set it to {short(neutral[0])}"
        for key, neutral in _NEUTRAL.items()
        if key in config and config[key] not in neutral
    }
    try:
        given = SchedulerConfig.model_validate(config)
    except ValidationError as error:
        faults |= {str(fault["loc"][0]): words(fault) for fault in error.errors(include_url=False)}
    if faults:
        raise KeyFaults(faults)
    own = SCHEDULERS[name]
    solver = options.solver or own
    steps = options.steps or DEFAULT_STEPS[solver]
    count = given.num_train_timesteps
    if not 1 <= steps <= count:
        raise ValueError(f"{steps} sampling steps: must lie in 1…{count}, the number of training timesteps")
    spacing = given.timestep_spacing or ("linspace" if own == "dpmpp_2m" or "Euler" in name else "leading")
    if given.rescale_betas_zero_snr and given.prediction_type == "epsilon":
        raise ValueError("epsilon prediction at zero terminal SNR is undefined at the last timestep")
    # Of the settings of other schedulers, which may be left over, none counts.
    if name in ("DDIMScheduler", "PNDMScheduler"):
        to_one = given.set_alpha_to_one
        final_first = not (name == "DDIMScheduler" if to_one is None else to_one)
    else:
        final_first = own == "dpmpp_2m" and given.final_sigmas_type == "sigma_min"
    clips = name in ("DDIMScheduler", "DDPMScheduler") and given.clip_sample
    try:
        return Sampling(
            num_train_timesteps=count,
            beta_schedule=given.beta_schedule,
            beta_start=given.beta_start,
            beta_end=given.beta_end,
            trained_betas=given.trained_betas,
            zero_terminal_snr=given.rescale_betas_zero_snr,
            prediction_type=given.prediction_type,
            solver=solver,
            timesteps=tuple(
                schedules.timesteps(spacing, steps, count, given.steps_offset, multistep=own == "dpmpp_2m")
            ),
            final="first" if final_first else "clean",
            clip_range=given.clip_sample_range if clips else None,
        )
    except ValidationError as error:
        raise ValueError(plain(error)) from None


def _class_name(config: Mapping[str, Any]) -> str:
    name = config.get("_class_name", "DDPMScheduler")
    if not isinstance(name, str) or name not in SCHEDULERS:
        shown = name if isinstance(name, str) and name.isidentifier() else short(name)
        raise KeyFaults({"_class_name": f"scheduler {shown} is not supported; supported: {', '.join(SCHEDULERS)}"})
    return name
