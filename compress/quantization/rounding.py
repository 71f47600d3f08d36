"""Rounding that is learned: each weight up or down so that what its layer computes changes least."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from compress.model.denoiser import Denoiser

PLACES = 64  # of a map, at which a convolution is read
DAMPING = 0.01  # added to the diagonal, as a share of its mean
MOMENTS_BYTES = 2**30  # held at a time
COLUMNS = 128  # rounded before what they leave over reaches the columns behind them


@torch.no_grad()
def on_grids(
    model: Denoiser,
    grids: Mapping[str, tuple[torch.Tensor, int]],
    evaluate: Callable[[], object],
    random: torch.Generator,
    on_layer: Callable[[], object],
) -> Denoiser:
    """A copy of the model with its layers' weights rounded by `gptq`, for what they are fed while `model` is evaluated.

    grids: by path, size of the levels and how many there are on either side of zero.
    """
    result = dataclasses.replace(model, net=copy.deepcopy(model.net))
    before, after = layers(model), layers(result)
    for paths in _groups({path: after[path].weight[0].numel() for path in grids}):
        with reading({path: before[path] for path in paths}, random) as moments:
            evaluate()
        for path in paths:
            if path in moments:  # else nothing reads it
                weight = after[path].weight
                weight.copy_(gptq(weight.flatten(1), moments[path], *grids[path]).view_as(weight))
            on_layer()
    return result


def _groups(inputs: Mapping[str, int]) -> list[list[str]]:
    """Layers, by how many inputs each takes, in groups whose moments fit into MOMENTS_BYTES, or of one."""
    groups: list[list[str]] = []
    held = 0
    for path, count in inputs.items():
        held += 4 * count**2
        if not groups or held > MOMENTS_BYTES:
            groups.append([])
            held = 4 * count**2
        groups[-1].append(path)
    return groups


def gptq(weight: torch.Tensor, moment: torch.Tensor, size: torch.Tensor, largest: int) -> torch.Tensor:
    """`weight` [out,in] on a grid: whole multiples of `size` [out,1 or in], at most `largest` of them either way.

    Weights are rounded one input after the other, and what each leaves over is made up for by those that follow, so
    that tr(E M E^T) for the error E and the inputs' `moment` M = E[x x^T] [in,in] is small: GPTQ, Frantar et al. 2022,
    algorithm 1, inputs of large moments first. An output whose error is not smaller so keeps its nearest rounding.
    """
    order = moment.diagonal().argsort(descending=True)
    size = size.expand_as(weight).clamp_min(torch.finfo(weight.dtype).tiny)  # of a channel of zeros
    inverse = _inverse_factor(moment[order][:, order]).to(weight)
    left, steps = weight[:, order].clone(), size[:, order]
    found = torch.empty_like(left)
    for start in range(0, left.shape[1], COLUMNS):
        end = min(start + COLUMNS, left.shape[1])
        errors = torch.empty_like(left[:, start:end])
        for i in range(start, end):
            found[:, i] = nearest(left[:, i], steps[:, i], largest)
            errors[:, i - start] = (left[:, i] - found[:, i]) / inverse[i, i]
            left[:, i + 1 : end] -= torch.outer(errors[:, i - start], inverse[i, i + 1 : end])
        left[:, end:] -= errors @ inverse[start:end, end:]
    learned, plain = found[:, order.argsort()], nearest(weight, size, largest)
    better = _error(learned - weight, moment) < _error(plain - weight, moment)
    return torch.where(better[:, None], learned, plain)


def nearest(weight: torch.Tensor, size: torch.Tensor, largest: int) -> torch.Tensor:
    """Each weight at its nearest level: whole multiples of `size`, at most `largest` of them either way."""
    return (weight / size).round().clamp(-largest, largest) * size


def _error(difference: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """Mean square error [out] of a layer's outputs."""
    return ((difference @ moment.to(difference)) * difference).sum(1)


def _inverse_factor(moment: torch.Tensor) -> torch.Tensor:
    """The upper triangular U with U^T U = M^-1, of a damped M."""
    damped = moment.double()
    diagonal = damped.diagonal()
    diagonal.add_(DAMPING * diagonal.mean().clamp_min(torch.finfo(torch.float32).tiny))
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)


def layers(model: Denoiser) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers whose weights a quantizer reads as they are, by path: not those that lean attention folds."""
    left_out = model.family.lean.folded(model.net)
    found = {path: layer for path, layer in model.net.named_modules() if path not in left_out}
    return {
        path: layer
        for path, layer in found.items()
        if isinstance(layer, nn.Linear)
        or (isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.dilation == (1, 1))
    }


@contextmanager
def reading(found: Mapping[str, nn.Module], random: torch.Generator) -> Iterator[dict[str, torch.Tensor]]:
    """While open, the moments E[x x^T] [in,in] of what these layers are fed add up, unscaled, by path.

    x: an input of a linear layer; the window [in × height × width] of a convolution, at places drawn from `random`.
    """
    moments: dict[str, torch.Tensor] = {}

    def read(path: str, layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        rows = _rows(layer, inputs[0].detach(), random)
        moments[path] = moments.get(path, 0) + rows.T @ rows

    handles = [layer.register_forward_pre_hook(partial(read, path)) for path, layer in found.items()]
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()


def _rows(layer: Any, x: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Inputs [rows, in] as a layer's weight [out, in] takes them."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    vertical, horizontal = layer.padding
    x = functional.pad(x, (horizontal, horizontal, vertical, vertical))
    (height, width), (down, right) = layer.kernel_size, layer.stride
    windows = x.unfold(2, height, down).unfold(3, width, right)  # a view [b,c,rows,columns,height,width]
    rows, columns = windows.shape[2:4]
    place = torch.randperm(rows * columns, generator=random)[:PLACES].to(x.device)
    chosen = windows[:, :, place // columns, place % columns]  # [b,c,places,height,width]
    return chosen.transpose(1, 2).flatten(2).flatten(0, 1)
