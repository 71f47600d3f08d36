"""What turns gradients into steps: AdamW, its averages in float32 or in 8 bits, and the scale of the losses."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from compress.contract import MOST
from compress.training.config import TrainingConfig
from compress.training.parallel import like


def optimizer_for(config: TrainingConfig, trained: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW of these parameters; of 8 bits: Dettmers et al. 2022, arXiv:2110.02861, as torchao has it."""
    settings: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(trained, fused=True, **settings)
    from torchao.optim import AdamW8bit  # takes seconds to import

    found: torch.optim.Optimizer = AdamW8bit(trained, **settings)
    return found


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate; a compiled step reads it from a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def scaler_for(config: TrainingConfig, device: torch.device) -> torch.amp.GradScaler:
    """Leaves out, on the device itself, a step whose gradients are not finite.

    In fp16 it scales the losses too, by less and less until none is left out. Micikevicius et al. 2018, section 3.2.
    """
    if config.precision == "fp16":
        return torch.amp.GradScaler(device.type)
    return torch.amp.GradScaler(device.type, init_scale=1.0, growth_interval=MOST)


def averages(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What an optimizer remembers: `i.name`, or `i.name.part` of one in 8 bits, for parameter i."""
    state: Mapping[int, Mapping[str, torch.Tensor]] = optimizer.state_dict()["state"]
    return {
        f"{i}.{name}{part}": tensor
        for i, remembered in state.items()
        for name, value in remembered.items()
        for part, tensor in _parts(value)
    }


def _parts(value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if is_traceable_wrapper_subclass(value) and not isinstance(value, DTensor):
        yield from ((f".{part}", getattr(value, part)) for part in value.__tensor_flatten__()[0])
    else:
        yield "", value


def put_averages(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Make an optimizer remember what `averages` gave."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for path, tensor in tensors.items():
        i, name, *part = path.split(".")
        remembered = state.setdefault(int(i), {})
        if part:
            remembered.setdefault(name, {})[part[0]] = tensor
        elif tensor.shape == parameters[int(i)].shape:
            weight = parameters[int(i)]
            remembered[name] = torch.empty_like(weight).copy_(like(tensor, weight))  # laid out as the weight is
        else:
            remembered[name] = tensor
    for remembered in state.values():
        for name, value in remembered.items():
            if isinstance(value, dict):
                from torchao.optim.subclass_8bit import OptimState8bit

                remembered[name] = OptimState8bit(**value, signed=bool((value["qmap"] < 0).any()))
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
