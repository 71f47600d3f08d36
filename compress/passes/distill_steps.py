"""Distill many sampling steps into few.

Every method asks the student, at a noisy sample x_t, for the clean sample with which one step of DDIM arrives where the
teacher says, at a later timestep s of the grid that the teacher samples on:

    trajectory    x_t is the student's own state on its way from noise; it should arrive at the teacher's state of the
                  same noise. Needs no images. Several step counts may share one student, which is told the count.
    progressive   x_t is a noised image; two steps of the teacher lead on. The student then becomes the teacher of one
                  with half its steps (Salimans & Ho 2022).
    consistency   x_t is a noised image; one step of the teacher, then the student's own average to the end of the
                  segment (Berthelot et al. 2023, "TRACT", with Song et al. 2023).
    distribution  no sample is held against another: the student's own are moved until they are distributed as the
                  teacher's, as `training/match.py` says. Begins best with a student of `trajectory`.

Loss of the first three (Salimans & Ho 2022, eq. 9): max(α²/σ², 1)·(x̂_0 of the student − its target)², divided by the
same of the target.
To that, for `trajectory`, `moments` adds the gap between the moments of the student's and the teacher's samples.
The teacher samples with its own solver and guidance; the student with DDIM and the guidance that it has, or with
`bake_guidance` with one evaluation.
"""

import copy
import dataclasses
from typing import Literal

from pydantic import Field, model_validator

from compress import training
from compress.contract import Context, Forecast, PassResult
from compress.diffusion.sampling import Guidance
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.diffusion.targets import Grid
from compress.errors import PassError
from compress.model import scalars
from compress.model.denoiser import Denoiser
from compress.model.reference import conditions_for, noise_like
from compress.randomness import Draw
from compress.settings import Many
from compress.training import trajectories
from compress.training.few_steps import Steps
from compress.training.match import Match
from compress.training.trajectories import Trajectories


class Config(training.TrainingConfig):
    """Settings of `distill_steps`."""

    method: Literal["trajectory", "progressive", "consistency", "distribution"] = Field(
        "trajectory",
        description="trajectory: walk the student's own path against the teacher's, needs no images; progressive: "
        "halve the steps until there; consistency: one step of the teacher and the student's own average; "
        "distribution: match the teacher's samples as a whole, not one by one",
    )
    sampling_steps: Many[int] = Field(
        (4,), min_length=1, description="steps of the student; several, for trajectory: one student that is told which"
    )
    trajectories: int = Field(2000, ge=10, description="for trajectory: how often the teacher samples")
    skip: int = Field(
        0, ge=0, description="how many of the seed's first trajectories, or samples, to leave to an earlier pass"
    )
    moments: float = Field(
        0.0,
        ge=0,
        description="for trajectory: weight of the gap between the mean and covariance of the student's samples and "
        "the teacher's; without it a student varies less than its teacher",
    )
    pace: int = Field(5, ge=1, description="for distribution: steps of the nets that follow to one of the student")
    samples: int = Field(
        0,
        ge=0,
        description="for distribution: of how many samples of the teacher a net learns the score that is matched; 0: "
        "the teacher's own guided score, which costs no samples but differs from theirs where guidance is strong",
    )
    teacher_steps: int | None = Field(
        None, ge=1, description="steps in which the teacher leads the way; default: as many as it samples with"
    )
    bake_guidance: bool = Field(
        False, description="the student evaluates once for the teacher's guided samples: guidance and steps in one pass"
    )
    teacher: str | None = Field(
        None, description="name of an earlier pass whose model is the teacher; default: the recipe's checkpoint"
    )

    @model_validator(mode="after")
    def _counts(self) -> "Config":
        counts = self.sampling_steps
        if min(counts) < 1 or len(set(counts)) < len(counts):
            raise ValueError("sampling_steps: give different numbers from 1 on")
        if len(counts) > 1 and self.method != "trajectory":
            raise ValueError(f"sampling_steps: method {self.method} takes one number; several need method: trajectory")
        if self.moments and self.method != "trajectory":
            raise ValueError(f"moments: needs method: trajectory; {self.method} does not reach the teacher's samples")
        if self.moments and self.batch_size < 4 * self.accumulate:
            raise ValueError("moments: the halves of a batch are compared; raise batch_size ÷ accumulate to 4 or more")
        if self.samples and self.method != "distribution":
            raise ValueError(f"samples: needs method: distribution; {self.method} learns no score of them")
        if self.method == "distribution" and (self.early_stop or self.shard):
            raise ValueError("distribution: no loss says when to stop, and its nets cannot be split; leave those away")
        if self.lora and self.method in ("progressive", "consistency"):
            raise ValueError(f"lora: {self.method} makes a teacher of the student's weights; leave lora away")
        if self.method == "consistency" and not self.ema:
            raise ValueError("ema: consistency learns from the student's average; give a decay above 0")
        return self


