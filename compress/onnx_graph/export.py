"""From a PyTorch module to a lean ONNX graph."""

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence

import onnx
import onnx_ir as ir
import torch
from torch import nn
from torch.export import Dim

from compress.errors import ExportError
from compress.onnx_graph.affine import merge_affine
from compress.onnx_graph.clean import clean
from compress.onnx_graph.four_bits import pack_four_bits
from compress.onnx_graph.known import fold_constants, fold_rows
from compress.onnx_graph.merge import merge_linears
from compress.onnx_graph.moves import dequantize_late
from compress.onnx_graph.ones import drop_ones
from compress.onnx_graph.pads import merge_pads
from compress.onnx_graph.shapes import fold_shapes
from compress.onnx_graph.signs import sign_second

# In this order: shapes first, so that the next ones know the ranks.
REWRITES: tuple[Callable[[ir.Model], int], ...] = (
    fold_shapes,
    drop_ones,
    merge_linears,
    merge_affine,
    merge_pads,
    dequantize_late,
    sign_second,
    pack_four_bits,
)


def to_onnx(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    names: list[str],
    batch: int | None,
    opset: int,
    timesteps: Sequence[int] = (),
) -> onnx.ModelProto:
    """The lean graph of `module`, inputs called `names`, output `out_sample`.

    inputs: examples [b,...]. batch: a fixed batch size, equal to that of the examples; None: any. timesteps: the only
    ones that it will be asked for; none: any. Raises ExportError.
    """
    return lean(as_exported(module, inputs, names, batch, opset), timesteps=timesteps)


def as_exported(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], names: list[str], batch: int | None, opset: int
) -> ir.Model:
    """The graph as PyTorch's exporter writes it; arguments as for `to_onnx`. Raises ExportError."""
    dimension = Dim("batch", min=1, max=63)  # torch.export rejects a bound of 64 on quantized graphs
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"), torch.no_grad():
            program = torch.onnx.export(
                module,
                inputs,
                input_names=names,
                output_names=["out_sample"],
                dynamic_shapes=None if batch else tuple({0: dimension} for _ in inputs),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"the ONNX exporter failed: {reason}; run with -v for details") from error
    assert program is not None
    return program.model


def lean(model: ir.Model, left_out: Callable[..., int] | None = None, timesteps: Sequence[int] = ()) -> onnx.ModelProto:
    """The same computation in fewer kernels and bytes. Changes `model`.

    left_out: a rewrite to do without. timesteps: if given, the only ones at which the graph computes.
    """
    for rewrite in REWRITES:
        if rewrite is not left_out:
            rewrite(model)
    graph = clean(ir.to_proto(model))
    if timesteps:
        fold_rows(graph, "timestep", timesteps, if_smaller=True)
    if fold_constants is not left_out:
        fold_constants(graph)
    return graph
