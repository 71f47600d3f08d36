"""Which sizes of a net's inputs stay open when it becomes a graph."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch.export import Dim

from compress.model.denoiser import Denoiser

LARGEST = 2**15  # of a side
SIDES = {2: "height", 3: "width"}


def left_open(
    inputs: tuple[torch.Tensor, ...], batch: int | None, multiple: int | None
) -> tuple[tuple[torch.Tensor, ...], Any]:
    """(examples, dynamic shapes) for torch.export, from examples (sample [b,c,h,w], others [b,...]) at fixed sizes.

    batch: fixed, or None: left open. multiple: of what the sides of a sample may be any; None: they are those of the
    example. Sides that are open differ in the example, or they would be taken for one.
    """
    if batch is not None and multiple is None:
        return inputs, None
    shapes: list[dict[int, Any]] = [{} for _ in inputs]
    if batch is None:
        size = Dim("batch", min=1, max=63)  # torch.export rejects a bound of 64 on quantized graphs
        shapes = [{0: size} for _ in inputs]
    if multiple is not None:
        sample, *others = inputs
        shapes[0] |= {axis: multiple * Dim(name, min=1, max=LARGEST // multiple) for axis, name in SIDES.items()}
        inputs = (sample.new_zeros(*sample.shape[:2], 3 * multiple, 5 * multiple), *others)
    return inputs, tuple(shapes)


def other_sizes(model: Denoiser, asked: Literal["free"] | Sequence[tuple[int, int]] | None) -> list[tuple[int, int]]:
    """Sizes [height, width] at which a file is checked beside the config's: those that are asked for.

    Of any size: one that is lower and wider.
    """
    if asked != "free":
        return [*(asked or ())]
    multiple, (height, width) = model.family.multiple(model.config), model.sample_shape[1:]
    return [(max(multiple, height // 2 // multiple * multiple), (width // multiple + 1) * multiple)]
