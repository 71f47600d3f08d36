"""Train the student to do what the teacher does, at the timesteps and the guidance it will be used with.

Losses, each divided by the teacher's own energy so that a weight means the same on every model:

    output    mean (S − T)² ÷ mean T²        of the models' predictions S, T [b,c,h,w]
    feature   mean over stages of  mean (P(s) − t)² ÷ mean t²        of the stages' feature maps s, t
    task      mean (S − target)² ÷ mean target²        against the noised image, the teacher not asked

P is a temporary 1×1 convolution where the student's stage is narrower; it starts by putting each
surviving channel where the pruner says it came from, and is trained and then dropped.
Timesteps are drawn uniformly from the student's own. A share (scale − 1)/(2·scale − 1) of the
conditions is null: the weight of the unconditional evaluation in the guided one.
"""

import copy
import dataclasses
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import nn

from compress import training
from compress.contract import Context, Forecast, PassConfig, PassResult
from compress.data import Batch
from compress.diffusion.prediction import target
from compress.errors import PassError
from compress.models.denoiser import Denoiser, predict
from compress.models.features import tapped
from compress.models.noising import noised, null_share, with_null


class Losses(PassConfig):
    """Weights of the loss terms; 0 leaves a term out."""

    output: float = Field(1.0, ge=0, description="the model's prediction")
    feature: float = Field(1.0, ge=0, description="feature maps at the outputs of all stages")
    task: float = Field(0.0, ge=0, description="denoising the data itself")


class Config(training.TrainingConfig):
    """Settings of `distill`."""

    losses: Losses = Field(Losses(), description="weights of the loss terms")
    null_fraction: float | None = Field(
        None, ge=0, le=1, description="share of null conditions; default: (scale − 1)/(2·scale − 1)"
    )


class Imitation(nn.Module):
    """The distillation objective. Only the student and the projections are trained."""

    def __init__(self, student: Denoiser, teacher: Denoiser, config: Config, where: str) -> None:
        super().__init__()
        self.net = student.module
        self.models = (student, teacher)  # in a tuple, so that the teacher's weights are not the module's
        self.losses = config.losses
        share = null_share(student.sampling.guidance.scale)
        self.null_fraction = share if config.null_fraction is None else config.null_fraction
        self.projections = nn.ModuleDict()
        self.taps: list[str] = []
        if config.losses.feature:
            self.taps = [tap for tap in student.family.stages(student.net) if tap in teacher.family.stages(teacher.net)]
            if not self.taps:
                raise PassError(f"{where}: student and teacher have no stage in common; set losses.feature to 0")
            for tap in self.taps:
                projection = _projection(student, teacher, tap)
                if projection is not None:
                    self.projections[tap.replace(".", "_")] = projection

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Weighted losses of one batch."""
        student, teacher = self.models
        count = len(batch.images)
        own = torch.tensor(student.sampling.timesteps)
        timestep = own[torch.randint(len(own), (count,), generator=random)]
        sample, noise, alpha, sigma = noised(student, batch, timestep, random)
        null = torch.rand(count, generator=random) < self.null_fraction
        conditions = with_null(student, batch.conditions, null)
        timestep = timestep.to(sample.device)
        with tapped(student, self.taps) as narrow, tapped(teacher, self.taps) as wide:
            with torch.no_grad():
                wanted = predict(teacher, sample, timestep, conditions)
            output = predict(student, sample, timestep, conditions)
        losses = {}
        if self.losses.output:
            losses["output"] = self.losses.output * _relative_error(output, wanted)
        if self.losses.feature:
            terms = [_relative_error(self._projected(tap, narrow[tap]), wide[tap]) for tap in self.taps]
            losses["feature"] = self.losses.feature * torch.stack(terms).mean()
        if self.losses.task:
            truth = target(student.sampling.prediction_type, batch.images, noise, alpha, sigma)
            losses["task"] = self.losses.task * _relative_error(output, truth)
        return losses

    def _projected(self, tap: str, feature: torch.Tensor) -> torch.Tensor:
        name = tap.replace(".", "_")
        return self.projections[name](feature) if name in self.projections else feature


def _relative_error(value: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    wanted = wanted.detach().float()
    return (value.float() - wanted).square().mean() / wanted.square().mean()


def _projection(student: Denoiser, teacher: Denoiser, tap: str) -> nn.Conv2d | None:
    """The 1×1 convolution from a student's stage to the teacher's; None where widths agree."""
    narrow_width, wide_width = (_stage_width(model, tap) for model in (student, teacher))
    if narrow_width == wide_width:
        return None
    projection = nn.Conv2d(narrow_width, wide_width, kernel_size=1).to(student.device)
    nn.init.zeros_(projection.weight)
    nn.init.zeros_(projection.bias)  # type: ignore[arg-type]
    with torch.no_grad():
        for narrow, wide in enumerate(student.kept.get(tap, ())):
            projection.weight[wide, narrow] = 1
    return projection


def _stage_width(model: Denoiser, tap: str) -> int:
    writer = model.net.get_submodule(model.family.stages(model.net)[tap][1])
    return int(writer.get_parameter("weight").shape[0])


def _objective(model: Denoiser, config: Config, context: Context) -> Imitation:
    student = dataclasses.replace(model, net=copy.deepcopy(model.net).requires_grad_(True))
    return Imitation(student, context.teacher(), config, context.name)


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Denoiser]:
    """Distill and return the averaged student."""
    if not any((config.losses.output, config.losses.feature, config.losses.task)):
        return PassResult(model, changed=False, notes={"reason": "all losses have weight 0"})
    objective = _objective(model, config, context)
    student = objective.models[0]
    notes = training.train(objective, student.net, config, context, context.training_data())
    student.net.requires_grad_(False).eval()
    notes["null_fraction"] = round(objective.null_fraction, 4)
    notes["projected_stages"] = list(objective.projections)
    return PassResult(student, changed=True, notes=notes)


def forecast(model: Denoiser, config: Config, context: Context) -> Forecast:
    """The model keeps its size; training time is measured on a few steps."""
    objective = _objective(model, config, context)
    seconds, memory = training.forecast(objective, objective.models[0], config, context.seed)
    return Forecast(model, seconds, memory)
