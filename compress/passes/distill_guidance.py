"""Distill guidance, two evaluations or one and a classifier's gradient, into one evaluation.

The student learns the teacher's guided output. `baked`: at the recipe's scale. `embedded`: at every scale of a range,
which is then an input of the net and may be chosen when a sample is drawn. Scales are diffusers': 1 + the papers' w.

Loss (Meng et al. 2023, eq. 3): max(α²/σ², 1)·(x̂_0 of the student − guided x̂_0 of the teacher)², divided by the same of
the teacher's x̂_0 alone so that it means the same on every model; timesteps uniform over the student's own.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from compress import training
from compress.contract import Context, Forecast, PassResult
from compress.data import Batch
from compress.diffusion.targets import clean_sample, truncated_snr
from compress.errors import PassError
from compress.model import scalars
from compress.model.denoiser import Denoiser, guided
from compress.model.noising import noised
from compress.settings import Pair


class Config(training.TrainingConfig):
    """Settings of `distill_guidance`."""

    mode: Literal["baked", "embedded"] = Field(
        "baked", description="baked: the student knows the recipe's scale alone; embedded: the scale is an input"
    )
    scales: Pair[float] = Field((1.0, 5.0), description="for embedded: least and largest guidance scale")

    @model_validator(mode="after")
    def _range(self) -> "Config":
        if not 0 <= self.scales[0] < self.scales[1]:
            raise ValueError(f"scales: {list(self.scales)} is no range; give [least, largest]")
        if self.mode == "baked" and "scales" in self.model_fields_set:
            raise ValueError("scales: only for mode: embedded; baked takes the recipe's guidance scale")
        return self


class GuidedImitation(nn.Module):
    """The objective. Only the student is trained."""

    average = None

    def __init__(self, student: Denoiser, teacher: Denoiser, config: Config) -> None:
        super().__init__()
        self.net = student.module
        self.models = (student, teacher)  # in a tuple, so that the teacher's weights are not the module's
        self.scales = config.scales if config.mode == "embedded" else None

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """The weighted loss of one batch."""
        student, teacher = self.models
        given = noised(student, batch, random)
        sample, timestep, alpha, sigma = given.sample, given.timestep, given.alpha, given.sigma
        conditions = dict(batch.conditions)
        if self.scales:
            low, high = self.scales
            scale = low + (high - low) * torch.rand(len(sample), generator=random)
            conditions[scalars.GUIDANCE_SCALE] = scale.to(sample.device)
        kind, data = student.sampling.prediction_type, student.sampling.sigma_data
        with torch.no_grad():
            wanted = clean_sample(kind, sample, guided(teacher, sample, timestep, conditions), alpha, sigma, data)
        found = clean_sample(kind, sample, guided(student, sample, timestep, conditions), alpha, sigma, data)
        weight = truncated_snr(alpha, sigma)
        return {"guided": (weight * (found - wanted).square()).mean() / (weight * wanted.square()).mean()}


def objective(model: Denoiser, config: Config, context: Context) -> GuidedImitation:
    """The objective of a copy of `model`, which takes the scale where it is embedded. Raises PassError."""
    teacher = context.teacher()
    guidance = model.sampling.guidance
    if not teacher.sampling.guidance.online:
        raise PassError(f"{context.name}: the teacher is not guided, so there is nothing to distill; remove the pass")
    if not guidance.online:
        raise PassError(f"{context.name}: the model's guidance is {guidance.kind} already; remove the pass")
    net = copy.deepcopy(model.net).requires_grad_(True)
    scales = None
    if config.mode == "embedded":
        scales = config.scales
        if not scales[0] <= guidance.scale <= scales[1]:
            raise PassError(
                f"{context.name}: the recipe's guidance scale {guidance.scale} is not in scales: {list(scales)}"
            )
        try:
            scalars.add(net, model.family, scalars.GUIDANCE_SCALE)
        except ValueError as error:
            raise PassError(f"{context.name}: {error}; use mode: baked") from None
    guidance = guidance.model_copy(update={"kind": config.mode, "scales": scales})
    sampling = model.sampling.model_copy(update={"guidance": guidance})
    student = dataclasses.replace(model, net=net.requires_grad_(True), sampling=sampling, classifier=None)
    return GuidedImitation(student, teacher, config)


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Denoiser]:
    """Distill and return the averaged student, which evaluates once."""
    made = objective(model, config, context)
    student = made.models[0]
    notes = training.train(made, student.net, config, context, context.training_data())
    student.net.requires_grad_(False).eval()
    return PassResult(student, changed=True, notes=notes)


def forecast(model: Denoiser, config: Config, context: Context) -> Forecast:
    """Training time is measured on a few steps."""
    made = objective(model, config, context)
    seconds, memory = training.forecast(made, made.models[0], config, context.seed)
    made.models[0].net.requires_grad_(False)
    return Forecast(made.models[0], seconds, memory)
