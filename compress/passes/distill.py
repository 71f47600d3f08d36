"""Train the student to do what the teacher does, at the timesteps and the guidance it will be used with.

Losses, each divided by the teacher's own energy so that a weight means the same on every model:

    output     mean (S − T)² ÷ mean T²        of the models' predictions S, T [b,c,h,w]
    guided     the same of their guided predictions, s·c − (s − 1)·u at the recipe's scale s
    feature    mean over stages of  mean (P(s) − t)² ÷ mean t²        of the stages' feature maps s, t
    attention  mean over attention blocks of the same of their attention maps, averaged over heads
    task       mean (S − target)² ÷ mean target²        against the noised image, the teacher not asked

P is a temporary linear map of channels where the student's stage is narrower; it starts by putting each
surviving channel where the pruner says it came from, and is trained and then dropped.
Timesteps are drawn uniformly from the student's own. A share (scale − 1)/(2·scale − 1) of the
conditions is null: the weight of the unconditional evaluation in the guided one. With a guided loss both
models are evaluated with and without the condition instead, and all losses hold for both.
What is denoised are noised images of the data set, or states of the teacher's own sampling, where the
student will be used: `states: trajectory` needs no images.
With `teacher: average` the student learns the task from the data and agreement from the moving average of its own
weights (Tarvainen & Valpola 2017, "Mean teachers").
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from compress import training
from compress.contract import Context, Forecast, PassConfig, PassResult
from compress.data import Batch
from compress.errors import PassError
from compress.model import trajectories
from compress.model.denoiser import Denoiser, example_inputs, guided, predict
from compress.model.features import attending, attention_maps, tapped
from compress.model.noising import noised, null_share, with_null
from compress.model.scalars import GUIDANCE_SCALE, STEPS
from compress.model.trajectories import Trajectories
from compress.runtime.sampling import classifier_free_guidance

AVERAGE = "average"


class Losses(PassConfig):
    """Weights of the loss terms; 0 leaves a term out."""

    output: float = Field(1.0, ge=0, description="the model's prediction")
    guided: float = Field(0.0, ge=0, description="the guided prediction; takes two evaluations of either model")
    feature: float = Field(1.0, ge=0, description="feature maps at the outputs of all stages")
    attention: float = Field(0.0, ge=0, description="attention maps, averaged over heads")
    task: float = Field(0.0, ge=0, description="denoising the data itself")


class Config(training.TrainingConfig):
    """Settings of `distill`."""

    losses: Losses = Field(Losses(), description="weights of the loss terms")
    null_fraction: float | None = Field(
        None, ge=0, le=1, description="share of null conditions; default: (scale − 1)/(2·scale − 1)"
    )
    random_conditions: float = Field(
        0.0, ge=0, le=1, description="share of images that are given the condition of another image of the batch"
    )
    states: Literal["data", "trajectory"] = Field(
        "data", description="what is denoised: noised images, or states of the teacher's own sampling"
    )
    trajectories: int = Field(500, ge=1, description="how often the teacher samples for `states: trajectory`")
    teacher: str | None = Field(
        None,
        description="name of an earlier pass whose model is the teacher, or `average`: the student's own moving "
        "average; default: the recipe's checkpoint",
    )

    @model_validator(mode="after")
    def _images(self) -> "Config":
        if self.teacher == AVERAGE and not self.losses.task:
            raise ValueError("a student that only copies itself learns nothing; with teacher: average set losses.task")
        if self.states == "trajectory" and self.losses.task:
            raise ValueError("losses.task needs images; with states: trajectory set it to 0")
        return self


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What both models are asked: sample [b,c,h,w], timestep [b], conditions. truth: the answer, if known."""

    sample: torch.Tensor
    timestep: torch.Tensor
    conditions: Mapping[str, torch.Tensor]
    truth: torch.Tensor | None


