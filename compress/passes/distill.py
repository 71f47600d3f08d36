"""Train the student to do what the teacher does, at the timesteps and the guidance it will be used with.

Losses, all but the last divided by the teacher's own energy, so that a weight means the same on every model:

    output     mean (S − T)² ÷ mean T²        of the models' predictions S, T [b,c,h,w]
    guided     the same of their guided predictions, s·c − (s − 1)·u at the recipe's scale s
    feature    mean over stages of  mean (P(s) − t)² ÷ mean t²        of the stages' feature maps s, t
    attention  mean over attention blocks of the same of their attention maps, averaged over heads
    task       mean (S − target)² ÷ mean target²        against the noised image, the teacher not asked
    labels     mean Σ p(T) · (log p(T) − log p(S))      of the labels p that a classifier gives of the denoised samples

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

from compress import training
from compress.contract import Context, Forecast, PassConfig, PassResult
from compress.data import Batch
from compress.devices import send
from compress.errors import PassError
from compress.model.denoiser import Denoiser, guided, guided_halves, null_conditions, predict
from compress.model.features import CommonStages, attending, attention_maps, tapped
from compress.model.noising import Question, noised, null_share, with_null, with_scale
from compress.model.scalars import STEPS
from compress.model.soft_labels import SoftLabels
from compress.settings import File
from compress.training import trajectories
from compress.training.trajectories import Trajectories

AVERAGE = "average"


class Losses(PassConfig):
    """Weights of the loss terms; 0 leaves a term out."""

    output: float = Field(1.0, ge=0, description="the model's prediction")
    guided: float = Field(0.0, ge=0, description="the guided prediction; takes two evaluations of either model")
    feature: float = Field(1.0, ge=0, description="feature maps at the outputs of all stages")
    attention: float = Field(0.0, ge=0, description="attention maps, averaged over heads")
    task: float = Field(0.0, ge=0, description="denoising the data itself")
    labels: float = Field(
        0.0, ge=0, description="the labels that `classifier` gives of the denoised samples, as it is unsure of them"
    )


class Config(training.TrainingConfig):
    """Settings of `distill`."""

    losses: Losses = Field(Losses(), description="weights of the loss terms")
    classifier: File | None = Field(
        None, description="for losses.labels: TorchScript, f(samples [b,c,h,w]) → logits; of latents of a latent model"
    )
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
        if self.teacher == AVERAGE and self.lora:
            raise ValueError("lora: an average of additions is no teacher; leave lora away, or teacher: average")
        if self.states == "trajectory" and self.losses.task:
            raise ValueError("losses.task needs images; with states: trajectory set it to 0")
        if (self.classifier is None) == bool(self.losses.labels):
            raise ValueError("losses.labels and classifier go together; give both, or neither")
        if self.losses.attention and (self.compile or self.recompute):
            raise ValueError(
                "losses.attention reads within blocks that compile and recompute take as a whole; leave those away"
            )
        return self

    def compiled(self, device: torch.device) -> bool:
        return not self.losses.attention and super().compiled(device)


class Imitation(training.Objective):
    """The distillation objective. Only the student and the projections are trained."""

    def __init__(
        self,
        student: Denoiser,
        teacher: Denoiser,
        config: Config,
        where: str,
        walked: Trajectories | None = None,
        labels: SoftLabels | None = None,
    ) -> None:
        super().__init__(student, teacher)
        self.labels = labels
        self.losses, self.random_conditions, self.walked = config.losses, config.random_conditions, walked
        self.leads = teacher if config.teacher == AVERAGE else None
        share = null_share(student.sampling.guidance.scale)
        self.null_fraction = share if config.null_fraction is None else config.null_fraction
        if config.losses.guided and student.sampling.guidance.kind != "cfg":
            raise PassError(f"{where}: losses.guided needs a model whose guidance takes two evaluations; set it to 0")
        if student.sampling.distilled and not teacher.sampling.distilled:
            raise PassError(
                f"{where}: one evaluation of the student does the work of several of its teacher's; name the pass that "
                "distilled the steps, or one after it, as `teacher`"
            )
        self.stages = CommonStages(student, teacher) if config.losses.feature else None
        if self.stages and not self.stages.taps:
            raise PassError(f"{where}: student and teacher have no stage in common; set losses.feature to 0")
        self.attending: list[str] = []
        if config.losses.attention:
            self.attending = [path for path in attending(student) if path in attending(teacher)]
            if not self.attending:
                raise PassError(f"{where}: student and teacher share no attention; set losses.attention to 0")

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Weighted losses of one batch."""
        student, teacher, weight = self.student, self.teacher, self.losses
        question = self._question(batch, random)
        taps = self.stages.taps if self.stages else []
        with (
            tapped(student, taps) as narrow,
            tapped(teacher, taps) as wide,
            attention_maps(student, self.attending) as looks,
            attention_maps(teacher, self.attending) as wanted_looks,
        ):
            with torch.no_grad():
                # a student whose one evaluation is guided learns the guided output; features of the conditional half
                ask = predict if student.sampling.guidance.online else guided
                wanted = ask(teacher, *question.asked)
            output = predict(student, *question.asked)
        losses = {}
        if weight.output:
            losses["output"] = weight.output * _relative_error(output, wanted)
        if weight.guided:
            scale = student.sampling.guidance.scale
            ours, theirs = (guided_halves(both, scale) for both in (output, wanted))
            losses["guided"] = weight.guided * _relative_error(ours, theirs)
        if self.stages:
            terms = [_relative_error(self.stages(tap, narrow[tap]), wide[tap][: len(output)]) for tap in taps]
            losses["feature"] = weight.feature * torch.stack(terms).mean()
        if weight.attention:
            terms = [_relative_error(looks[path], wanted_looks[path][: len(output)]) for path in self.attending]
            losses["attention"] = weight.attention * torch.stack(terms).mean()
        if weight.task:
            assert question.answer is not None
            losses["task"] = weight.task * _relative_error(output, question.answer)
        if self.labels is not None:
            losses["labels"] = weight.labels * self.labels(question.sample, question.timestep, output, wanted)
        return losses

    def _question(self, batch: Batch, random: torch.Generator) -> Question:
        """What both models are asked; with a guided loss twice, the second time with the null condition."""
        student, count = self.student, len(batch.images)
        paths = (student.sampling.timesteps, *student.sampling.others)
        path = paths[int(torch.randint(len(paths), (), generator=random))] if len(paths) > 1 else paths[0]
        if self.walked is None:
            question = noised(student, batch, random, torch.tensor(path))
        else:
            timestep, states = self.walked.draw(count, random, held_out=not self.training)
            states = states.to(batch.images.device)
            question = Question(states.images, send(timestep, states.images.device), states.conditions)
        sample, timestep, conditions = question.asked
        if self.random_conditions:
            strange = torch.rand(count, generator=random) < self.random_conditions
            places = torch.where(strange, torch.randperm(count, generator=random), torch.arange(count))
            conditions = {name: value[send(places, value.device)] for name, value in conditions.items()}
        conditions = with_scale(student.sampling.guidance.scales, conditions, sample, random)
        if STEPS in student.inputs:
            conditions = {**conditions, STEPS: torch.full((count,), float(len(path)), device=sample.device)}
        if not self.losses.guided:
            question = dataclasses.replace(question, conditions=conditions)
            return with_null(student, question, random, self.null_fraction)
        null = null_conditions(student, conditions)
        return Question(
            torch.cat([sample] * 2),
            torch.cat([timestep] * 2),
            {name: torch.cat([value, null[name]]) for name, value in conditions.items()},
            answer=None if question.answer is None else torch.cat([question.answer] * 2),
        )


