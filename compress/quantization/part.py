"""What is around a denoiser in bytes or in half precision: a module, quantized in one go."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from compress.families.family import Layers, Lean
from compress.model.open_sizes import left_open
from compress.quantization import half
from compress.quantization.quantized import put, ranges
from compress.quantization.quantizer import BytesQuantizer
from compress.runtime.schemes import SCHEMES

BATCH = 20  # items at once, of at most 63
_LAYERS = Layers(ends=(), tables=("*",))


@torch.no_grad()
def quantized_part(
    module: nn.Module,
    points: tuple[torch.Tensor, ...],
    scheme: str,
    multiple: int | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> nn.Module:
    """f(*points, each [b,…]) in the arithmetic of a scheme of bytes; tables of embeddings are rounded too.

    points: each [n,…], two at least, by which ranges of activations are set, for least squared error. multiple: of what
    the sides of images may be any; None: they are those of the points. advance: told how many of them are done.
    """
    row = SCHEMES[scheme]
    inputs, shapes = left_open(module, tuple(one[:2] for one in points), None, multiple)
    program = torch.export.export(module, inputs, dynamic_shapes=shapes)

    def prepared(histogram: bool) -> torch.fx.GraphModule:
        return prepare_pt2e(program.module(), BytesQuantizer(row, _LAYERS, Lean(), (), histogram))

    observed = prepared(row.activation_bits is not None)
    for part in zip(*(one.split(BATCH) for one in points), strict=True):
        observed(*part)
        advance(len(part[0]))
    settled = prepared(False)
    put(settled, ranges(observed))
    converted: nn.Module = convert_pt2e(settled)
    return converted


def half_part(
    module: nn.Module, points: tuple[torch.Tensor, ...], multiple: int | None = None
) -> tuple[nn.Module, list[str]]:
    """(f(*points, each [b,…]) in float16, the layers that stay float as they meet values beyond it at the points)."""
    inputs, shapes = left_open(module, tuple(one[:2] for one in points), None, multiple)
    graph: Any = torch.export.export(module, inputs, dynamic_shapes=shapes).module()
    found = [*half.beyond(graph, points)]
    return half.halved(graph, tuple(found)), found
