"""The one training loop, shared by every pass that trains.

Randomness is a function of (seed, step, rank), and the state is saved every few seconds, so running
the same command again continues a killed run and ends with the same weights.
"""

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.training_utils import EMAModel
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from compress.contract import Context, PassConfig
from compress.data import Batch, Dataset
from compress.errors import PassError
from compress.files import write_atomically
from compress.model.denoiser import Denoiser, example_inputs
from compress.randomness import Draw, generator

CHECKPOINT_SECONDS = 20.0
_STATE = "training.safetensors"


class EarlyStop(PassConfig):
    """When to end before the last step."""

    every: int = Field(100, ge=1, description="steps from one held-out probe to the next")
    patience: int = Field(3, ge=1, description="probes without a new best after which training ends")
    images: int = Field(256, ge=1, description="held-out images of a probe")


class TrainingConfig(PassConfig):
    """Settings that every training pass has."""

    steps: int = Field(600, ge=1, description="optimizer steps")
    batch_size: int = Field(64, ge=1, description="images a step")
    accumulate: int = Field(1, ge=1, description="parts that a batch is computed in, for machines with little memory")
    learning_rate: float = Field(4e-4, gt=0, description="peak learning rate of AdamW; decays to 0 by a cosine")
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps over which the rate rises from 0")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the weight average, which is the result; 0: none")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="arithmetic of the forward pass")
    early_stop: EarlyStop | None = Field(
        None, description="end when the losses of held-out images get no better, with the best weights so far"
    )

    @model_validator(mode="after")
    def _parts(self) -> "TrainingConfig":
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: {self.accumulate} does not divide batch_size: {self.batch_size}")
        return self


class Objective(Protocol):
    """What is trained: a module that turns a batch into named, weighted losses; the sum is minimised.

    average: if there is one, a copy of the trained net whose weights are kept at the average of the steps so far.
    """

    average: nn.Module | None

    def __call__(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Losses (scalars). random: a CPU generator for noise, timesteps and dropped labels."""


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Rate at `step`: linear warm-up, then half a cosine to 0."""
    warmup = config.warmup * config.steps
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(config.steps - warmup, 1)))


@dataclasses.dataclass
class State:
    """What a killed run needs to go on. probes: (step, loss on held-out images); best: the weights of the least."""

    objective: nn.Module
    optimizer: Any
    ema: EMAModel
    step: int = 0
    probes: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    best: list[torch.Tensor] = dataclasses.field(default_factory=list)

    @property
    def stale(self) -> int:
        """Probes since the best one."""
        values = [value for _, value in self.probes]
        return len(values) - 1 - values.index(min(values)) if values else 0


