"""The one training loop, shared by every pass that trains.

Randomness is a function of (seed, step, rank), and the state is saved every few seconds, so running
the same command again continues a killed run and ends with the same weights.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.training_utils import EMAModel
from torch import nn

from compress.contract import Context, Forecast, PassResult
from compress.data import Batch, Dataset
from compress.errors import PassError
from compress.model.denoiser import Denoiser, example_inputs
from compress.randomness import Draw, generator
from compress.training.config import EarlyStop, TrainingConfig, learning_rate, say_slow
from compress.training.state import State

CHECKPOINT_SECONDS = 20.0
STATE = "training.safetensors"


class Objective(nn.Module):
    """What is trained: `forward` turns a batch into named, weighted losses, whose sum is minimised.

    student: trained, with what else of the objective requires gradients; it evaluates as `net`. teacher: is asked.
    leads: a copy of the student whose weights are kept at the average of the steps so far, if there is one.
    """

    leads: Denoiser | None = None

    def __init__(self, student: Denoiser, teacher: Denoiser) -> None:
        super().__init__()
        self.net = student.module
        self.student, self.teacher = student, teacher

    @property
    def average(self) -> nn.Module | None:
        """The net of `leads`."""
        return self.leads.net if self.leads else None

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Losses (scalars). random: a CPU generator for noise, timesteps and dropped labels."""
        raise NotImplementedError


def student_of(model: Denoiser, **changes: Any) -> Denoiser:
    """A copy of the model whose net can be trained. changes: of its other fields."""
    return dataclasses.replace(model, net=copy.deepcopy(model.net).requires_grad_(True), **changes)


def train(
    objective: nn.Module, net: nn.Module, config: TrainingConfig, context: Context, dataset: Dataset
) -> dict[str, Any]:
    """Train the parameters of `objective` that require gradients; leave the averaged weights in `net`.

    objective: called as an `Objective` is; net: the part of it that is the result. Returns figures for the record.
    Raises PassError at a loss or gradient that is not finite, with the state before it saved.
    """
    say_slow(config, context)
    AcceleratorState._reset_state()  # Accelerate remembers the precision of the pass before
    precision = "no" if config.precision == "fp32" else config.precision
    accelerator = Accelerator(mixed_precision=precision, cpu=context.device.type == "cpu")
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    prepared, optimizer = accelerator.prepare(objective, optimizer)
    ema = EMAModel(net.parameters(), decay=config.ema, foreach=True)
    state = State(objective, optimizer, ema, context.workdir / STATE)
    state.restore()
    start = state.step
    if start:
        context.log(f"{context.name}: continues at step {start} of {config.steps}")
    history: list[list[float]] = []
    losses: dict[str, float] = {}
    saved = began = time.monotonic()
    stop = config.early_stop
    objective.train()
    with context.progress(context.name, config.steps) as task:
        task.advance(start)
        for step in range(start, config.steps):
            if stop and state.stale >= stop.patience:
                break
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                state.save()
                saved = time.monotonic()
            average = getattr(objective, "average", None)
            if average is not None:
                ema.copy_to(average.parameters())
            losses = _step(prepared, state, accelerator, config, context, dataset)
            ema.step(net.parameters())
            if step % max(config.steps // 200, 1) == 0 or step == config.steps - 1:
                history.append([step, *(round(loss, 6) for loss in losses.values())])
            state.step = step + 1
            if stop and (state.step % stop.every == 0 or state.step == config.steps):
                _probe(state, net, stop, context)
            task.advance(1, loss=sum(losses.values()))
    if stop:
        _put(state.best, net)
    elif config.ema:
        ema.copy_to(net.parameters())
    objective.eval()
    return {
        "steps": state.step,
        "resumed_at": start,
        "seconds_per_step": round((time.monotonic() - began) / max(state.step - start, 1), 4),
        "history_columns": ["step", *losses],
        "history": history,
        **({"probes": state.probes} if state.probes else {}),
    }


def _step(
    prepared: nn.Module,
    state: State,
    accelerator: Accelerator,
    config: TrainingConfig,
    context: Context,
    dataset: Dataset,
) -> dict[str, float]:
    """Take one step; its losses. Raises PassError where they or the gradients are not finite."""
    optimizer, step = state.optimizer, state.step
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    optimizer.zero_grad()
    losses: dict[str, float] = {}
    for part in range(step * config.accumulate, (step + 1) * config.accumulate):
        key = (context.seed, Draw.STEP, part, accelerator.process_index)
        random = generator(*key)
        torch.manual_seed(random.initial_seed())  # for dropout inside the net
        batch = dataset.batch(config.batch_size // config.accumulate, *key).to(context.device)
        with accelerator.autocast():
            found = prepared(batch, random)
        accelerator.backward(torch.stack(list(found.values())).sum() / config.accumulate)
        for name, loss in found.items():
            losses[name] = losses.get(name, 0.0) + float(loss.detach()) / config.accumulate
    value = sum(losses.values())
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = float(accelerator.clip_grad_norm_(parameters, config.max_grad_norm))
    if not (math.isfinite(value) and math.isfinite(norm)):
        state.save()
        raise PassError(
            f"{context.name}: the loss became {value} (gradient norm {norm}) at step {step}; the "
            f"last good state (step {step}) is {state.file}; lower learning_rate, "
            "or use precision: fp32"
        )
    optimizer.step()
    return losses


def trained(objective: Objective, config: TrainingConfig, context: Context, **notes: Any) -> PassResult[Denoiser]:
    """Train on the recipe's data; the averaged student. notes: for the record, beside those of training."""
    found = train(objective, objective.student.net, config, context, context.training_data())
    objective.student.net.requires_grad_(False).eval()
    return PassResult(objective.student, changed=True, notes=found | notes)


@torch.no_grad()
def _probe(state: State, net: nn.Module, config: EarlyStop, context: Context) -> None:
    """Note the averaged net's loss on held-out images, always the same with the same noise, and the best weights."""
    held_out = context.dataset().split()[1]
    random = generator(context.seed, Draw.HELD_OUT)
    batch = held_out.take(torch.arange(config.images) % len(held_out)).to(context.device)
    own = [parameter.clone() for parameter in net.parameters()]
    state.ema.copy_to(net.parameters())
    state.objective.eval()
    value = float(torch.stack(list(state.objective(batch, random).values())).sum())
    state.objective.train()
    state.probes.append((state.step, value))
    if state.stale == 0:
        state.best = [parameter.clone() for parameter in net.parameters()]
    _put(own, net)


@torch.no_grad()
def _put(weights: Iterable[torch.Tensor], net: nn.Module) -> None:
    for parameter, weight in zip(net.parameters(), weights, strict=True):
        parameter.copy_(weight)


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
