"""Products of bytes that come out alike on every processor.

Processors without a dot product of bytes (x86 before VNNI) multiply uint8 by int8 and add pairs of products in 16 bits:
255 · (|a| + |b|) must not exceed 32,767 for two neighbours a, b of the second factor, so none may exceed 64. Products
of two uint8 they compute in 32 bits, exactly, but up to four times as slowly (and up to fifteen times where matrices of
bytes are multiplied in one instruction). Hence the rule: a second factor keeps to ±64, or both factors are uint8.
"""

import numpy as np
import onnx_ir as ir

from compress.errors import ExportError

LARGEST = 64
# Operators that multiply, and where their two factors stand: floats or, in the last four, bytes.
FACTORS = {"MatMul": (0, 1), "Gemm": (0, 1), "Conv": (0, 1), "ConvTranspose": (0, 1)}
BYTE_FACTORS = {"MatMulInteger": (0, 1), "ConvInteger": (0, 1), "QLinearMatMul": (0, 3), "QLinearConv": (0, 3)}
# What only moves bytes: their values are those of the first input.
MOVES = {"Reshape", "Transpose", "Split", "Slice", "Squeeze", "Unsqueeze", "Expand", "Identity", "Flatten", "Gather"}
WHOLE = {ir.DataType.UINT8: (0, 255), ir.DataType.INT8: (-128, 127)}


def check_products(model: ir.Model) -> int:
    """How many products of bytes a graph has. Raises ExportError for those that some processors get wrong."""
    products, wrong = 0, []
    for node in model.graph.all_nodes():
        factors = _factors(node)
        if len(factors) < 2:
            continue
        products += 1
        low, high = limits(factors[1])
        if max(-low, high) > LARGEST and {value.dtype for value in factors} != {ir.DataType.UINT8}:
            wrong.append(f"{layer(node)} ({node.op_type}, {low}…{high})")
    if wrong:
        raise ExportError(
            f"products of bytes whose second factor goes beyond ±{LARGEST}, which processors without VNNI get wrong: "
            f"{', '.join(wrong)}; keep these layers float, by `float_layers`"
        )
    return products


def layer(node: ir.Node) -> str:
    """Path in the net of the layer that a node came from; its own name where no layer is known."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    paths = [part.strip(" '\"[]") for part in scopes.split(",")]
    return next((path.removeprefix("net.") for path in reversed(paths[:-1]) if path), node.name or node.op_type)


def _factors(node: ir.Node) -> list[ir.Value]:
    """The bytes that a node multiplies; fewer than two if it multiplies floats, or not at all."""
    places = FACTORS.get(node.op_type, BYTE_FACTORS.get(node.op_type, ()))
    if node.domain not in ("", "ai.onnx"):
        return []
    values = [node.inputs[place] for place in places]
    if node.op_type in FACTORS:  # bytes behind floats, moved or not since they became them
        values = [inputs[0] for value in values if (inputs := inputs_of(value, "DequantizeLinear"))]
        values = [value for value in values if value is not None and value.dtype in WHOLE]
    return [value for value in values if value is not None]


def _origin(value: ir.Value | None) -> ir.Value | None:
    """What a value was before operators that only move it."""
    while value is not None and (node := value.producer()) is not None and node.op_type in MOVES:
        value = node.inputs[0]
    return value


def inputs_of(value: ir.Value | None, kind: str) -> list[ir.Value | None]:
    """Three inputs of the operator of a kind that a value comes from, None for missing ones; empty for any other."""
    value = _origin(value)
    node = None if value is None else value.producer()
    return [*node.inputs, None, None][:3] if node is not None and node.op_type == kind else []


def limits(value: ir.Value | None) -> tuple[int, int]:
    """(least, largest) that bytes can be, as far as the graph tells."""
    value = _origin(value)
    if value is None:
        return -128, 255
    if value.const_value is not None:
        array = value.const_value.numpy()
        return int(array.min(initial=0)), int(array.max(initial=0))
    whole = WHOLE.get(value.dtype or ir.DataType.UNDEFINED, (-128, 255))
    if clip := inputs_of(value, "Clip"):
        (low, high), (least, largest) = limits(clip[0]), map(_number, clip[1:])
        return (low if least is None else max(low, int(least)), high if largest is None else min(high, int(largest)))
    if rounded := inputs_of(value, "QuantizeLinear"):
        ends, (scale, zero) = _ends(rounded[0]), map(_number, rounded[1:])
        if ends is not None and scale is not None:
            least, largest = (end / scale + (zero or 0) for end in ends)  # a half may round either way
            return max(whole[0], int(np.ceil(least - 0.5))), min(whole[1], int(np.floor(largest + 0.5)))
    return whole


def _ends(value: ir.Value | None) -> tuple[float, float] | None:
    """(least, largest) that floats can be: probabilities, or bytes that became floats; None: anything."""
    if inputs_of(value, "Softmax"):
        return 0.0, 1.0
    if dequantized := inputs_of(value, "DequantizeLinear"):
        low, high = limits(dequantized[0])
        size, offset = map(_number, dequantized[1:])
        return None if size is None else (size * (low - (offset or 0)), size * (high - (offset or 0)))
    return None


def _number(value: ir.Value | None) -> float | None:
    """A constant of one number."""
    constant = None if value is None else value.const_value
    return float(constant.numpy().reshape(-1)[0]) if constant is not None and constant.size == 1 else None


def drop_idle_clips(model: ir.Model) -> int:
    """Take out every Clip of bytes that cannot change any. Changes `model`; returns how many went."""
    dropped = 0
    for node in list(model.graph):
        given = node.inputs[0] if node.op_type == "Clip" else None
        if given is None or given.dtype not in WHOLE or limits(given) != limits(node.outputs[0]):
            continue
        ir.convenience.replace_all_uses_with(node.outputs[0], given, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        dropped += 1
    return dropped
