"""Copies of a net that hardly take memory: modules of their own around the same weights, or around none at all."""

import copy
from collections.abc import Callable

import torch
from torch import nn


def sharing(net: nn.Module) -> nn.Module:
    """Modules of its own around the same weights, without their gradients.

    Whoever changes the copy puts other tensors in place of these, and never writes into them.
    """
    return _around(net, lambda tensor: tensor)


def shadow(net: nn.Module) -> nn.Module:
    """The same on the meta device, where a net has shapes and can be run for those of its outputs, but no values."""
    return _around(net, lambda tensor: tensor.to("meta"))


def _around(net: nn.Module, made: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    instead: dict[int, torch.Tensor] = {}
    for tensor in (*net.parameters(), *net.buffers()):
        other = made(tensor.detach())
        instead[id(tensor)] = nn.Parameter(other, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else other
    return copy.deepcopy(net, instead)  # what it finds here it takes for copied
