"""The one training loop, shared by every pass that trains.

Randomness is a function of (seed, step, rank), and the state is saved every few seconds, so running
the same command again continues a killed run and ends with the same weights.
"""

import math
import time
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.training_utils import EMAModel
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from compress.contract import Context, PassConfig
from compress.data import Batch, Dataset, generator
from compress.errors import PassError
from compress.files import write_atomically
from compress.models.denoiser import Denoiser, example_inputs

CHECKPOINT_SECONDS = 20.0
_STATE = "training.safetensors"


class TrainingConfig(PassConfig):
    """Settings that every training pass has."""

    steps: int = Field(600, ge=1, description="optimizer steps")
    batch_size: int = Field(64, ge=1, description="images a step")
    learning_rate: float = Field(4e-4, gt=0, description="peak learning rate of AdamW; decays to 0 by a cosine")
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps over which the rate rises from 0")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the weight average, which is the result; 0: none")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="arithmetic of the forward pass")


class Objective(Protocol):
    """What is trained: a module that turns a batch into named, weighted losses; the sum is minimised."""

    def __call__(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Losses (scalars). random: a CPU generator for noise, timesteps and dropped labels."""


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Rate at `step`: linear warm-up, then half a cosine to 0."""
    warmup = config.warmup * config.steps
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(config.steps - warmup, 1)))


def train(
    objective: nn.Module, net: nn.Module, config: TrainingConfig, context: Context, dataset: Dataset
) -> dict[str, Any]:
    """Train the parameters of `objective` that require gradients; leave the averaged weights in `net`.

    objective: an `Objective`; net: the part of it that is the result. Returns figures for the record.
    Raises PassError at a loss or gradient that is not finite, with the state before it saved.
    """
    AcceleratorState._reset_state()  # Accelerate remembers the precision of the pass before
    precision = "no" if config.precision == "fp32" else config.precision
    accelerator = Accelerator(mixed_precision=precision, cpu=context.device.type == "cpu")
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    prepared, optimizer = accelerator.prepare(objective, optimizer)
    ema = EMAModel(net.parameters(), decay=config.ema)
    start = _restore(context, objective, optimizer, ema)
    if start:
        context.log(f"{context.name}: continues at step {start} of {config.steps}")
    history: list[list[float]] = []
    saved = began = time.monotonic()
    objective.train()
    with context.progress(context.name, config.steps) as task:
        task.advance(start)
        for step in range(start, config.steps):
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                _save(context, step, objective, optimizer, ema)
                saved = time.monotonic()
            random = generator(context.seed, step, accelerator.process_index)
            torch.manual_seed(random.initial_seed())  # for dropout inside the net
            batch = dataset.batch(config.batch_size, random.initial_seed(), step).to(context.device)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            with accelerator.autocast():
                losses = prepared(batch, random)
            total = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            accelerator.backward(total)
            norm = float(accelerator.clip_grad_norm_(trained, config.max_grad_norm))
            value = float(total.detach())
            if not (math.isfinite(value) and math.isfinite(norm)):
                _save(context, step, objective, optimizer, ema)
                raise PassError(
                    f"{context.name}: the loss became {value} (gradient norm {norm}) at step {step}; the "
                    f"last good state (step {step}) is {context.workdir / _STATE}; lower learning_rate, "
                    "or use precision: fp32"
                )
            optimizer.step()
            ema.step(net.parameters())
            if step % max(config.steps // 200, 1) == 0 or step == config.steps - 1:
                history.append([step, *(round(float(loss.detach()), 6) for loss in losses.values())])
            task.advance(1, loss=value)
    if config.ema:
        ema.copy_to(net.parameters())
    objective.eval()
    return {
        "steps": config.steps,
        "resumed_at": start,
        "seconds_per_step": round((time.monotonic() - began) / max(config.steps - start, 1), 4),
        "history_columns": ["step", *losses],
        "history": history,
    }


def _save(context: Context, step: int, objective: nn.Module, optimizer: Any, ema: EMAModel) -> None:
    tensors = {f"objective.{name}": tensor for name, tensor in _trained(objective).items()}
    tensors |= {f"ema.{i}": tensor for i, tensor in enumerate(ema.shadow_params)}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{key}": value for key, value in state.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"step": str(step)}
    write_atomically(context.workdir / _STATE, lambda part: save_file(tensors, part, metadata))


def _restore(context: Context, objective: nn.Module, optimizer: Any, ema: EMAModel) -> int:
    """Load the state of a killed run, if there is one, and return the step to continue at."""
    file = context.workdir / _STATE
    if not file.is_file():
        return 0
    try:
        with safe_open(file, framework="pt") as opened:
            step = int(opened.metadata()["step"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise PassError(f"{file}: is damaged ({error}); delete it, or start over with --fresh") from None
    with torch.no_grad():
        for name, tensor in _trained(objective).items():
            tensor.copy_(tensors[f"objective.{name}"])
    ema.shadow_params = [tensors[f"ema.{i}"].to(p) for i, p in enumerate(ema.shadow_params)]
    ema.optimization_step = step
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, key = rest.partition(".")
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def _trained(objective: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters that training changes, and buffers."""
    tensors: dict[str, torch.Tensor] = {n: p for n, p in objective.named_parameters() if p.requires_grad}
    return tensors | dict(objective.named_buffers())


def forecast(objective: nn.Module, model: Denoiser, config: TrainingConfig, seed: int) -> tuple[float, int]:
    """(seconds, bytes of memory beyond the models) that training would take, from measured steps.

    Memory: what autograd keeps for the backward pass, gradients, and three averages a parameter.
    """
    sample, _, *conditions = example_inputs(model, config.batch_size)
    batch = Batch(sample, dict(zip(model.conditions, conditions, strict=True)))
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    times = []
    for step in range(3):
        began = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            total = torch.stack(list(objective(batch, generator(seed, step)).values())).sum()
        total.backward()
        times.append(time.perf_counter() - began)
    objective.zero_grad()
    trained = sum(p.numel() * p.element_size() for p in objective.parameters() if p.requires_grad)
    return min(times) * config.steps, sum(kept.values()) + 4 * trained
