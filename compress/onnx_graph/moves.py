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


def quantize_early(model: ir.Model) -> int:
    """Quantize before a Reshape, or a Resize that repeats values, instead of after, where nothing reads the floats.

    Scale and zero point are one number each. Changes `model`; returns how many nodes moved.
    """
    moved = 0
    for node in list(model.graph):
        if not (node.op_type == "Reshape" or _repeats(node)) or node.outputs[0].is_graph_output():
            continue
        readers = [use.node for use in node.outputs[0].uses()]
        if len(readers) != 1 or readers[0].op_type != "QuantizeLinear" or not _per_tensor(readers[0]):
            continue
        after, floats, given = readers[0], node.outputs[0], node.inputs[0]
        if after.outputs[0].is_graph_output():
            continue
        before = ir.node("QuantizeLinear", [given, *after.inputs[1:]], dict(after.attributes))
        early = before.outputs[0]
        early.name, early.shape, early.type = f"{floats.name}.bytes", given.shape, after.outputs[0].type
        model.graph.insert_before(node, before)
        node.replace_input_with(0, early)
        floats.type = early.type
        ir.convenience.replace_all_uses_with(after.outputs[0], floats)
        model.graph.remove(after, safe=True)
        moved += 1
    return moved


def _per_tensor(node: ir.Node) -> bool:
    """Whether all parameters of a quantization are constants of one number."""
    parameters = [value for value in node.inputs[1:] if value is not None]
    return all(value.const_value is not None and value.const_value.size == 1 for value in parameters)


def _repeats(node: ir.Node) -> bool:
    """Whether a Resize copies the nearest value, so that its outputs are some of its inputs."""
    if node.op_type != "Resize" or node.attributes.get_string("mode", "nearest") != "nearest":
        return False
    return node.attributes.get_string("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize"
