"""Moves bytes instead of floats."""

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from compress.onnx_graph.simplify import tidy

MOVES = {"Reshape", "Split", "Transpose"}


def dequantize_late(model: ir.Model) -> int:
    """Dequantize after a Reshape, Split or Transpose instead of before, where nothing else reads the floats.

    Scale and zero point are one number each. Changes `model`; returns how many nodes moved.
    """
    moved = 0
    for node in list(model.graph):
        given = node.inputs[0] if node.op_type in MOVES else None
        if given is None or len(given.uses()) > 1 or given.is_graph_output():
            continue
        before = given.producer()
        if before is None or before.op_type != "DequantizeLinear" or not _per_tensor(before):
            continue
        node.replace_input_with(0, before.inputs[0])
        for output in node.outputs:
            floats = ir.node("DequantizeLinear", [output, *before.inputs[1:]], dict(before.attributes))
            after = floats.outputs[0]
            after.shape, after.type = output.shape, output.type
            output.type = before.inputs[0].type
            after.name, output.name = output.name, f"{output.name}.bytes"
            ir.convenience.replace_all_uses_with(output, after, replace_graph_outputs=True)
            floats.replace_input_with(0, output)
            model.graph.insert_after(node, floats)
        model.graph.remove(before, safe=True)
        moved += 1
    return moved


def gather_bytes(model: ir.Model) -> int:
    """Read rows of a table of bytes and make floats of those, instead of the whole table at every call.

    Rows have a scale each and no zero point. Changes `model`; returns how many tables there were.
    """
    found = 0
    for node in list(model.graph):
        floats = node.inputs[0].producer() if node.op_type == "Gather" else None
        if floats is None or floats.op_type != "DequantizeLinear" or node.attributes.get_int("axis", 0):
            continue
        table, scale, zero = (*floats.inputs, None)[:3]
        offset = None if zero is None else zero.const_value
        one_a_row = None not in (table.const_value, scale.const_value) and scale.const_value.shape.rank() == 1
        if not one_a_row or floats.attributes.get_int("axis", 1) or (zero is not None and offset is None):
            continue
        if offset is not None and offset.numpy().any():
            continue
        new = tape.Tape()
        rows = new.op("Cast", [new.op("Gather", [table, node.inputs[1]])], {"to": scale.const_value.dtype})
        last = new.op("Constant", [], {"value": ir.tensor(np.array([-1]))})
        sizes = new.op("Unsqueeze", [new.op("Gather", [scale, node.inputs[1]]), last])
        out = new.op("Mul", [rows, sizes])
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], new.nodes, node.outputs, [out])
        found += 1
    tidy(model)
    return found


def _per_tensor(node: ir.Node) -> bool:
    """Whether all parameters of a quantization are constants of one number."""
    parameters = [value for value in node.inputs[1:] if value is not None]
    return all(value.const_value is not None and value.const_value.size == 1 for value in parameters)
