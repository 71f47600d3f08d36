"""Distill many sampling steps into few.

Every method asks the student, at a noisy sample x_t, for the clean sample with which one step of DDIM arrives where the
teacher says, at a later timestep s of the grid that the teacher samples on:

    trajectory    x_t is the student's own state on its way from noise; it should arrive at the teacher's state of the
                  same noise. Needs no images. Several step counts may share one student, which is told the count.
    progressive   x_t is a noised image; two steps of the teacher lead on. The student then becomes the teacher of one
                  with half its steps (Salimans & Ho 2022).
    consistency   x_t is a noised image; one step of the teacher, then the student's own average to the end of the
                  segment (Berthelot et al. 2023, "TRACT", with Song et al. 2023).

Loss (Salimans & Ho 2022, eq. 9): max(α²/σ², 1)·(x̂_0 of the student − its target)², divided by the same of the target.
To that, for `trajectory`, `moments` adds the gap between the moments of the student's and the teacher's samples.
The teacher samples with its own solver and guidance; the student with DDIM and the guidance that it has, or with
`bake_guidance` with one evaluation.
"""

import copy
import dataclasses
import itertools
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from compress import training
from compress.contract import Context, Forecast, PassResult
from compress.data import Batch
from compress.diffusion.levels import spread
from compress.diffusion.moments import MomentGap
from compress.diffusion.prediction import add_noise
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.diffusion.targets import Grid, arrival, clean_sample, clean_target, truncated_snr
from compress.errors import PassError
from compress.model import scalars, trajectories
from compress.model.denoiser import Denoiser, guided
from compress.model.reference import conditions_for, noise_like
from compress.model.trajectories import Trajectories
from compress.randomness import Draw
from compress.settings import Many


