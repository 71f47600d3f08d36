"""Reads diffusers' scheduler configs. What they say and is not reproduced is refused."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError, ValidationInfo, field_validator

from compress.diffusion import levels, schedules
from compress.diffusion.prediction import PredictionType
from compress.diffusion.sampling import Sampling, Schedule
from compress.diffusion.solvers import SolverName
from compress.errors import short
from compress.settings import Frozen, KeyFaults, plain, unknown_keys, words

# diffusers' scheduler class → this package's solver. Euler's is DDIM; stochastic and pseudo-numerical ones share the
# noise schedule and are sampled by DDIM.
SCHEDULERS: dict[str, SolverName] = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddim",
    "PNDMScheduler": "ddim",
    "EulerDiscreteScheduler": "ddim",
    "EulerAncestralDiscreteScheduler": "ddim",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "unipc",
    "FlowMatchEulerDiscreteScheduler": "ddim",
    "EDMEulerScheduler": "ddim",
    "EDMDPMSolverMultistepScheduler": "dpmpp_2m",
}
DEFAULT_STEPS: dict[SolverName, int] = {"ddim": 50, "dpmpp_2m": 20, "unipc": 20}

_FLOW = "FlowMatchEulerDiscreteScheduler"
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
_KARRAS = ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
# Settings that schedulers of these names reproduce.
_REPRODUCED = {"use_karras_sigmas": _KARRAS, "sigma_min": _EDM, "sigma_max": _EDM}
# Settings of diffusers' schedulers that change the result and are not reproduced: absent or one of these.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "thresholding": (False,),
    "use_karras_sigmas": (False, None),
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
    "sigma_min": (None,),
    "sigma_max": (None,),
    "sigma_schedule": ("karras",),
    "rho": (levels.RHO,),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "predict_x0": (True,),
    "disable_corrector": ([], ()),
    "solver_p": (None,),
    "use_dynamic_shifting": (False,),  # a shift of e^μ is the same
    "invert_sigmas": (False,),
    "shift_terminal": (None,),
    "stochastic_sampling": (False,),
}


class SchedulerConfig(schedules.Betas, extra="ignore"):
    """What is read of a diffusers `scheduler_config.json`. It may hold left-overs of the one that it was made from."""

    rescale_betas_zero_snr: bool = False
    prediction_type: Literal["epsilon", "v_prediction", "sample", "flow_prediction"] = "epsilon"
    timestep_spacing: schedules.Spacing | None = None
    steps_offset: int = Field(0, ge=0, lt=100_000)
    set_alpha_to_one: bool | None = None
    final_sigmas_type: Literal["zero", "sigma_min"] | None = None
    clip_sample: bool = True
    clip_sample_range: float = Field(1.0, gt=0)
    use_karras_sigmas: bool | None = None
    shift: float = Field(1.0, gt=0)
    sigma_min: float | None = Field(None, gt=0)
    sigma_max: float | None = Field(None, gt=0)
    sigma_data: float = Field(0.5, gt=0)


class StepsFault(ValueError):
    """More steps than there are timesteps."""


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
        if key in config and config[key] not in neutral and name not in _REPRODUCED.get(key, ())
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
        raise StepsFault(f"{steps} sampling steps: must lie in 1…{count}, the number of training timesteps")
    prediction = _prediction(name, given)
    if given.rescale_betas_zero_snr and prediction == "epsilon":
        raise ValueError("epsilon prediction at zero terminal SNR is undefined at the last timestep")
    # Of the settings of other schedulers, which may be left over, none counts.
    if name in ("DDIMScheduler", "PNDMScheduler"):
        to_one = given.set_alpha_to_one
        final_first = not (name == "DDIMScheduler" if to_one is None else to_one)
    else:
        final_first = name in _KARRAS and given.final_sigmas_type == "sigma_min"
    clips = name in ("DDIMScheduler", "DDPMScheduler") and given.clip_sample
    schedule, timesteps = _path(name, given, steps)
    try:
        sampling = Sampling(
            **given.model_dump(include=set(schedules.Betas.model_fields)),
            zero_terminal_snr=given.rescale_betas_zero_snr,
            prediction_type=prediction,
            schedule=schedule,
            solver=solver,
            timesteps=tuple(timesteps),
            final="first" if final_first else "clean",
            clip_range=given.clip_sample_range if clips else None,
        )
        return _by_karras(sampling, name) if name in _KARRAS and given.use_karras_sigmas else sampling
    except ValidationError as error:
        raise ValueError(plain(error)) from None


def _prediction(name: str, given: SchedulerConfig) -> PredictionType:
    """What the net predicts. Raises KeyFaults for what the scheduler does not know."""
    kind: PredictionType = given.prediction_type
    known: tuple[str, ...] = ("epsilon", "v_prediction", "sample")
    if name == _FLOW:
        known, kind = ("flow_prediction",), kind if "prediction_type" in given.model_fields_set else "flow_prediction"
    elif name in _EDM:
        known = ("epsilon", "v_prediction")
    if kind not in known:
        raise KeyFaults({"prediction_type": f"{kind} is not supported with {name}; set it to {' or '.join(known)}"})
    return "edm" if name in _EDM and kind == "epsilon" else kind


def _path(name: str, given: SchedulerConfig, steps: int) -> tuple[Schedule | None, list[int] | list[float]]:
    """(how levels are made, the timesteps of `steps` steps). Raises KeyFaults."""
    count = given.num_train_timesteps
    if name == _FLOW:
        return levels.Flow(shift=given.shift), levels.flow_timesteps(given.shift, steps, count).tolist()
    if name in _EDM:
        if given.final_sigmas_type == "sigma_min":
            raise KeyFaults({"final_sigmas_type": f"sigma_min is not supported with {name}; set it to zero"})
        ends = {key: getattr(given, key) for key in ("sigma_min", "sigma_max") if getattr(given, key) is not None}
        schedule = levels.Edm(sigma_data=given.sigma_data, **ends)
        if schedule.sigma_min >= schedule.sigma_max:
            raise KeyFaults({"sigma_min": f"should be below sigma_max, {schedule.sigma_max}; got {schedule.sigma_min}"})
        return schedule, (np.log(levels.karras(schedule.sigma_min, schedule.sigma_max, steps)) / 4).tolist()
    multistep, euler = SCHEDULERS[name] != "ddim", "Euler" in name
    spacing = given.timestep_spacing or ("linspace" if multistep or euler else "leading")
    if euler and spacing == "linspace":
        between = np.linspace(0, count - 1, steps)[::-1].tolist()
        if not all(timestep.is_integer() for timestep in between):
            return levels.Between(), between
    return None, schedules.timesteps(spacing, steps, count, given.steps_offset, multistep)


def _by_karras(sampling: Sampling, name: str) -> Sampling:
    """The same in as many steps of Karras's spacing. Raises KeyFaults."""
    euler = name == "EulerDiscreteScheduler"
    hindered = {
        "rescale_betas_zero_snr": sampling.zero_terminal_snr,
        "final_sigmas_type": sampling.final == "first" and not euler,
        "beta_schedule": sampling.beta_schedule == "squaredcos_cap_v2" and name == "DPMSolverMultistepScheduler",
    }  # infinite noise, a last step that does nothing, and numbers that hang on diffusers' rounding errors
    for key in (key for key, found in hindered.items() if found):
        raise KeyFaults({"use_karras_sigmas": f"true is not supported with this {key} and {name}; set it to false"})
    ends = (sampling.timesteps[-1], sampling.timesteps[0]) if euler else (0, sampling.num_train_timesteps - 1)
    alpha, sigma = sampling.level(torch.tensor(ends))
    low, high = (sigma / alpha).tolist()
    timesteps = levels.karras_timesteps(low, high, len(sampling.timesteps), sampling.alphas_cumprod).tolist()
    schedule = levels.Between(interpolation="log", whole=not euler)  # as diffusers' multistep solvers round them
    return Sampling.model_validate(sampling.model_dump() | {"schedule": schedule, "timesteps": tuple(timesteps)})


def _class_name(config: Mapping[str, Any]) -> str:
    name = config.get("_class_name", "DDPMScheduler")
    if not isinstance(name, str) or name not in SCHEDULERS:
        shown = name if isinstance(name, str) and name.isidentifier() else short(name)
        raise KeyFaults({"_class_name": f"scheduler {shown} is not supported; supported: {', '.join(SCHEDULERS)}"})
    return name
