"""What training would cost, from a few measured steps."""

import time

import torch
from torch import nn

from compress.contract import Context, Forecast
from compress.data import Batch
from compress.model.denoiser import Denoiser, example_inputs
from compress.randomness import Draw, generator
from compress.training.config import TrainingConfig
from compress.training.loop import Objective


def forecast(objective: nn.Module, model: Denoiser, config: TrainingConfig, seed: int) -> tuple[float, int]:
    """(seconds, bytes of memory beyond the models) that training would take, from measured steps.

    Memory: what autograd keeps for the backward pass, gradients, and three averages a parameter.
    """
    sample, _, *conditions = example_inputs(model, config.batch_size // config.accumulate)
    batch = Batch(sample, dict(zip(model.inputs, conditions, strict=True)))
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    times = []
    for step in range(3):
        began = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            total = torch.stack(list(objective(batch, generator(seed, Draw.FORECAST, step)).values())).sum()
        total.backward()
        times.append(time.perf_counter() - began)
    objective.zero_grad()
    trained = sum(p.numel() * p.element_size() for p in objective.parameters() if p.requires_grad)
    return min(times) * config.accumulate * config.steps, sum(kept.values()) + 4 * trained


def forecast_of(objective: Objective, config: TrainingConfig, context: Context) -> Forecast:
    """The student as it is, and what training it would cost."""
    seconds, memory = forecast(objective, objective.student, config, context.seed)
    objective.student.net.requires_grad_(False)
    return Forecast(objective.student, seconds, memory)
