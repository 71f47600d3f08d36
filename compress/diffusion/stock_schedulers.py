"""Which of diffusers' schedulers draws as a `Sampling` does: its config, read back by our own reader."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

from compress.diffusion import levels, schedules
from compress.diffusion.sampling import Sampling
from compress.diffusion.schedulers import SCHEDULERS, SamplingOptions, from_scheduler_config
from compress.diffusion.solvers import SolverName

# Those that take a solver's steps exactly. Euler's is DDIM, and arrives at the next timestep whatever the spacing.
_STOCK: dict[SolverName, tuple[str, ...]] = {
    "ddim": ("DDIMScheduler", "EulerDiscreteScheduler"),
    "dpmpp_2m": ("DPMSolverMultistepScheduler",),
    "unipc": ("UniPCMultistepScheduler",),
}
_PATH = {"timesteps", "others", "schedule", "guidance", "distilled"}  # all else is to be the same


@dataclass(frozen=True)
class Stock:
    """config: of a diffusers scheduler. off: by how much its timesteps differ at most; 0: it draws the same samples;
    None: none draws by this solver, and config is the checkpoint's.
    """

    config: Mapping[str, Any]
    off: float | None

    @property
    def warning(self) -> str | None:
        """What somebody who draws by it should know; None: nothing."""
        name = self.config.get("_class_name")
        if self.off is None:
            return f"no scheduler of diffusers draws by this sampling; scheduler/ is the checkpoint's own {name}"
        if not self.off:
            return None
        return (
            f"scheduler/ is a {name} whose own timesteps are up to {self.off:g} away from the bundle's: hand a client "
            "the `timesteps` of bundle.json, if it takes them"
        )


def stock_scheduler(sampling: Sampling, own: Mapping[str, Any]) -> Stock:
    """The scheduler of diffusers that draws as `sampling`, in its number of steps; else the nearest in timesteps.

    own: the config that the sampling was read from. What serves some timesteps alone has no nearest.
    """
    wanted, count = sampling.model_dump(exclude=_PATH), len(sampling.timesteps)
    found: list[tuple[float, Mapping[str, Any]]] = []
    for config in _candidates(sampling, own):
        try:
            read = from_scheduler_config(config, SamplingOptions(solver=sampling.solver, steps=count))
        except ValueError:  # what that scheduler cannot say
            continue
        if read.model_dump(exclude=_PATH) == wanted and _kind(read) == _kind(sampling):
            off = max(abs(one - other) for one, other in zip(read.timesteps, sampling.timesteps, strict=True))
            found.append((off, config))
    if not found:
        return Stock(own, None)
    off, config = min(found, key=lambda one: one[0])
    return Stock(own, None) if off and sampling.distilled else Stock(config, off)


def _kind(sampling: Sampling) -> object:
    """How levels are made, but for the timesteps by betas, which are whole or lie between."""
    return None if isinstance(sampling.schedule, levels.Between) else sampling.schedule


def _candidates(sampling: Sampling, own: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Configs that may be it, the plainest first."""
    if _kind(sampling) is not None:
        yield from [own] if SCHEDULERS[own["_class_name"]] == sampling.solver else []
        return
    if sampling.clip_range is not None:  # where diffusers clips x̂_0, it leaves the noise as it was predicted
        return
    clean, count = sampling.final == "clean", sampling.num_train_timesteps
    offsets = sorted({0, 1, int(own.get("steps_offset") or 0)})
    for name, spacing, offset in product(_STOCK[sampling.solver], get_args(schedules.Spacing), offsets):
        config = {
            "_class_name": name,
            **sampling.model_dump(include=set(schedules.Betas.model_fields)),
            "rescale_betas_zero_snr": sampling.zero_terminal_snr,
            "prediction_type": sampling.prediction_type,
            "timestep_spacing": spacing,
            "steps_offset": offset,
        }
        if name == "DDIMScheduler":
            even = spacing == "leading" or (spacing == "trailing" and count % len(sampling.timesteps) == 0)
            if not even:  # it arrives elsewhere than at the next timestep
                continue
            yield {**config, "set_alpha_to_one": clean, "clip_sample": False}
        else:
            final = {"final_sigmas_type": "zero" if clean else "sigma_min"}
            yield {**config, **final, "use_karras_sigmas": bool(own.get("use_karras_sigmas"))}
