"""Lets OpenVINO multiply activations by activations in bytes, as attention does.

Its CPU plugin takes a product of two activations for one of bytes only where both are int8 without a zero point, each
quantized and dequantized at once; this toolkit's file has uint8 beside int8, zero points, and bytes that are moved and
clipped in between, which is what onnxruntime's kernels want. There such a product is one of floats.
https://docs.openvino.ai/2026/documentation/openvino-extensibility/openvino-plugin-library/advanced-guides/low-precision-transformations.html

All 127 levels of either side are used, as NNCF uses them for attention: processors with a dot product of bytes (VNNI,
AMX, Arm) add them exactly, older ones do not, so this is no form for every device.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from compress.onnx_graph.byte_products import MOVES, limits

LEVELS = 127  # of int8 on either side of 0


def for_openvino(model: ir.Model) -> int:
    """Quantize both factors of every product of activations to int8 around 0. Changes `model`; returns how many
    products there are.
    """
    ranges: dict[ir.Node, float] = {}  # of the node that makes bytes: the largest number of steps from 0
    products = 0
    for node in model.graph:
        made = [_made(value) for value in node.inputs] if node.op_type == "MatMul" else []
        if not made or None in made:
            continue
        products += 1
        for quantizer, steps in filter(None, made):
            ranges[quantizer] = max(steps, ranges.get(quantizer, 0.0))
    for quantizer, steps in ranges.items():
        _around_zero(model.graph, quantizer, steps)
    return products


def _made(value: ir.Value | None) -> tuple[ir.Node, float] | None:
    """(the node that made bytes of an activation, steps that they are from 0 at most), if a value is such."""
    for node in _before(value):
        if node.op_type == "DequantizeLinear":
            quantizer = next((one for one in _before(node.inputs[0]) if one.op_type == "QuantizeLinear"), None)
            zero = node.inputs[2].const_value if quantizer and node.inputs[2] else None
            if quantizer is None or zero is None or zero.size > 1:
                return None
            low, high = (end - int(zero.numpy().item()) for end in limits(node.inputs[0]))
            return quantizer, max(-low, high)
    return None


def _before(value: ir.Value | None) -> Iterator[ir.Node]:
    """The nodes that a value comes from, up to the first that does more than move or clip."""
    while value is not None and (node := value.producer()) is not None:
        yield node
        if node.op_type not in MOVES | {"Clip"}:
            return
        value = node.inputs[0]


def _around_zero(graph: ir.Graph, quantizer: ir.Node, steps: float) -> None:
    """Let a node quantize to int8 without a zero point, and what reads its bytes read floats made of them at once."""
    scale = quantizer.inputs[1]
    assert scale is not None and scale.const_value is not None
    size = np.float32(scale.const_value.numpy() * steps / LEVELS)
    named = quantizer.outputs[0].name
    parameters = [
        ir.val(f"{named}.{name}", const_value=ir.tensor(value, name=f"{named}.{name}"))
        for name, value in (("scale", size), ("zero", np.int8(0)))
    ]
    for place, parameter in enumerate(parameters, 1):
        graph.register_initializer(parameter)
        quantizer.replace_input_with(place, parameter)
    bytes_ = quantizer.outputs[0]
    bytes_.type = ir.TensorType(ir.DataType.INT8)
    readers = [usage.node for usage in bytes_.uses()]
    floats = ir.node("DequantizeLinear", [bytes_, *parameters])
    floats.outputs[0].type, floats.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), bytes_.shape
    floats.outputs[0].name = f"{named}.floats"
    graph.insert_after(quantizer, floats)
    _read_floats(graph, readers, bytes_, floats.outputs[0])


def _read_floats(graph: ir.Graph, readers: list[ir.Node], bytes_: ir.Value, floats: ir.Value) -> None:
    """Let the readers of bytes read floats: they move these as well; clipping was in their range."""
    for node in readers:
        if node.op_type in MOVES:
            node.replace_input_with(0, floats)
            for output in node.outputs:
                output.type = ir.TensorType(ir.DataType.FLOAT)
                _read_floats(graph, [usage.node for usage in output.uses()], output, output)
            continue
        (output,) = node.outputs
        if node.op_type == "Clip":
            _read_floats(graph, [usage.node for usage in output.uses()], output, floats)
        else:
            ir.convenience.replace_all_uses_with(output, floats, replace_graph_outputs=True)
        graph.remove(node, safe=True)