class Config(training.TrainingConfig):
    """Settings of `distill_steps`."""

    method: Literal["trajectory", "progressive", "consistency"] = Field(
        "trajectory",
        description="trajectory: walk the student's own path against the teacher's, needs no images; progressive: "
        "halve the steps until there; consistency: one step of the teacher and the student's own average",
    )
    sampling_steps: Many[int] = Field(
        (4,), min_length=1, description="steps of the student; several, for trajectory: one student that is told which"
    )
    trajectories: int = Field(2000, ge=10, description="for trajectory: how often the teacher samples")
    skip: int = Field(
        0, ge=0, description="for trajectory: how many of the seed's first trajectories to leave to an earlier pass"
    )
    moments: float = Field(
        0.0,
        ge=0,
        description="for trajectory: weight of the gap between the mean and covariance of the student's samples and "
        "the teacher's; without it a student varies less than its teacher",
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
        if self.method == "consistency" and not self.ema:
            raise ValueError("ema: consistency learns from the student's average; give a decay above 0")
        return self


class Steps(nn.Module):
    """The objective. Only the student is trained.

    teacher: with the steps that it takes to lead the way. walked: its trajectories, for `trajectory`.
    """

    def __init__(
        self,
        student: Denoiser,
        teacher: Denoiser,
        config: Config,
        grid: Grid,
        counts: tuple[int, ...],
        walked: Trajectories | None,
    ) -> None:
        super().__init__()
        self.net = student.module
        leads = dataclasses.replace(student, net=copy.deepcopy(student.net).requires_grad_(False))
        # in a tuple, so that only the student's weights are the module's
        self.models = (student, teacher, leads if config.method == "consistency" else None)
        self.method, self.grid, self.counts, self.walked = config.method, grid, counts, walked
        self.scales = student.sampling.guidance.scales
        self.moments = config.moments
        self.gap = MomentGap(walked.states[-1]) if config.moments and walked is not None else None

    @property
    def average(self) -> nn.Module | None:
        """The student's moving average, where that leads the way."""
        return None if self.models[2] is None else self.models[2].net

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """The weighted loss of one batch."""
        if self.method == "trajectory":
            return self._walk(len(batch.images), random, batch.images.device)
        count = self.counts[0]
        places = self.grid.places[count]
        segment = torch.randint(count, (len(batch.images),), generator=random)
        begin, end = torch.tensor(places)[segment], torch.tensor(places)[segment + 1]
        conditions = dict(batch.conditions)
        if self.scales:
            low, high = self.scales
            scale = low + (high - low) * torch.rand(len(segment), generator=random)
            conditions[scalars.GUIDANCE_SCALE] = scale.to(batch.images.device)
        if self.method == "consistency":
            share = torch.rand(len(segment), generator=random)
            begin = begin + (share * (end - begin)).long()
        noise = torch.randn(batch.images.shape, generator=random).to(batch.images)
        sample = add_noise(batch.images, noise, *self.grid.levels(begin, noise))
        with torch.no_grad():
            if self.method == "consistency":
                arrived = self._step(self.models[1], sample, conditions, begin, begin + 1)
                assert self.models[2] is not None
                onwards = self._step(self.models[2], arrived, conditions, (begin + 1).clamp_max(end - 1), end)
                there = spread(begin + 1 == end, sample)
                arrived = torch.where(there, arrived, onwards)
            else:
                fine = self.grid.places[2 * count]
                middle = torch.tensor(fine)[2 * segment + 1]
                arrived = self._step(self.models[1], sample, conditions, begin, middle)
                arrived = self._step(self.models[1], arrived, conditions, middle, end)
        found = self._clean(self.models[0], sample, conditions, begin)
        return {"steps": self._distance(found, arrived, sample, begin, end)}

    def _walk(self, batch_size: int, random: torch.Generator, device: torch.device) -> Mapping[str, torch.Tensor]:
        """Mean loss over the steps of the student's own way from noise, and how far its samples' moments are off.

        Of several numbers of steps, every step counts alike, or those of the longest ways would hardly be learned.
        """
        assert self.walked is not None
        student = self.models[0]
        count = self.counts[int(torch.randint(len(self.counts), (), generator=random))]
        whole = self.walked.paths(batch_size, random, held_out=not self.training).to(device)
        states, conditions = whole.images, dict(whole.conditions)
        if scalars.STEPS in student.inputs:
            conditions[scalars.STEPS] = torch.full((batch_size,), float(count), device=device)
        sample = arrived = states[0]
        errors = []
        for begin, end in itertools.pairwise(self.grid.places[count]):
            found = self._clean(student, sample, conditions, torch.full((batch_size,), begin))
            errors.append(self._distance(found, states[end], sample, begin, end))
            arrived = arrival(found, sample, *self.grid.levels(begin, sample), *self.grid.levels(end, sample))
            sample = arrived.detach()
        losses = {"steps": torch.stack(errors).sum() * len(self.counts) / sum(self.counts)}
        if self.gap is not None:
            losses["moments"] = self.moments * self.gap(arrived, states[-1], random)
        return losses

    def _clean(
        self, model: Denoiser, sample: torch.Tensor, conditions: Mapping[str, torch.Tensor], place: torch.Tensor
    ) -> torch.Tensor:
        timestep = self.grid.timesteps[place].to(sample.device)
        output = guided(model, sample, timestep, conditions)
        kind, data = model.sampling.prediction_type, model.sampling.sigma_data
        return clean_sample(kind, sample, output, *self.grid.levels(place, sample), data)

    def _step(
        self,
        model: Denoiser,
        sample: torch.Tensor,
        conditions: Mapping[str, torch.Tensor],
        begin: torch.Tensor,
        end: torch.Tensor,
    ) -> torch.Tensor:
        clean = self._clean(model, sample, conditions, begin)
        return arrival(clean, sample, *self.grid.levels(begin, sample), *self.grid.levels(end, sample))

    def _distance(
        self,
        found: torch.Tensor,
        arrived: torch.Tensor,
        sample: torch.Tensor,
        begin: torch.Tensor | int,
        end: torch.Tensor | int,
    ) -> torch.Tensor:
        levels = self.grid.levels(begin, sample)
        wanted = clean_target(arrived, sample, *levels, *self.grid.levels(end, sample))
        weight = truncated_snr(*levels)
        return (weight * (found - wanted).square()).mean() / (weight * wanted.square()).mean()


def _student(model: Denoiser, config: Config, context: Context) -> tuple[Denoiser, Denoiser, Grid]:
    """(a copy of `model` with few steps, the teacher, the grid of the teacher's steps). Raises PassError."""
    teacher = context.earlier(config.teacher) if config.teacher else context.teacher()
    if not isinstance(teacher, Denoiser):
        raise PassError(f"{context.name}: teacher: {config.teacher} gives no float model")
    if config.teacher_steps is not None:
        teacher = _in_steps(teacher, config.teacher_steps, context)
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
        grid = Grid(teacher.sampling, counts, model.sampling.timesteps)
    guidance = model.sampling.guidance
    if config.bake_guidance:
        if not guidance.online:
            raise PassError(f"{context.name}: bake_guidance: the model's guidance is {guidance.kind} already")
        guidance = guidance.model_copy(update={"kind": "baked"})
    paths = {n: tuple(teacher.sampling.timesteps[place] for place in grid.places[n][:-1]) for n in counts}
    if model.sampling.prediction_type == "epsilon" and float(grid.alpha[0]) == 0:
        raise PassError(f"{context.name}: ε-prediction says nothing at zero terminal SNR, where few steps begin")
    net = copy.deepcopy(model.net).requires_grad_(True)
    if len(counts) > 1:
        try:
            scalars.add(net, model.family, scalars.STEPS)
        except ValueError as error:
            raise PassError(f"{context.name}: {error}; give one number of sampling_steps") from None
    others = tuple(paths[n] for n in counts[1:])
    update = {
        "solver": "ddim",
        "timesteps": paths[counts[0]],
        "others": others,
        "distilled": True,
        "guidance": guidance,
    }
    sampling = model.sampling.model_copy(update=update)
    classifier = model.classifier if guidance.kind == "classifier" else None
    student = dataclasses.replace(model, net=net.requires_grad_(True), sampling=sampling, classifier=classifier)
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


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Denoiser]:
    """Distill and return the averaged student with its few steps."""
    student, teacher, grid = _student(model, config, context)
    if config.method == "progressive":
        return _progressive(student, teacher, grid, config, context)
    walked = None
    if config.method == "trajectory":
        walked = trajectories.drawn(
            teacher,
            config.trajectories,
            context.seed,
            context.dataset,
            context.progress,
            f"{context.name}: the teacher's trajectories",
            student.sampling.guidance.scales,
            config.skip,
        )
    objective = Steps(student, teacher, config, grid, config.sampling_steps, walked)
    notes = training.train(objective, student.net, config, context, context.training_data())
    student.net.requires_grad_(False).eval()
    notes["timesteps"] = list(student.sampling.timesteps)
    return PassResult(student, changed=True, notes=notes)


