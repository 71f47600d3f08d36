"""Folds what is known before the graph runs: values that follow from constants alone, or from a class label alone.

Values are computed by onnxruntime itself, so that folding changes no rounding.
"""

from collections.abc import Iterable

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

# Operators that treat every item of a batch by itself, as long as all else they read is constant.
ROW_WISE = {"Add", "Cast", "Gather", "Gemm", "Identity", "MatMul", "Mul", "QuantizeLinear", "DequantizeLinear"}
ROW_WISE |= {"Sigmoid", "Unsqueeze"}
KEPT = {"DequantizeLinear", "QuantizeLinear", "Expand", "ConstantOfShape", "Tile", "Range", "Cast"}  # bytes would grow


def fold_known(model: onnx.ModelProto, known: Iterable[str]) -> int:
    """Replace what follows from the constants `known` by its value; the number of nodes that went.

    What follows from other constants alone stays: weights that are dequantized when the graph runs stay small.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    pure = set(constants)  # constant, whether it follows from `known` or not
    followed = set(known) & constants
    for node in graph.node:
        reads = {name for name in node.input if name}
        if reads <= pure and not any(attribute.HasField("g") for attribute in node.attribute):
            pure |= set(node.output)
            if reads & followed or not reads:
                followed |= set(node.output)
    return _fold(model, followed - constants)


def fold_constants(model: onnx.ModelProto) -> int:
    """Replace what follows from constants alone by its value, as far as none is dequantized; the nodes that went."""
    known = {tensor.name for tensor in model.graph.initializer}
    constants = set(known)
    for node in model.graph.node:
        subgraph = any(attribute.HasField("g") for attribute in node.attribute)
        if not subgraph and node.op_type not in KEPT and {name for name in node.input if name} <= known:
            known |= set(node.output)
    return _fold(model, known - constants)


def _fold(model: onnx.ModelProto, values: set[str]) -> int:
    """Write `values`, which follow from constants, as constants; the number of nodes that went."""
    graph = model.graph
    gone = [node for node in graph.node if set(node.output) <= values]
    produced = {name for node in gone for name in node.output}
    stays = [node for node in graph.node if not set(node.output) & produced]
    wanted = sorted({name for node in stays for name in node.input} & produced)
    if not wanted:
        return 0
    found = _run(model, wanted, {})
    graph.initializer.extend(numpy_helper.from_array(found[name], name) for name in wanted)
    _keep(graph, stays)
    return len(gone)


def fold_rows(model: onnx.ModelProto, labels: str, count: int) -> int:
    """Replace what follows from labels 0 … count − 1 and constants by a table and a Gather; the nodes that went."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    pure, rows = set(constants), {labels}
    for node in graph.node:
        reads = {name for name in node.input if name}
        if reads <= pure:
            pure |= set(node.output)
        elif reads <= pure | rows and _is_row_wise(node, rows, constants):
            rows |= set(node.output)
    gone = [node for node in graph.node if set(node.output) <= rows]
    produced = {name for node in gone for name in node.output}
    stays = [node for node in graph.node if not set(node.output) & produced]
    wanted = sorted({name for node in stays for name in node.input} & produced)
    if not wanted:
        return 0
    tables = _run(model, wanted, {labels: np.arange(count)})
    gathers = []
    for name in wanted:
        if len(tables[name]) != count:
            return 0  # something was not row by row after all
        graph.initializer.append(numpy_helper.from_array(tables[name], f"{name}.table"))
        gathers.append(helper.make_node("Gather", [f"{name}.table", labels], [name], axis=0))
    _keep(graph, [*gathers, *stays])
    return len(gone) - len(gathers)


def _is_row_wise(node: onnx.NodeProto, rows: set[str], constants: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type not in ROW_WISE:
        return False
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Gather":  # from a table, by label
        return node.input[0] not in rows and settings.get("axis", 0) == 0
    if node.op_type in ("Gemm", "MatMul"):
        return node.input[0] in rows and not rows & set(node.input[1:]) and not settings.get("transA", 0)
    if node.op_type == "Unsqueeze":
        axes = constants.get(node.input[1])
        return axes is not None and int(numpy_helper.to_array(axes).min()) > 0
    return True


def _run(model: onnx.ModelProto, wanted: list[str], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The values of intermediate tensors, by onnxruntime, from the nodes that they need alone."""
    graph = model.graph
    needed, nodes = set(wanted), []
    for node in reversed(graph.node):
        if set(node.output) & needed:
            nodes.append(node)
            needed |= set(node.input)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    part = helper.make_graph(
        nodes[::-1],
        "known",
        inputs,
        [helper.make_empty_tensor_value_info(name) for name in wanted],
        [tensor for tensor in graph.initializer if tensor.name in needed],
    )
    asked = helper.make_model(part, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(asked.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(wanted, map(np.asarray, session.run(wanted, feeds)), strict=True))


def _keep(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Leave only these nodes and the constants that they read."""
    read = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(tensors)
