"""Writes shapes as constants where only the batch size is open."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


def fold_shapes(model: ir.Model) -> int:
    """Reshape to a constant [-1,c,h,w] in place of Reshape to the Shape of x, as group norms end at any batch size.

    x: every dimension but one is known and none is 0. Its shape becomes the output's, for other rewrites to read.
    Changes `model`; returns how many reshapes did.
    """
    constants: dict[tuple[int, ...], ir.Value] = {}
    folded = 0
    for node in model.graph:
        x = _source(node)
        if x is None or x.shape is None:
            continue
        sizes = tuple(size if isinstance(size, int) else -1 for size in x.shape)
        if sizes.count(-1) > 1 or 0 in sizes:
            continue
        if sizes not in constants:
            tensor = ir.tensor(np.array(sizes, dtype=np.int64), name=f"folded{len(constants)}.shape")
            constants[sizes] = ir.Value(name=tensor.name, const_value=tensor)
            model.graph.register_initializer(constants[sizes])
        node.replace_input_with(1, constants[sizes])
        node.outputs[0].shape = x.shape
        folded += 1
    RemoveUnusedNodesPass()(model)
    return folded


def _source(node: ir.Node) -> ir.Value | None:
    """The tensor whose whole shape a Reshape takes; None for anything else."""
    shape = node.inputs[1] if node.op_type == "Reshape" else None
    producer = None if shape is None else shape.producer()
    if producer is None or producer.op_type != "Shape":
        return None
    whole = producer.attributes.get_int("start", 0) == 0 and "end" not in producer.attributes
    return producer.inputs[0] if whole else None
