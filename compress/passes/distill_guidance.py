"""Distill guidance, two evaluations or one and a classifier's gradient, into one evaluation.

The student learns the teacher's guided output. `baked`: at the recipe's scale. `embedded`: at every scale of a range,
which is then an input of the net and may be chosen when a sample is drawn. Scales are diffusers': 1 + the papers' w.

Loss (Meng et al. 2023, eq. 3): max(α²/σ², 1)·(x̂_0 of the student − guided x̂_0 of the teacher)², divided by the same of
the teacher's x̂_0 alone so that it means the same on every model; timesteps uniform over the student's own.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator

from compress import training
from compress.contract import Context, Forecast, PassResult
from compress.data import Batch
from compress.diffusion.targets import relative_error
from compress.errors import PassError
from compress.model import scalars
from compress.model.denoiser import Denoiser
from compress.model.noising import clean_estimate, noised, with_scale
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


class Guided(training.Objective):
    """The error of the student's one evaluation against the teacher's guided output."""

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """The weighted loss of one batch."""
        question = noised(self.student, batch, random)
        sample, timestep, conditions = question.asked
        assert question.levels is not None
        conditions = with_scale(self.student.sampling.guidance.scales, conditions, sample, random)
        with torch.no_grad():
            wanted = clean_estimate(self.teacher, sample, timestep, conditions, question.levels)
        found = clean_estimate(self.student, sample, timestep, conditions, question.levels)
        return {"guided": relative_error(found, wanted, *question.levels)}


def objective(model: Denoiser, config: Config, context: Context) -> Guided:
    """The objective of a copy of `model`, which takes the scale where it is embedded. Raises PassError."""
    teacher = context.teacher()
    guidance = model.sampling.guidance
    if not teacher.sampling.guidance.online:
        raise PassError(f"{context.name}: the teacher is not guided, so there is nothing to distill; remove the pass")
    if not guidance.online:
        raise PassError(f"{context.name}: the model's guidance is {guidance.kind} already; remove the pass")
    scales = config.scales if config.mode == "embedded" else None
    guidance = guidance.model_copy(update={"kind": config.mode, "scales": scales})
    sampling = model.sampling.model_copy(update={"guidance": guidance})
    student = training.student_of(model, sampling=sampling, classifier=None)
    if scales:
        if not scales[0] <= guidance.scale <= scales[1]:
            raise PassError(
                f"{context.name}: the recipe's guidance scale {guidance.scale} is not in scales: {list(scales)}"
            )
        try:
            scalars.add(student.net, model.family, scalars.GUIDANCE_SCALE)
        except ValueError as error:
            raise PassError(f"{context.name}: {error}; use mode: baked") from None
        student.net.requires_grad_(True)
    return Guided(student, teacher)


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Denoiser]:
    """Distill and return the averaged student, which evaluates once."""
    return training.trained(objective(model, config, context), config, context)


def forecast(model: Denoiser, config: Config, context: Context) -> Forecast:
    """Training time is measured on a few steps."""
    return training.forecast_of(objective(model, config, context), config, context)