class Imitation(nn.Module):
    """The distillation objective. Only the student and the projections are trained."""

    def __init__(
        self,
        student: Denoiser,
        teacher: Denoiser,
        config: Config,
        where: str,
        walked: Trajectories | None = None,
    ) -> None:
        super().__init__()
        self.net = student.module
        self.models = (student, teacher)  # in a tuple, so that the teacher's weights are not the module's
        self.own_average = config.teacher == AVERAGE
        self.losses = config.losses
        self.walked = walked
        share = null_share(student.sampling.guidance.scale)
        self.null_fraction = share if config.null_fraction is None else config.null_fraction
        self.random_conditions = config.random_conditions
        self.projections = nn.ModuleDict()
        self.taps: list[str] = []
        if config.losses.guided and student.sampling.guidance.kind != "cfg":
            raise PassError(f"{where}: losses.guided needs a model whose guidance takes two evaluations; set it to 0")
        if student.sampling.distilled and not teacher.sampling.distilled:
            raise PassError(
                f"{where}: one evaluation of the student does the work of several of its teacher's; name the pass that "
                "distilled the steps, or one after it, as `teacher`"
            )
        if config.losses.feature:
            ours, theirs = (_stage_sizes(model) for model in (student, teacher))
            self.taps = [tap for tap, size in ours.items() if theirs.get(tap) == size]
            if not self.taps:
                raise PassError(f"{where}: student and teacher have no stage in common; set losses.feature to 0")
            for tap in self.taps:
                projection = _projection(student, teacher, tap)
                if projection is not None:
                    self.projections[tap.replace(".", "_")] = projection
        self.attending: list[str] = []
        if config.losses.attention:
            self.attending = [path for path in attending(student) if path in attending(teacher)]
            if not self.attending:
                raise PassError(f"{where}: student and teacher share no attention; set losses.attention to 0")

    @property
    def average(self) -> nn.Module | None:
        """The student's moving average, where that is the teacher."""
        return self.models[1].net if self.own_average else None

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Weighted losses of one batch."""
        student, teacher = self.models
        given = self._inputs(batch, random)
        with (
            tapped(student, self.taps) as narrow,
            tapped(teacher, self.taps) as wide,
            attention_maps(student, self.attending) as looks,
            attention_maps(teacher, self.attending) as wanted_looks,
        ):
            with torch.no_grad():
                # a student whose one evaluation is guided learns the guided output; features of the conditional half
                ask = predict if student.sampling.guidance.online else guided
                wanted = ask(teacher, given.sample, given.timestep, given.conditions)
            output = predict(student, given.sample, given.timestep, given.conditions)
        losses = {}
        if self.losses.output:
            losses["output"] = self.losses.output * _relative_error(output, wanted)
        if self.losses.guided:
            scale = student.sampling.guidance.scale
            pairs = (both.chunk(2) for both in (output, wanted))
            ours, theirs = (classifier_free_guidance(with_it, without, scale) for with_it, without in pairs)
            losses["guided"] = self.losses.guided * _relative_error(ours, theirs)
        if self.losses.feature:
            count = len(output)
            terms = [_relative_error(self._projected(tap, narrow[tap]), wide[tap][:count]) for tap in self.taps]
            losses["feature"] = self.losses.feature * torch.stack(terms).mean()
        if self.losses.attention:
            terms = [_relative_error(looks[path], wanted_looks[path][: len(output)]) for path in self.attending]
            losses["attention"] = self.losses.attention * torch.stack(terms).mean()
        if self.losses.task:
            assert given.truth is not None
            losses["task"] = self.losses.task * _relative_error(output, given.truth)
        return losses

    def _inputs(self, batch: Batch, random: torch.Generator) -> Inputs:
        student = self.models[0]
        count = len(batch.images)
        paths = (student.sampling.timesteps, *student.sampling.others)
        path = paths[int(torch.randint(len(paths), (), generator=random))] if len(paths) > 1 else paths[0]
        if self.walked is None:
            met = noised(student, batch, random, torch.tensor(path))
            given = Inputs(met.sample, met.timestep, met.conditions, met.truth)
        else:
            timestep, states = self.walked.draw(count, random, held_out=not self.training)
            states = states.to(batch.images.device)
            given = Inputs(states.images, timestep.to(states.images.device), states.conditions, None)
        conditions = given.conditions
        if self.random_conditions:
            strange = torch.rand(count, generator=random) < self.random_conditions
            places = torch.where(strange, torch.randperm(count, generator=random), torch.arange(count))
            conditions = {name: value[places.to(value.device)] for name, value in conditions.items()}
        if student.sampling.guidance.scales:
            low, high = student.sampling.guidance.scales
            drawn = low + (high - low) * torch.rand(count, generator=random)
            conditions = {GUIDANCE_SCALE: drawn.to(given.sample.device), **conditions}
        if STEPS in student.inputs:
            conditions = {**conditions, STEPS: torch.full((count,), float(len(path)), device=given.sample.device)}
        if not self.losses.guided:
            null = torch.rand(count, generator=random) < self.null_fraction
            return dataclasses.replace(given, conditions=with_null(student, conditions, null))
        null_too = with_null(student, conditions, torch.ones(count, dtype=torch.bool))
        return Inputs(
            torch.cat([given.sample] * 2),
            torch.cat([given.timestep] * 2),
            {name: torch.cat([value, null_too[name]]) for name, value in conditions.items()},
            None if given.truth is None else torch.cat([given.truth] * 2),
        )

    def _projected(self, tap: str, feature: torch.Tensor) -> torch.Tensor:
        name, axis = tap.replace(".", "_"), self.models[0].family.channel_axis
        if name not in self.projections:
            return feature
        projected: torch.Tensor = self.projections[name](feature.movedim(axis, -1)).movedim(-1, axis)
        return projected


def _relative_error(value: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    wanted = wanted.detach().float()
    return (value.float() - wanted).square().mean() / wanted.square().mean()


def _projection(student: Denoiser, teacher: Denoiser, tap: str) -> nn.Linear | None:
    """The map from the channels of a student's stage to the teacher's; None where widths agree."""
    narrow_width, wide_width = (_stage_width(model, tap) for model in (student, teacher))
    if narrow_width == wide_width:
        return None
    projection = nn.Linear(narrow_width, wide_width).to(student.device)
    nn.init.zeros_(projection.weight)
    nn.init.zeros_(projection.bias)
    with torch.no_grad():
        for narrow, wide in enumerate(student.kept.get(tap, range(narrow_width))):
            if wide < wide_width:  # a new student may be wider than its teacher
                projection.weight[wide, narrow] = 1
    return projection


def _stage_sizes(model: Denoiser) -> dict[str, torch.Size]:
    """The shape of every stage's feature map, apart from its channels: height and width, or tokens."""
    axis = model.family.channel_axis
    with tapped(model, model.family.stages(model.net)) as features, torch.no_grad():
        model.module(*example_inputs(model, batch=1))
    return {tap: feature.shape[1:axis] + feature.shape[axis + 1 :] for tap, feature in features.items()}