def _student(model: Denoiser, config: Config, context: Context) -> tuple[Denoiser, Denoiser, Grid]:
    """(a copy of `model` with few steps, the teacher, the grid of the teacher's steps). Raises PassError."""
    teacher = context.leader(config.teacher)
    if config.teacher_steps is not None:
        teacher = _in_steps(teacher, config.teacher_steps, context)
    if config.method == "distribution" and model.sampling.guidance.scales:
        raise PassError(
            f"{context.name}: distribution: the nets that follow are told no guidance scale, and the model takes one; "
            "distill its guidance at one scale (mode: baked), or take method: trajectory"
        )
    counts, length = config.sampling_steps, len(teacher.sampling.timesteps)
    least = 2 if config.method == "progressive" else 1
    if least * max(counts) > length:
        raise PassError(
            f"{context.name}: sampling_steps: {max(counts)} of a teacher with {length}; it must have more: raise "
            "teacher_steps or sampling: {steps: …}"
        )
    own = model.sampling.timesteps
    if len(own) in counts and not set(own) <= set(teacher.sampling.timesteps):
        raise PassError(f"{context.name}: the model's {len(own)} timesteps are not among those of its teacher")
    if config.method == "progressive":  # its grids are nested, so the model's own timesteps cannot be kept
        rounds = _halvings(counts[0], length)
        grid = Grid(teacher.sampling, [2 * rounds[0], *rounds], ())
    else:
        grid = Grid(teacher.sampling, counts, own)
    guidance = model.sampling.guidance
    if config.bake_guidance:
        if not guidance.online:
            raise PassError(f"{context.name}: bake_guidance: the model's guidance is {guidance.kind} already")
        guidance = guidance.model_copy(update={"kind": "baked"})
    if model.sampling.prediction_type == "epsilon" and float(grid.alpha[0]) == 0:
        raise PassError(f"{context.name}: ε-prediction says nothing at zero terminal SNR, where few steps begin")
    first, *others = (tuple(teacher.sampling.timesteps[place] for place in grid.places[n][:-1]) for n in counts)
    few = {"solver": "ddim", "timesteps": first, "others": tuple(others), "distilled": True, "guidance": guidance}
    sampling = model.sampling.model_copy(update=few)
    classifier = model.classifier if guidance.kind == "classifier" else None
    student = training.student_of(model, sampling=sampling, classifier=classifier)
    if others:
        try:
            scalars.add(student.net, model.family, scalars.STEPS)
        except ValueError as error:
            raise PassError(f"{context.name}: {error}; give one number of sampling_steps") from None
        student.net.requires_grad_(True)
    return student, teacher, grid


def _in_steps(teacher: Denoiser, count: int, context: Context) -> Denoiser:
    """The teacher with its own solver in another number of steps. Raises PassError."""
    if teacher.sampling.distilled:
        raise PassError(f"{context.name}: teacher_steps: the teacher's steps are distilled; leave it away")
    options = SamplingOptions(solver=teacher.sampling.solver, steps=count)
    try:
        sampling = from_scheduler_config(teacher.scheduler, options)
    except ValueError as error:
        raise PassError(f"{context.name}: teacher_steps: {error}") from None
    sampling = sampling.model_copy(update={"guidance": teacher.sampling.guidance})
    return dataclasses.replace(teacher, sampling=sampling)


def _halvings(count: int, length: int) -> list[int]:
    """Step counts of the students of `progressive`, ending with `count`: each has half the steps of its teacher."""
    found = [count]
    while 4 * found[-1] <= length:
        found.append(2 * found[-1])
    return found[::-1]


def _drawn(config: Config) -> int:
    """How many trajectories of the teacher are drawn."""
    return {"trajectory": config.trajectories, "distribution": config.samples}.get(config.method, 0)


def _objective(
    student: Denoiser, teacher: Denoiser, grid: Grid, config: Config, walked: Trajectories | None
) -> training.Objective:
    """walked: as many of the teacher's trajectories as are drawn."""
    if config.method == "distribution":
        alone = teacher.sampling.model_copy(update={"guidance": Guidance()})
        fake, learns = (training.student_of(teacher, classifier=None, sampling=alone) for _ in range(2))
        return Match(student, learns if walked else teacher, fake, grid, config.pace, walked)
    objective = Steps(student, teacher, grid, config.sampling_steps, walked, config.moments)
    if config.method == "consistency":
        objective.leads = dataclasses.replace(student, net=copy.deepcopy(student.net).requires_grad_(False))
    return objective


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Denoiser]:
    """Distill and return the averaged student with its few steps."""
    student, teacher, grid = _student(model, config, context)
    timesteps = list(student.sampling.timesteps)
    if config.method != "progressive":
        count, scales, walked = _drawn(config), student.sampling.guidance.scales, None
        if count:
            walked = trajectories.drawn(teacher, count, context, scales, config.skip)
        objective = _objective(student, teacher, grid, config, walked)
        return training.trained(objective, config, context, timesteps=timesteps)
    notes = {}
    for steps in _halvings(config.sampling_steps[0], len(grid.timesteps)):  # each with an optimizer of its own
        work = context.workdir / f"to-{steps}"
        work.mkdir(exist_ok=True)
        inside = dataclasses.replace(context, workdir=work, name=f"{context.name}: to {steps} steps")
        objective = Steps(student, teacher, grid, (steps,))
        notes[f"to {steps} steps"] = training.trained(objective, config, inside).notes
        teacher, student = student, training.student_of(student)
    return PassResult(teacher, changed=True, notes={"rounds": notes, "timesteps": timesteps})


def forecast(model: Denoiser, config: Config, context: Context) -> Forecast:
    """The model with its few steps; time is measured on a few steps of training and one evaluation of the teacher."""
    student, teacher, grid = _student(model, config, context)
    drawn, walked = _drawn(config), None
    if drawn:
        noise = noise_like(student, config.batch_size, context.seed, Draw.FORECAST_WALK)
        conditions = conditions_for(student, len(noise), context.dataset, context.seed)
        walked = Trajectories(noise.expand(len(grid.timesteps) + 1, *noise.shape), grid.timesteps, conditions)
    rounds = len(_halvings(config.sampling_steps[0], len(grid.timesteps))) if config.method == "progressive" else 1
    found = training.forecast_of(_objective(student, teacher, grid, config, walked), config, context)
    seconds = found.seconds * rounds + (drawn * trajectories.seconds_each(teacher, context) if drawn else 0.0)
    return dataclasses.replace(found, seconds=seconds)
