"""What training would cost, from a few measured steps."""

import time

import torch
from torch import nn

from compress import devices
from compress.contract import Context, Forecast
from compress.data import Batch
from compress.model.denoiser import Denoiser, example_inputs
from compress.randomness import Draw, generator
from compress.training.computing import autocast, computing
from compress.training.config import TrainingConfig
from compress.training.loop import Objective

STEPS = 3
FLOATS = {"adamw": 4.0, "adamw_8bit": 2.5}  # beside a trained weight: gradient, the optimizer's averages, the result


def forecast_of(objective: Objective, config: TrainingConfig, context: Context) -> Forecast:
    """The student as it is, and what training it would cost."""
    seconds, memory = forecast(objective, objective.student, config, context)
    objective.student.net.requires_grad_(False)
    return Forecast(objective.student, seconds, memory)


def forecast(objective: nn.Module, model: Denoiser, config: TrainingConfig, context: Context) -> tuple[float, int]:
    """(seconds, bytes of memory beyond the models) that training would take, on batches as `model` takes them.

    Memory: what autograd keeps for the backward pass, and what goes with every trained weight. It is said where the
    device has less than that.
    """
    models = getattr(objective, "models", ())
    with computing(models, config.model_copy(update={"compile": False}), context):
        weights = sum(p.numel() * p.element_size() for p in objective.parameters() if p.requires_grad)
        there = devices.memory(context.device)
        seconds, kept = _measured(objective, model, config, context)
    memory = kept + int(FLOATS[config.optimizer] * weights)
    if there is not None and there[0] + memory > there[1]:
        context.log(
            f"{context.name}: needs about {(there[0] + memory) / 1e9:.1f} GB, and the device has "
            f"{there[1] / 1e9:.1f} GB; {config.lighter(bool(models))}"
        )
    return seconds * config.accumulate * config.steps, memory


def _measured(objective: nn.Module, model: Denoiser, config: TrainingConfig, context: Context) -> tuple[float, int]:
    """(seconds of the fastest of a few parts of a step, bytes that autograd keeps of one)."""
    kept: dict[int, int] = {}
    times = []
    sample, _, *conditions = example_inputs(model, config.batch_size // config.accumulate)
    batch = Batch(sample, dict(zip(model.inputs, conditions, strict=True)))

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for step in range(STEPS):
        began = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast(config, context.device):
            losses = objective(batch, generator(context.seed, Draw.FORECAST, step))
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        total.item()  # a device may still be at work
        times.append(time.perf_counter() - began)
    objective.zero_grad()
    return min(times), sum(kept.values())
