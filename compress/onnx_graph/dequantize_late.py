"""Moves bytes instead of floats."""

import onnx_ir as ir

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


def _per_tensor(node: ir.Node) -> bool:
    """Whether all parameters of a quantization are constants of one number."""
    parameters = [value for value in node.inputs[1:] if value is not None]
    return all(value.const_value is not None and value.const_value.size == 1 for value in parameters)
