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
        bytes_of = _factors(node)
        if bytes_of is None:
            continue
        products += 1
        first, second = bytes_of
        low, high = limits(second)
        if max(-low, high) > LARGEST and not (first.dtype == second.dtype == ir.DataType.UINT8):
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


def _factors(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """The bytes that a node multiplies; None if it multiplies floats, or not at all."""
    places = FACTORS.get(node.op_type) or BYTE_FACTORS.get(node.op_type)
    if places is None or node.domain not in ("", "ai.onnx"):
        return None
    values = [node.inputs[place] for place in places]
    if node.op_type in FACTORS:
        values = [_dequantized(value) for value in values]
    first, second = values
    return (first, second) if first is not None and second is not None else None


def _dequantized(value: ir.Value | None) -> ir.Value | None:
    """The bytes behind a value, moved or not since they became floats; None for floats."""
    producer = None if value is None else value.producer()
    while producer is not None and producer.op_type in MOVES:
        value = producer.inputs[0]
        producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    found = producer.inputs[0]
    return found if found is not None and found.dtype in WHOLE else None


def limits(value: ir.Value) -> tuple[int, int]:
    """(least, largest) that bytes can be, as far as the graph tells."""
    if value.const_value is not None:
        array = value.const_value.numpy()
        return int(array.min(initial=0)), int(array.max(initial=0))
    whole = WHOLE.get(value.dtype or ir.DataType.UNDEFINED, (-128, 255))
    node = value.producer()
    if node is None:
        return whole
    if node.op_type in MOVES and node.inputs[0] is not None:
        return limits(node.inputs[0])
    if node.op_type == "Clip":
        low, high = limits(node.inputs[0]) if node.inputs[0] is not None else whole
        least, largest = (_number(end) for end in (*node.inputs[1:], None, None)[:2])
        return (low if least is None else max(low, int(least)), high if largest is None else min(high, int(largest)))
    if node.op_type == "QuantizeLinear":
        return _rounded(node, whole)
    return whole


def _rounded(node: ir.Node, whole: tuple[int, int]) -> tuple[int, int]:
    """What a QuantizeLinear can give: of probabilities, of other bytes, or of anything."""
    scale, zero = (_number(value) for value in (*node.inputs[1:], None)[:2])
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    while before is not None and before.op_type in MOVES and before.inputs[0] is not None:
        before = before.inputs[0].producer()
    if scale is None or before is None:
        return whole
    if before.op_type == "Softmax":
        ends = [0.0, 1.0]
    elif before.op_type == "DequantizeLinear" and before.inputs[0] is not None:
        size, offset = (_number(value) for value in (*before.inputs[1:], None)[:2])
        if size is None:
            return whole
        ends = [size * (end - (offset or 0)) for end in limits(before.inputs[0])]
    else:
        return whole
    # a half may round either way
    low, high = (end / scale + (zero or 0) for end in ends)
    return max(whole[0], int(np.ceil(low - 0.5))), min(whole[1], int(np.floor(high + 0.5)))


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
