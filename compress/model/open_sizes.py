"""Which sizes of a net's inputs stay open when it becomes a graph."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.export import Dim
from torch.utils._pytree import tree_map

from compress.model.denoiser import Denoiser

LARGEST = 2**15  # of a side
SIDES = {2: "height", 3: "width"}


@dataclass(frozen=True)
class Sizes:
    """Sides of the samples that a file takes: multiples of a number; listed: these alone, beside the model's own."""

    multiple: int
    listed: tuple[tuple[int, ...], ...] | None

    def beside(self, sample_shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Sides at which a file is checked beside those of [c,h,w]: all that are listed, or lower and wider ones."""
        if self.listed is not None:
            return [*self.listed]
        lower, wider = sample_shape[1] // 2 // self.multiple or 1, sample_shape[2] // self.multiple + 1
        return [(lower * self.multiple, wider * self.multiple)]


def asked_sizes(model: Denoiser, asked: Literal["free"] | Sequence[tuple[int, int]], factor: int) -> Sizes:
    """What is asked for, [height, width] of pictures, in the sample's units. Raises ValueError where it cannot be.

    factor: by what a picture's sides are longer than a sample's.
    """
    if not model.family.any_size:
        raise ValueError(f"a {model.family.name} takes samples of its config's size alone; leave it out")
    multiple = model.family.multiple(model.config)
    if asked == "free":
        return Sizes(multiple, None)
    least = multiple * factor
    for sides in asked:
        if any(not least <= side <= LARGEST * factor or side % least for side in sides):
            raise ValueError(f"{list(sides)}: sides of its pictures are multiples of {least}, to {LARGEST * factor}")
    return Sizes(multiple, tuple(tuple(side // factor for side in sides) for sides in asked))


def resized(inputs: tuple[torch.Tensor, ...], sides: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Zeros in place of each image [b,c,h,w] among a net's inputs, of other sides."""
    return tuple(value.new_zeros(*value.shape[:2], *sides) if value.ndim == 4 else value for value in inputs)


def left_open(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], batch: int | None, multiple: int | None
) -> tuple[tuple[torch.Tensor, ...], Any]:
    """(examples, dynamic shapes) for torch.export of a module, from examples [b,…] at fixed sizes.

    batch: fixed, or None: left open. multiple: of what the sides of images [b,c,h,w] may be any, all alike; None: they
    are those of the example. Sides that are open differ in the example, or they would be taken for one.
    """
    if batch is not None and multiple is None:
        return inputs, None
    # torch.export rejects a bound of 64 on quantized graphs
    first: dict[int, Any] = {} if batch is not None else {0: Dim("batch", min=1, max=63)}
    sides: dict[int, Any] = {}
    if multiple is not None:
        sides = {axis: multiple * Dim(name, min=1, max=LARGEST // multiple) for axis, name in SIDES.items()}
        inputs = resized(inputs, (3 * multiple, 5 * multiple))
    named = inspect.signature(module.forward).bind(*inputs).arguments
    return inputs, tree_map(lambda value: first | sides if value.ndim == 4 else first, dict(named))