def _relative_error(value: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    wanted = wanted.detach().float()
    return (value.float() - wanted).square().mean() / wanted.square().mean()


def imitation(model: Denoiser, config: Config, context: Context, walked: Trajectories | None = None) -> Imitation:
    """The objective of a copy of `model` that is trained."""
    labels = SoftLabels(config.classifier, model, context.allow_pickle) if config.classifier else None
    return Imitation(training.student_of(model), _teacher(model, config, context), config, context.name, walked, labels)


def _teacher(model: Denoiser, config: Config, context: Context) -> Denoiser:
    if config.teacher == AVERAGE:
        return dataclasses.replace(model, net=copy.deepcopy(model.net).requires_grad_(False))
    return context.leader(config.teacher)


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Denoiser]:
    """Distill and return the averaged student."""
    if not any(config.losses.model_dump().values()):
        return PassResult(model, changed=False, notes={"reason": "all losses have weight 0"})
    walked = None
    if config.states == "trajectory":
        walked = trajectories.drawn(_teacher(model, config, context), config.trajectories, context)
    objective = imitation(model, config, context, walked)
    stages = list(objective.stages.projections) if objective.stages else []
    null = round(objective.null_fraction, 4)
    return training.trained(objective, config, context, null_fraction=null, projected_stages=stages)


def forecast(model: Denoiser, config: Config, context: Context) -> Forecast:
    """The model keeps its size; training time is measured on a few steps."""
    found = training.forecast_of(imitation(model, config, context), config, context)
    if config.states == "data":
        return found
    drawing = config.trajectories * trajectories.seconds_each(_teacher(model, config, context), context)
    return dataclasses.replace(found, seconds=found.seconds + drawing)
