"""What a recipe would give and cost, without training."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress import passes
from compress.contract import Forecast
from compress.inputs import Inputs, Options
from compress.models import counts
from compress.models.denoiser import Denoiser
from compress.recipe import Recipe


@dataclass(frozen=True)
class Row:
    """The model after one step. memory_bytes: peak while the step runs, beyond the program itself."""

    name: str
    params: int
    macs: int
    bytes: int
    seconds: float
    memory_bytes: int


def plan(recipe: Recipe, options: Options) -> Iterator[Row]:
    """One row for the checkpoint and one for each pass.

    Pruning is done for real; training is measured on a few steps.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs = Inputs(recipe, options, Path(folder))
        model: Any = inputs.teacher() if recipe.head.checkpoint else None
        size = None
        if model is not None:
            yield _row("checkpoint", Forecast(model), None)
        for number, step in enumerate(recipe.steps):
            work = Path(folder, str(number))
            work.mkdir()
            context = inputs.context(step, work, work)
            module = passes.module(step.kind)
            if hasattr(module, "forecast"):
                forecast = module.forecast(model, step.config, context)
            else:
                forecast = Forecast(module.run(model, step.config, context).model)
            model, size = forecast.model, forecast.model_bytes or size
            yield _row(step.name, forecast, size)


def _row(name: str, forecast: Forecast, size: int | None) -> Row:
    model: Denoiser = forecast.model
    params = counts.parameters(model)
    weights = 4 * params
    return Row(name, params, counts.macs(model), size or weights, forecast.seconds, weights + forecast.memory_bytes)
