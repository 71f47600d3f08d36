"""Size and arithmetic of a model."""

import dataclasses

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compress.families.replacements import LowRank, channel_axis
from compress.model.copies import shadow
from compress.model.denoiser import Denoiser, example_inputs
from compress.model.paths import watched

_COUNTED: dict[str, int] = {}  # macs, by structure


def parameters(model: Denoiser) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.net.parameters())


def weight_bytes(model: Denoiser) -> int:
    """Bytes of the weights as they are held."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.net.parameters())


def macs(model: Denoiser) -> int:
    """Multiply-accumulates of one evaluation at batch 1: convolutions, matrix products, attention.

    Nets of one structure are counted once: every pass asks for the same few.
    """
    inputs = [tensor.to("meta") for tensor in example_inputs(model, batch=1)]
    shapes = [tensor.shape for tensor in (*inputs, *model.net.parameters())]
    key = repr((model.net, sorted(model.config.items()), shapes))
    if key not in _COUNTED:
        empty = model.family.positional(shadow(model.net))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            empty(*inputs)
        _COUNTED[key] = int(counter.get_total_flops()) // 2
    return _COUNTED[key]


def compared(before: Denoiser, after: Denoiser) -> dict[str, dict[str, float]]:
    """MACs and parameters of two models and their ratios, for the record of a pass."""
    first, second = ({"macs": macs(model), "params": parameters(model)} for model in (before, after))
    ratios = {key: round(second[key] / first[key], 4) for key in first}
    return {"before": dict(first), "after": dict(second), "ratios": ratios}


def places(model: Denoiser) -> dict[str, int]:
    """How often each convolution and linear layer is applied in one evaluation at batch 1: positions or tokens.

    Layers of low rank count as one; layers that are never called are left out.
    """
    empty = dataclasses.replace(model, net=shadow(model.net))
    kinds = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, LowRank)
    layers = [path for path, module in empty.net.named_modules() if isinstance(module, kinds)]
    found: dict[str, int] = {}

    def count(path: str, layer: nn.Module, _inputs: object, _named: object, output: torch.Tensor) -> None:
        found[path] = found.get(path, 0) + output.numel() // output.shape[channel_axis(layer)]

    with torch.no_grad(), watched(empty.net, layers, count):
        empty.module(*(tensor.to("meta") for tensor in example_inputs(empty, batch=1)))
    return found