def _stage_width(model: Denoiser, tap: str) -> int:
    writer = model.net.get_submodule(model.family.stages(model.net)[tap][1])
    return int(writer.get_parameter("weight").shape[0])


def imitation(model: Denoiser, config: Config, context: Context, walked: Trajectories | None = None) -> Imitation:
    """The objective of a copy of `model` that is trained."""
    student = dataclasses.replace(model, net=copy.deepcopy(model.net).requires_grad_(True))
    return Imitation(student, _teacher(model, config, context), config, context.name, walked)


def _teacher(model: Denoiser, config: Config, context: Context) -> Denoiser:
    if config.teacher is None:
        return context.teacher()
    if config.teacher == AVERAGE:
        return dataclasses.replace(model, net=copy.deepcopy(model.net).requires_grad_(False))
    teacher: Denoiser = context.earlier(config.teacher)
    return teacher


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Denoiser]:
    """Distill and return the averaged student."""
    if not any(config.losses.model_dump().values()):
        return PassResult(model, changed=False, notes={"reason": "all losses have weight 0"})
    walked = None
    if config.states == "trajectory":
        walked = trajectories.drawn(
            _teacher(model, config, context),
            config.trajectories,
            context.seed,
            context.dataset,
            context.progress,
            f"{context.name}: the teacher's trajectories",
        )
    objective = imitation(model, config, context, walked)
    student = objective.models[0]
    notes = training.train(objective, student.net, config, context, context.training_data())
    student.net.requires_grad_(False).eval()
    notes["null_fraction"] = round(objective.null_fraction, 4)
    notes["projected_stages"] = list(objective.projections)
    return PassResult(student, changed=True, notes=notes)


def forecast(model: Denoiser, config: Config, context: Context) -> Forecast:
    """The model keeps its size; training time is measured on a few steps."""
    objective = imitation(model, config, context)
    seconds, memory = training.forecast(objective, objective.models[0], config, context.seed)
    if config.states == "trajectory":
        teacher = _teacher(model, config, context)
        seconds += config.trajectories * trajectories.seconds_each(teacher, context.seed, context.dataset)
    return Forecast(model, seconds, memory)
