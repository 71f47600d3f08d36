"""Weights of linear layers on a grid of four bits: 15 levels, of one size in each block of 32 inputs."""

import copy
import dataclasses
from fnmatch import fnmatch

import torch
from torch import nn

from compress.model.denoiser import Denoiser
from compress.quantization.rounding import nearest

BLOCK = 32
LEVELS = 7  # on either side of zero
# How far a block's grid reaches, of its largest weight: less, which clips, or more, as on a grid it already lies on.
FACTORS = (*(1 - i / 20 for i in range(9)), *(LEVELS / level for level in range(1, LEVELS)))


def sizes(weight: torch.Tensor) -> torch.Tensor:
    """Size [out,in] of each weight's levels: that which leaves its block the least squared error, the ends clipped."""
    blocks = weight.unflatten(1, (-1, BLOCK))
    largest = blocks.abs().amax(-1, keepdim=True)
    best, least = largest, torch.full_like(largest, torch.inf)
    for factor in FACTORS:
        size = (factor * largest / LEVELS).clamp_min(torch.finfo(weight.dtype).tiny)
        error = (nearest(blocks, size, LEVELS) - blocks).square().sum(-1, keepdim=True)
        best, least = torch.where(error < least, size, best), torch.minimum(error, least)
    return best.expand_as(blocks).flatten(1)


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """`weight` [out,in] on the grid, each at the nearest level."""
    return nearest(weight, sizes(weight), LEVELS)


def layers(model: Denoiser, float_layers: tuple[str, ...]) -> tuple[str, ...]:
    """Paths of the layers whose weights go on the grid; none that matches a glob of `float_layers`."""
    return tuple(
        path
        for path, layer in model.net.named_modules()
        if isinstance(layer, nn.Linear)
        and layer.in_features % BLOCK == 0
        and any(fnmatch(path, pattern) for pattern in model.family.layers.large)
        and not any(fnmatch(path, pattern) for pattern in float_layers)
    )


@torch.no_grad()
def on_grid(model: Denoiser, paths: tuple[str, ...]) -> Denoiser:
    """A copy of the model with the weights of these layers rounded."""
    net = copy.deepcopy(model.net)
    for path in paths:
        layer = net.get_submodule(path)
        layer.weight.copy_(rounded(layer.weight))  # type: ignore[operator, arg-type]
    return dataclasses.replace(model, net=net)
