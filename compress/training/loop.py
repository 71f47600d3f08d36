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
from diffusers.training_utils import EMAModel
from torch import nn

from compress.contract import Context, PassResult
from compress.data import Batch, Dataset
from compress.devices import Arriving
from compress.errors import PassError
from compress.model.denoiser import Denoiser
from compress.randomness import Draw, generator
from compress.training.computing import autocast, computing
from compress.training.config import TrainingConfig, learning_rate, say_slow
from compress.training.optimizer import optimizer_for, scaler_for, set_rate
from compress.training.state import State

CHECKPOINT_SECONDS = 20.0
CHECKPOINT_TAKES = 0.4  # seconds that writing the state may take; where it takes longer, it is written less often
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
    def models(self) -> tuple[Denoiser, ...]:
        """All that it evaluates, each once."""
        found = [model for model in (self.student, self.teacher, self.leads) if model is not None]
        return tuple({id(model.net): model for model in found}.values())

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
    Raises PassError at a loss or gradient that stays not finite, or without memory, with the state before it saved.
    """
    say_slow(config, context)
    with computing(getattr(objective, "models", ()), config, context):
        return _train(objective, net, config, context, dataset)


def _train(
    objective: nn.Module, net: nn.Module, config: TrainingConfig, context: Context, dataset: Dataset
) -> dict[str, Any]:
    accelerator = Accelerator(mixed_precision="no", cpu=context.device.type == "cpu")
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = optimizer_for(config, trained)
    prepared = accelerator.prepare(objective)
    ema = EMAModel(net.parameters(), decay=config.ema, foreach=True)
    state = State(objective, optimizer, scaler_for(config, context.device), ema, context.workdir / STATE)
    state.restore()
    start = state.step
    if start:
        context.log(f"{context.name}: continues at step {start} of {config.steps}")
    history: list[list[float]] = []
    losses: dict[str, float] = {}
    began = time.monotonic()
    due = began + CHECKPOINT_SECONDS
    stop = config.early_stop
    objective.train()
    with context.progress(context.name, config.steps) as task:
        task.advance(start)
        for step in range(start, config.steps):
            if stop and state.stale >= stop.patience:
                break
            if time.monotonic() >= due:
                due = _saved(state)
            average = getattr(objective, "average", None)
            if average is not None:
                ema.copy_to(average.parameters())
            try:
                losses = _step(prepared, state, accelerator, config, context, dataset)
            except torch.OutOfMemoryError:
                state.save()
                models = getattr(objective, "models", ())
                raise PassError(
                    f"{context.name}: out of memory at step {step}; {config.lighter(bool(models))}"
                ) from None
            ema.step(net.parameters())
            if step % max(config.steps // 200, 1) == 0 or step == config.steps - 1:
                history.append([step, *(round(loss, 6) for loss in losses.values())])
            state.step = step + 1
            if stop and (state.step % stop.every == 0 or state.step == config.steps):
                _probe(state, net, config, context)
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


def _saved(state: State) -> float:
    """Save; when to do so again, so that a large state takes no more of the time than a small one."""
    began = time.monotonic()
    state.save()
    ended = time.monotonic()
    return ended + CHECKPOINT_SECONDS * max(1.0, (ended - began) / CHECKPOINT_TAKES)


def _step(
    prepared: nn.Module,
    state: State,
    accelerator: Accelerator,
    config: TrainingConfig,
    context: Context,
    dataset: Dataset,
) -> dict[str, float]:
    """Take one step; its losses. The host waits for the device once, for them, while the weights are updated.

    Where the gradients are not finite, the weights stay and the scale of the losses shrinks; below 1 it cannot.
    """
    optimizer, scaler = state.optimizer, state.scaler
    set_rate(optimizer, learning_rate(config, state.step))
    found: list[Mapping[str, torch.Tensor]] = []
    for part in range(state.step * config.accumulate, (state.step + 1) * config.accumulate):
        key = (context.seed, Draw.STEP, part, accelerator.process_index)
        random = generator(*key)
        torch.manual_seed(random.initial_seed())  # for dropout inside the net
        batch = dataset.batch(config.batch_size // config.accumulate, *key).to(context.device)
        with autocast(config, context.device):
            found.append(prepared(batch, random))
        total = torch.stack(list(found[-1].values())).sum() / config.accumulate
        accelerator.backward(scaler.scale(total))
    scaler.unscale_(optimizer)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
    arriving = Arriving(torch.stack([*(loss.detach() for losses in found for loss in losses.values()), norm]))
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    *values, size = arriving.read()
    losses = dict.fromkeys(found[0], 0.0)
    for name, value in zip(list(losses) * config.accumulate, values, strict=True):
        losses[name] += value / config.accumulate
    if not (math.isfinite(sum(values)) and math.isfinite(size)) and scaler.get_scale() <= 1:
        state.save()
        raise PassError(
            f"{context.name}: the loss became {sum(losses.values())} (gradient norm {size}) at step {state.step}; the "
            f"last good state (step {state.step}) is {state.file}; lower learning_rate, or use precision: fp32"
        )
    return losses


def trained(objective: Objective, config: TrainingConfig, context: Context, **notes: Any) -> PassResult[Denoiser]:
    """Train on the recipe's data; the averaged student. notes: for the record, beside those of training."""
    found = train(objective, objective.student.net, config, context, context.training_data())
    objective.student.net.requires_grad_(False).eval()
    return PassResult(objective.student, changed=True, notes=found | notes)


@torch.no_grad()
def _probe(state: State, net: nn.Module, config: TrainingConfig, context: Context) -> None:
    """Note the averaged net's loss on held-out images, always the same with the same noise, and the best weights."""
    assert config.early_stop is not None
    held_out = context.dataset().split()[1]
    random = generator(context.seed, Draw.HELD_OUT)
    batch = held_out.take(torch.arange(config.early_stop.images) % len(held_out)).to(context.device)
    own = [parameter.clone() for parameter in net.parameters()]
    state.ema.copy_to(net.parameters())
    state.objective.eval()
    with autocast(config, context.device):
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
