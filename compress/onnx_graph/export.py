"""From a PyTorch module to a lean ONNX graph."""

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset20
from torch import nn

from compress.errors import ExportError
from compress.model.open_sizes import left_open
from compress.onnx_graph.byte_products import check_products, drop_idle_clips, layer
from compress.onnx_graph.clean import clean
from compress.onnx_graph.dequantize_late import dequantize_late, gather_bytes
from compress.onnx_graph.four_bits import pack_four_bits
from compress.onnx_graph.merge_linears import merge_linears
from compress.onnx_graph.precompute import fold_rows
from compress.onnx_graph.simplify import merge_affine, simplify
from compress.onnx_graph.whole_biases import whole_biases

REWRITES: tuple[Callable[[ir.Model], int], ...] = (
    merge_linears,
    merge_affine,
    dequantize_late,
    gather_bytes,
    whole_biases,
    drop_idle_clips,
    pack_four_bits,
)


def to_onnx(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    names: list[str],
    batch: int | None,
    opset: int,
    timesteps: Sequence[int] = (),
    multiple: int | None = None,
) -> ir.Model:
    """The lean graph of `module`, inputs called `names`, output `out_sample`.

    inputs: examples [b,...]. batch: a fixed batch size, equal to that of the examples; None: any. timesteps: the only
    ones that it will be asked for; none: any. multiple: of what the sides of a sample may be any; None: they are those
    of the example. Raises ExportError.
    """
    return lean(as_exported(module, inputs, names, batch, opset, multiple), timesteps=timesteps)


def as_exported(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    names: list[str],
    batch: int | None,
    opset: int,
    multiple: int | None = None,
) -> ir.Model:
    """The graph as PyTorch's exporter writes it, simplified; arguments as for `to_onnx`. Raises ExportError."""
    inputs, shapes = left_open(module, inputs, batch, multiple)
    # None until torchao is loaded, and then there is no graph that holds it
    rounding = getattr(torch.ops.quantized_decomposed, "quantize_per_tensor", None)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"), torch.no_grad():
            program = torch.onnx.export(
                module,
                inputs,
                input_names=names,
                output_names=["out_sample"],
                dynamic_shapes=shapes,
                opset_version=opset,
                dynamo=True,
                custom_translation_table={rounding.default: _quantize} if rounding else None,
                verbose=False,
                optimize=False,
            )
    except Exception as error:  # the exporter raises many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"the ONNX exporter failed: {reason}; run with -v for details") from error
    assert program is not None
    simplify(program.model)
    return program.model


def _quantize(values: Any, scale: float, zero_point: int, quant_min: int, quant_max: int, dtype: int) -> ir.Value:
    """Rounding to bytes as PyTorch simulates it: not beyond quant_min … quant_max, where its own exporter would go."""
    numpy_type = ir.DataType(dtype).numpy()
    zero = opset20.Constant(value=ir.tensor(np.array(zero_point, numpy_type)))
    rounded = opset20.QuantizeLinear(values, opset20.Constant(value_float=scale), zero)
    whole = np.iinfo(numpy_type)
    if (quant_min, quant_max) == (whole.min, whole.max):
        return rounded
    ends = (opset20.Constant(value=ir.tensor(np.array(end, numpy_type))) for end in (quant_min, quant_max))
    return opset20.Clip(rounded, *ends)


def lean(
    model: ir.Model, left_out: Callable[..., int] | None = None, timesteps: Sequence[int] = (), named: bool = False
) -> ir.Model:
    """The same computation in fewer kernels and bytes. Changes `model`.

    left_out: a rewrite to do without. timesteps: if given, the only ones at which the graph computes. named: nodes are
    called as their layers are in the net, with a number behind a slash, which takes bytes. Raises ExportError for
    products of bytes that some processors would get wrong.
    """
    for rewrite in REWRITES:
        if rewrite is not left_out:
            rewrite(model)
    check_products(model)
    if named:
        for number, node in enumerate(model.graph):
            node.name = f"{layer(node)}/{number}"  # onnxruntime wants no name twice
    clean(model, shorten=not named)
    return fold_rows(model, "timestep", timesteps, if_smaller=True) if timesteps else model