def _progressive(
    student: Denoiser, teacher: Denoiser, grid: Grid, config: Config, context: Context
) -> PassResult[Denoiser]:
    """Halve until there: each round starts from the last student, with an optimizer of its own."""
    (count,) = config.sampling_steps
    rounds = _halvings(count, len(grid.timesteps))
    notes = {}
    for steps in rounds:
        work = context.workdir / f"to-{steps}"
        work.mkdir(exist_ok=True)
        inside = dataclasses.replace(context, workdir=work, name=f"{context.name}: to {steps} steps")
        objective = Steps(student, teacher, config, grid, (steps,), None)
        notes[f"to {steps} steps"] = training.train(objective, student.net, config, inside, context.training_data())
        teacher = dataclasses.replace(student, net=copy.deepcopy(student.net).requires_grad_(False).eval())
    student.net.requires_grad_(False).eval()
    return PassResult(student, changed=True, notes={"rounds": notes, "timesteps": list(student.sampling.timesteps)})


def forecast(model: Denoiser, config: Config, context: Context) -> Forecast:
    """The model with its few steps; time is measured on a few steps of training and one evaluation of the teacher."""
    student, teacher, grid = _student(model, config, context)
    rounds, drawing, walked = 1, 0.0, None
    if config.method == "progressive":
        rounds = len(_halvings(config.sampling_steps[0], len(grid.timesteps)))
    elif config.method == "trajectory":
        drawing = config.trajectories * trajectories.seconds_each(teacher, context.seed, context.dataset)
        noise = noise_like(student, config.batch_size, context.seed, Draw.FORECAST_WALK)
        conditions = conditions_for(student, len(noise), context.dataset, context.seed)
        walked = Trajectories(noise.expand(len(grid.timesteps) + 1, *noise.shape), grid.timesteps, conditions)
    objective = Steps(student, teacher, config, grid, config.sampling_steps, walked)
    seconds, memory = training.forecast(objective, student, config, context.seed)
    student.net.requires_grad_(False)
    return Forecast(student, seconds * rounds + drawing, memory)
