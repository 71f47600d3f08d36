"""Takes out products with one."""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


def drop_ones(model: ir.Model) -> int:
    """Take out every Mul of int64 by ones that leaves the shape as it is: timesteps times a one for every sample.

    Ones: a constant, or a constant that is expanded. Weights that are ones, as in a net that was never trained, stay:
    what is measured on such a net is to hold for others. Changes `model`; returns how many products went.
    """
    dropped = 0
    for node in list(model.graph):
        x = _other_than_ones(node)
        if (
            x is None
            or x.dtype != ir.DataType.INT64
            or x.shape is None
            or x.shape != node.outputs[0].shape
            or node.outputs[0].is_graph_output()
        ):
            continue
        ir.convenience.replace_all_uses_with(node.outputs[0], x)
        model.graph.remove(node, safe=True)
        dropped += 1
    RemoveUnusedNodesPass()(model)
    return dropped


def _other_than_ones(node: ir.Node) -> ir.Value | None:
    """What a Mul multiplies ones by; None for anything else."""
    if node.op_type != "Mul":
        return None
    first, second = node.inputs
    return first if _is_ones(second) else second if _is_ones(first) else None


def _is_ones(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "Expand":
        value = producer.inputs[0]
    tensor = None if value is None else value.const_value
    return tensor is not None and bool((tensor.numpy() == 1).all())
