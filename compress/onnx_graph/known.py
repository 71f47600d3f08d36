"""Folds what is known before the graph runs: values that follow from constants alone, from a label or a timestep.

Values are computed by onnxruntime itself, node by node.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

# Operators that treat every item of a batch by itself, as long as all else they read is constant.
ROW_WISE = {"Add", "Cast", "Concat", "Cos", "DequantizeLinear", "Gather", "Gemm", "Identity", "MatMul", "Mul"}
ROW_WISE |= {"QuantizeLinear", "Sigmoid", "Sin", "Slice", "Unsqueeze"}
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
    (found,) = _run(model, wanted, [{}])
    graph.initializer.extend(numpy_helper.from_array(found[name], name) for name in wanted)
    _keep(graph, stays)
    return len(gone)


def fold_rows(model: onnx.ModelProto, name: str, values: Sequence[int], if_smaller: bool = False) -> int:
    """Replace what follows from an input [batch] and constants by a table and a Gather; the nodes that went.

    values: the whole numbers from 0 on that the input may be. Any other is out of the table's bounds, at which runtimes
    raise an error. if_smaller: only where that leaves fewer bytes of constants.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    pure, rows = set(constants), {name}
    for node in graph.node:
        reads = {read for read in node.input if read}
        if reads <= pure:
            pure |= set(node.output)
        elif reads <= pure | rows and _is_row_wise(node, rows, constants):
            rows |= set(node.output)
    gone = [node for node in graph.node if set(node.output) <= rows]
    produced = {output for node in gone for output in node.output}
    stays = [node for node in graph.node if not set(node.output) & produced]
    wanted = sorted({read for node in stays for read in node.input} & produced)
    size = next((value.type.tensor_type.shape.dim[0].dim_value for value in graph.input if value.name == name), 0)
    if not wanted:
        return 0
    found = _run(model, wanted, [{name: np.full(size or 2, value)} for value in values])
    tables = {each: np.stack([one[each][0] for one in found]) for each in wanted}
    if any((one[each] != one[each][:1]).any() for one in found for each in wanted):
        return 0  # something was not row by row after all
    added = {f"{each}.table": table for each, table in tables.items()}
    nodes, row = [], name
    if list(values) != list(range(len(values))):
        row, added[f"{name}.rows"] = f"{name}.row", np.full(max(values) + 1, len(values))
        added[f"{name}.rows"][list(values)] = np.arange(len(values))
        nodes.append(helper.make_node("Gather", [f"{name}.rows", name], [row], row, axis=0))
    nodes += [helper.make_node("Gather", [f"{each}.table", row], [each], f"{each}.look", axis=0) for each in wanted]
    kept = _read([*nodes, *stays], {value.name for value in graph.output})
    read = {each for node in kept for each in node.input}
    saved = sum(tensor.ByteSize() for tensor in graph.initializer if tensor.name not in read)
    if if_smaller and saved <= sum(table.nbytes for table in added.values()):
        return 0
    before = len(graph.node)
    graph.initializer.extend(numpy_helper.from_array(array, each) for each, array in added.items())
    _keep(graph, kept)
    return before - len(kept)


def _read(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """Without the nodes that nothing reads."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if set(node.output) & wanted:
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


def _is_row_wise(node: onnx.NodeProto, rows: set[str], constants: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type not in ROW_WISE:
        return False
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Gather":  # from a table, by label
        return node.input[0] not in rows and settings.get("axis", 0) == 0
    if node.op_type in ("Gemm", "MatMul"):
        return node.input[0] in rows and not rows & set(node.input[1:]) and not settings.get("transA", 0)
    if node.op_type == "Concat":
        return settings["axis"] != 0 and set(node.input) <= rows
    if node.op_type in ("Unsqueeze", "Slice"):
        place = 1 if node.op_type == "Unsqueeze" else 3
        axes = constants.get(node.input[place]) if len(node.input) > place else None
        return axes is not None and not rows & set(node.input[1:]) and int(numpy_helper.to_array(axes).min()) > 0
    return True


def _run(
    model: onnx.ModelProto, wanted: list[str], feeds: Sequence[dict[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """The values of intermediate tensors at each of `feeds`, by onnxruntime, from the nodes that they need alone."""
    graph = model.graph
    needed, nodes = set(wanted), []
    for node in reversed(graph.node):
        if set(node.output) & needed:
            nodes.append(node)
            needed |= set(node.input)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds[0].items()
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
    # Its fused kernels for products with int8 weights round their input as well.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(asked.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [dict(zip(wanted, map(np.asarray, session.run(wanted, given)), strict=True)) for given in feeds]


def _keep(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Leave only these nodes and the constants that they read."""
    read = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(tensors)
