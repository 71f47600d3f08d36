"""Train a model from nothing, or go on training one, on the recipe's data with label dropout.

The loss is the mean squared error of the model's own prediction at training timesteps drawn uniformly. With guidance,
labels are replaced by the null condition with probability `label_dropout`, as classifier-free guidance needs (Ho &
Salimans 2022, algorithm 1).
"""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import nn

from compress import training
from compress.contract import Context, Forecast, PassResult
from compress.data import Batch
from compress.diffusion.schedulers import from_scheduler_config
from compress.errors import PassError, short
from compress.families import FAMILIES
from compress.model import trial
from compress.model.denoiser import Denoiser, predict
from compress.model.noising import noised, with_null
from compress.randomness import Draw, generator
from compress.settings import KeyFaults, unknown_keys


class Config(training.TrainingConfig):
    """Settings of `train`."""

    model: dict[str, Any] | None = Field(
        None, description="diffusers config of the model to train, with `_class_name`; absent: train the model so far"
    )
    steps: int = Field(3000, ge=1, description="optimizer steps")
    batch_size: int = Field(128, ge=1, le=training.LARGEST_BATCH, description="images a step")
    label_dropout: float = Field(0.1, ge=0, le=1, description="share of conditions replaced by the null condition")

    @field_validator("model")
    @classmethod
    def _known(cls, model: dict[str, Any] | None) -> dict[str, Any] | None:
        if model is not None:
            name = model.get("_class_name")
            if not isinstance(name, str) or name not in FAMILIES:
                raise KeyFaults({"_class_name": f"should be one of {', '.join(FAMILIES)}; got {short(name)}"})
            unknown = unknown_keys(model, name)
            if unknown:
                raise KeyFaults(unknown)
        return model


class Denoising(training.Objective):
    """The plain denoising objective, whose teacher is the data."""

    def __init__(self, model: Denoiser, label_dropout: float) -> None:
        super().__init__(model, model)
        self.label_dropout = label_dropout if model.sampling.guidance.kind == "cfg" else 0.0

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Mean squared error of the prediction. Ho et al. 2020, eq. 14, for any prediction type."""
        question = noised(self.student, batch, random, self.student.sampling.training)
        question = with_null(self.student, question, random, self.label_dropout)
        assert question.answer is not None
        output = predict(self.student, *question.asked)
        return {"task": nn.functional.mse_loss(output.float(), question.answer)}


def build(config: Config, context: Context) -> Denoiser:
    """A model with random weights, determined by the recipe's seed. Raises PassError for a bad config."""
    assert config.model is not None
    family = FAMILIES[config.model["_class_name"]]
    scheduler = context.sampling.scheduler
    if scheduler is None:
        missing = "a new model needs a noise schedule; write one under `sampling: {scheduler: …}`"
        raise PassError(f"{context.name}: {missing}")
    try:
        sampling = from_scheduler_config(scheduler, context.sampling)
    except ValueError as error:
        raise PassError(f"{context.name}: sampling: {error}") from None
    sampling = sampling.model_copy(update={"guidance": context.guidance})
    try:
        trial.check_samples(family, trial.build(family, config.model))
        torch.manual_seed(generator(context.seed, Draw.NEW_NET).initial_seed())
        model = Denoiser(family.build(config.model), family, sampling, scheduler)
        trial.run(model)
    except ValueError as error:
        raise PassError(f"{context.name}: model: {error}") from None
    return model.to(context.device)


def objective(model: Denoiser | None, config: Config, context: Context) -> Denoising:
    """The objective of a new model, or of a copy of the one so far. Raises PassError."""
    if config.model is not None:
        model = build(config, context)
    if model is None:
        raise PassError(f"{context.name}: give a `checkpoint` in the recipe, or `model` (a diffusers config) here")
    return Denoising(training.student_of(model), config.label_dropout)


def run(model: Denoiser | None, config: Config, context: Context) -> PassResult[Denoiser]:
    """Train and return the averaged model."""
    return training.trained(objective(model, config, context), config, context)


def forecast(model: Denoiser | None, config: Config, context: Context) -> Forecast:
    """The model's size is known at once; training time is measured on a few steps."""
    return training.forecast_of(objective(model, config, context), config, context)