def train(
    objective: nn.Module, net: nn.Module, config: TrainingConfig, context: Context, dataset: Dataset
) -> dict[str, Any]:
    """Train the parameters of `objective` that require gradients; leave the averaged weights in `net`.

    objective: an `Objective`; net: the part of it that is the result. Returns figures for the record.
    Raises PassError at a loss or gradient that is not finite, with the state before it saved.
    """
    say_slow(config, context)
    AcceleratorState._reset_state()  # Accelerate remembers the precision of the pass before
    precision = "no" if config.precision == "fp32" else config.precision
    accelerator = Accelerator(mixed_precision=precision, cpu=context.device.type == "cpu")
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    prepared, optimizer = accelerator.prepare(objective, optimizer)
    state = State(objective, optimizer, EMAModel(net.parameters(), decay=config.ema, foreach=True))
    _restore(context, state)
    start = state.step
    if start:
        context.log(f"{context.name}: continues at step {start} of {config.steps}")
    history: list[list[float]] = []
    saved = began = time.monotonic()
    objective.train()
    with context.progress(context.name, config.steps) as task:
        task.advance(start)
        for step in range(start, config.steps):
            state.step = step
            if config.early_stop and state.stale >= config.early_stop.patience:
                break
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                _save(context, state)
                saved = time.monotonic()
            if getattr(objective, "average", None) is not None:
                state.ema.copy_to(objective.average.parameters())  # type: ignore[union-attr]
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            optimizer.zero_grad()
            losses: dict[str, float] = {}
            for part in range(step * config.accumulate, (step + 1) * config.accumulate):
                key = (context.seed, Draw.STEP, part, accelerator.process_index)
                random = generator(*key)
                torch.manual_seed(random.initial_seed())  # for dropout inside the net
                size = config.batch_size // config.accumulate
                batch = dataset.batch(size, *key).to(context.device)
                with accelerator.autocast():
                    found = prepared(batch, random)
                accelerator.backward(torch.stack(list(found.values())).sum() / config.accumulate)
                for name, loss in found.items():
                    losses[name] = losses.get(name, 0.0) + float(loss.detach()) / config.accumulate
            norm = float(accelerator.clip_grad_norm_(trained, config.max_grad_norm))
            value = sum(losses.values())
            if not (math.isfinite(value) and math.isfinite(norm)):
                _save(context, state)
                raise PassError(
                    f"{context.name}: the loss became {value} (gradient norm {norm}) at step {step}; the "
                    f"last good state (step {step}) is {context.workdir / _STATE}; lower learning_rate, "
                    "or use precision: fp32"
                )
            optimizer.step()
            state.ema.step(net.parameters())
            if step % max(config.steps // 200, 1) == 0 or step == config.steps - 1:
                history.append([step, *(round(loss, 6) for loss in losses.values())])
            state.step = step + 1
            stop = config.early_stop
            if stop and (state.step % stop.every == 0 or state.step == config.steps):
                _probe(state, net, stop, context)
            task.advance(1, loss=value)
    ended = state.step
    if config.early_stop:
        _put(state.best, net)
    elif config.ema:
        state.ema.copy_to(net.parameters())
    objective.eval()
    return {
        "steps": ended,
        "resumed_at": start,
        "seconds_per_step": round((time.monotonic() - began) / max(ended - start, 1), 4),
        "history_columns": ["step", *(losses if ended > start else ())],
        "history": history,
        **({"probes": state.probes} if state.probes else {}),
    }


def say_slow(config: TrainingConfig, context: Context) -> None:
    """Log that bf16 is asked of a processor that computes it piece by piece."""
    if config.precision == "bf16" and context.device.type == "cpu" and not _has_bf16(_processor_flags()):
        context.log(
            f"{context.name}: precision: bf16 is tens of times slower than fp32 on this processor, which has no bf16 "
            "arithmetic; use precision: fp32"
        )


def _processor_flags() -> set[str]:
    """What Linux says the processor can do; empty where there is no Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[-1].split()}


def _has_bf16(flags: set[str]) -> bool:
    """Whether bf16 is multiplied in hardware: by AVX-512, AMX or Arm's extension. Unknown flags: it may be."""
    return not flags or bool(flags & {"avx512_bf16", "amx_bf16", "bf16", "svebf16"})


@torch.no_grad()
def _probe(state: State, net: nn.Module, config: EarlyStop, context: Context) -> None:
    """Note the averaged net's loss on held-out images, always the same with the same noise, and the best weights."""
    held_out = context.dataset().split()[1]
    random = generator(context.seed, Draw.HELD_OUT)
    batch = held_out.take(torch.arange(config.images) % len(held_out)).to(context.device)
    trained = [parameter.clone() for parameter in net.parameters()]
    state.ema.copy_to(net.parameters())
    state.objective.eval()
    value = float(torch.stack(list(state.objective(batch, random).values())).sum())
    state.objective.train()
    state.probes.append((state.step, value))
    if state.stale == 0:
        state.best = [parameter.clone() for parameter in net.parameters()]
    _put(trained, net)


@torch.no_grad()
def _put(weights: list[torch.Tensor], net: nn.Module) -> None:
    for parameter, weight in zip(net.parameters(), weights, strict=True):
        parameter.copy_(weight)


def _save(context: Context, state: State) -> None:
    tensors = {f"objective.{name}": tensor for name, tensor in _trained(state.objective).items()}
    tensors |= {f"ema.{i}": tensor for i, tensor in enumerate(state.ema.shadow_params)}
    tensors |= {f"best.{i}": tensor for i, tensor in enumerate(state.best)}
    for i, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{key}": value for key, value in moments.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"step": str(state.step), "probes": json.dumps(state.probes)}
    write_atomically(context.workdir / _STATE, lambda part: save_file(tensors, part, metadata), parents=False)


def _restore(context: Context, state: State) -> None:
    """Load the state of a killed run, if there is one."""
    file = context.workdir / _STATE
    if not file.is_file():
        return
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
            state.step = int(metadata["step"])
            state.probes = [(int(step), float(value)) for step, value in json.loads(metadata["probes"])]
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise PassError(f"{file}: is damaged ({error}); delete it, or start over with --fresh") from None
    with torch.no_grad():
        for name, tensor in _trained(state.objective).items():
            tensor.copy_(tensors[f"objective.{name}"])
    ema = state.ema
    ema.shadow_params = [tensors[f"ema.{i}"].to(p) for i, p in enumerate(ema.shadow_params)]
    if state.probes:
        state.best = [tensors[f"best.{i}"].to(p) for i, p in enumerate(ema.shadow_params)]
    ema.optimization_step = state.step
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, key = rest.partition(".")
            moments.setdefault(int(index), {})[key] = tensor
    optimizer = state.optimizer
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _trained(objective: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters that training changes, and buffers."""
    tensors: dict[str, torch.Tensor] = {n: p for n, p in objective.named_parameters() if p.requires_grad}
    return tensors | dict(objective.named_buffers())


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
