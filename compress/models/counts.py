"""Size and arithmetic of a model."""

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from compress.models.denoiser import Denoiser, example_inputs


def parameters(model: Denoiser) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.net.parameters())


def weight_bytes(model: Denoiser) -> int:
    """Bytes of the weights as they are held."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.net.parameters())


def macs(model: Denoiser) -> int:
    """Multiply-accumulates of one evaluation at batch 1: convolutions, matrix products, attention."""
    shadow = model.family.positional(copy.deepcopy(model.net).to("meta"))
    inputs = [tensor.to("meta") for tensor in example_inputs(model, batch=1)]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(*inputs)
    return int(counter.get_total_flops()) // 2
