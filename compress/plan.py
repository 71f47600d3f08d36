"""What a recipe would give and cost, without training."""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from compress import passes, training
from compress.contract import Finished, Forecast, Unwritten
from compress.data import FromTeacher
from compress.measure import counts
from compress.model.denoiser import Denoiser
from compress.pipeline.pipeline import Parts, decoder_of
from compress.recipe.inputs import Inputs, Options
from compress.recipe.recipe import Recipe
from compress.runtime import Bundle


@dataclass(frozen=True)
class Row:
    """The model after one step. bytes: of its weights or, once exported, of its file; None while it is simulated.

    memory_bytes: peak while the step runs, beyond the program itself.
    """

    name: str
    params: int
    macs: int
    bytes: int | None
    seconds: float
    memory_bytes: int


def plan(recipe: Recipe, options: Options) -> Iterator[Row]:
    """One row for the checkpoint and one for each pass.

    Passes that say so forecast what they would give, from a few steps or by estimate; all others are done for real.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs = Inputs(recipe, options)
        training_needs = any(isinstance(step.config, training.TrainingConfig) for step in recipe.steps)
        if not isinstance(recipe.head.data, FromTeacher) and (recipe.head.data is not None or training_needs):
            inputs.dataset()  # its faults are found now, as `apply` finds them
        model: Any = inputs.teacher() if recipe.head.checkpoint else None
        net = model
        parts: Callable[[], Parts] = inputs.parts
        finished: list[Finished] = []
        if model is not None:
            yield _row("checkpoint", net, Forecast(model))
        for number, step in enumerate(recipe.steps):
            work = Path(folder, str(number))
            work.mkdir()
            context = inputs.context(step, work, work, finished, parts)
            module = passes.module(step.kind)
            if isinstance(step.config, training.TrainingConfig):
                training.say_slow(step.config, context)
            began = time.monotonic()
            given = decoder_of(parts(), step.name) if passes.on_decoder(step.kind) else model
            if hasattr(module, "forecast"):
                forecast = module.forecast(given, step.config, context)
            else:
                forecast = Forecast(module.run(given, step.config, context).model)
                forecast = dataclasses.replace(forecast, seconds=time.monotonic() - began)
            if passes.on_decoder(step.kind):
                parts = partial(dataclasses.replace, parts(), made=forecast.model)
                forecast = dataclasses.replace(forecast, model=model)
            model = forecast.model
            net = model if isinstance(model, Denoiser) else net
            finished.append(Finished(step.name, step.kind, partial(getattr, forecast, "model")))
            yield _row(step.name, net, forecast)


def _row(name: str, net: Denoiser, forecast: Forecast) -> Row:
    held = counts.weight_bytes(net)
    size = held if forecast.model is net else None
    if isinstance(forecast.model, Bundle | Unwritten):
        size = forecast.model.size_bytes
    return Row(name, counts.parameters(net), counts.macs(net), size, forecast.seconds, held + forecast.memory_bytes)
