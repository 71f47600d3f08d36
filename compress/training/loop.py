"""The one training loop, shared by every pass that trains.

Randomness is a function of (seed, step, part of the batch), and the state is saved every few seconds, so running
the same command again continues a killed run and ends with the same weights, in as many processes or in others.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
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
from compress.training.parallel import Part, batches_from, parts, quiet, splits, spread, whole, wrapped
from compress.training.state import State, learning, put
from compress.training.watch import watching

CHECKPOINT_SECONDS = 20.0
CHECKPOINT_TAKES = 0.4  # seconds that writing the state may take; where it takes longer, it is written less often
STATE, LORA = "training.safetensors", "lora.safetensors"


class Objective(nn.Module):
    """What is trained: `forward` turns a batch into named, weighted losses, whose sum is minimised.

    student: trained, with what else of the objective requires gradients; it evaluates as `net`. teacher: is asked.
    leads: a copy of the student whose weights are kept at the average of the steps so far, if there is one.
    unused: whether some of what is trained has no part in some steps.
    """

    leads: Denoiser | None = None
    unused = False

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
    parts(config, context)
    with (
        spread(objective, net, config, context) as (trained, inner),
        computing(getattr(trained, "models", ()), config, context, splits(config, context), context.output / LORA),
    ):
        return _train(trained, inner, config, context, dataset)


def _train(
    objective: nn.Module, net: nn.Module, config: TrainingConfig, context: Context, dataset: Dataset
) -> dict[str, Any]:
    split = splits(config, context)
    prepared = wrapped(objective, config, context)
    state = _state(objective, net, config, context)
    start, ema = state.step, state.ema
    if start:
        context.log(f"{context.name}: continues at step {start} of {config.steps}")
    history: list[list[float]] = []
    losses: dict[str, float] = {}
    began = time.monotonic()
    due = began + CHECKPOINT_SECONDS
    stop = config.early_stop
    objective.train()
    batches = batches_from(start, config, context, dataset)
    shown = None if split else getattr(objective, "student", None)
    with context.progress(context.name, config.steps) as task, watching(shown, config.steps, context) as watch:
        task.advance(start)
        for step in range(start, config.steps):
            if stop and state.stale >= stop.patience:
                break
            late = float(time.monotonic() >= due)
            if context.processes.agreed(late, context.device) if split else late:
                due = _saved(state)
            average = getattr(objective, "average", None)
            if average is not None:
                ema.copy_to(average.parameters())
            try:
                losses, norm = _step(prepared, state, config, context, batches)
            except torch.OutOfMemoryError:
                if not split:  # the others are not here
                    state.save()
                models = getattr(objective, "models", ())
                raise PassError(
                    f"{context.name}: out of memory at step {step}; {config.lighter(bool(models))}"
                ) from None
            ema.step(learning(net))
            if step % max(config.steps // 200, 1) == 0 or step == config.steps - 1:
                history.append([step, *(round(loss, 6) for loss in losses.values())])
            state.step = step + 1
            if stop and (state.step % stop.every == 0 or state.step == config.steps):
                _probe(state, net, config, context)
            if watch:
                figures = {**losses, "gradient_norm": norm, "learning_rate": learning_rate(config, step)}
                watch.note(state.step, figures, state.averaged(net))
            task.advance(1, loss=sum(losses.values()))
    if stop:
        put(state.best, net)
    elif config.ema:
        ema.copy_to(learning(net))
    objective.eval()
    return {
        "steps": state.step,
        "resumed_at": start,
        "seconds_per_step": round((time.monotonic() - began) / max(state.step - start, 1), 4),
        "history_columns": ["step", *losses],
        "history": history,
        **({"probes": state.probes} if state.probes else {}),
    }


def _state(objective: nn.Module, net: nn.Module, config: TrainingConfig, context: Context) -> State:
    """What is trained, as it is at first, or as a killed run left it."""
    optimizer = optimizer_for(config, [weight for weight in objective.parameters() if weight.requires_grad])
    ema = EMAModel(learning(net), decay=config.ema, foreach=not splits(config, context))
    scaler, file = scaler_for(config, context.device), context.workdir / STATE
    state = State(objective, optimizer, scaler, ema, file, context.processes.main)
    context.processes.wait()  # for what the first may still be writing
    state.restore()
    return state


def _saved(state: State) -> float:
    """Save; when to do so again, so that a large state takes no more of the time than a small one."""
    began = time.monotonic()
    state.save()
    ended = time.monotonic()
    return ended + CHECKPOINT_SECONDS * max(1.0, (ended - began) / CHECKPOINT_TAKES)


def _step(
    prepared: nn.Module, state: State, config: TrainingConfig, context: Context, batches: Iterator[Part]
) -> tuple[dict[str, float], float]:
    """Take one step; its losses and the gradients' norm, for which alone the host waits while weights are updated.

    Where the gradients are not finite, the weights stay and the scale of the losses shrinks; below 1 it cannot.
    """
    optimizer, scaler, processes = state.optimizer, state.scaler, context.processes
    set_rate(optimizer, learning_rate(config, state.step))
    count = parts(config, context)
    mine = count // processes.count
    names, found = [], torch.zeros((), device=context.device)
    for part in range(mine):
        random, batch = next(batches)
        torch.manual_seed(random.initial_seed())  # for dropout inside the net
        with quiet(prepared, last=part == mine - 1):
            with autocast(config, context.device):
                losses = prepared(batch.to(context.device), random)
            names, values = list(losses), torch.stack(list(losses.values()))
            scaler.scale(values.sum() / mine).backward()
        found = found + values.detach() / count
    processes.sum(found)
    split = splits(config, context)
    norm = _clip(state, config, split)
    arriving = Arriving(torch.cat([found, norm.reshape(1)]))
    if not split:
        scaler.step(optimizer)
        scaler.update()
    elif math.isfinite(arriving.read()[-1]):  # a scaler looks at a process's own share of the gradients alone
        optimizer.step()
    optimizer.zero_grad()
    *numbers, size = arriving.read()
    losses = dict(zip(names, numbers, strict=True))
    if not (math.isfinite(sum(numbers)) and math.isfinite(size)) and scaler.get_scale() <= 1:
        state.save()
        raise PassError(
            f"{context.name}: the loss became {sum(losses.values())} (gradient norm {size}) at step {state.step}; the "
            f"last good state (step {state.step}) is {state.file}; lower learning_rate, or use precision: fp32"
        )
    return losses, size


def _clip(state: State, config: TrainingConfig, split: bool) -> torch.Tensor:
    """Clip the gradients; what their norm was."""
    if not split:
        state.scaler.unscale_(state.optimizer)
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    return whole(nn.utils.clip_grad_norm_(parameters, config.max_grad_norm))


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
    with state.averaged(net):
        with autocast(config, context.device):
            value = float(torch.stack(list(state.objective(batch, random).values())).sum())
        state.probes.append((state.step, context.processes.agreed(value, context.device)))
        if state.stale == 0:
            state.best = [parameter.clone() for parameter in learning(net)]
