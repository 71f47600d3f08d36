"""Precomputes what is known before the graph runs: what follows from given constants, from a label or a timestep.

Values are computed by onnxruntime itself, node by node.
"""

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from compress.runtime.engines import OnnxRuntime

INLINE_LIMIT = 1_500_000_000  # bytes of constants that a file holds itself; protobuf cannot hold 2 GiB
# Operators that treat every item of a batch by itself, as long as all else they read is constant.
ROW_WISE = {"Add", "Cast", "Concat", "Cos", "DequantizeLinear", "Gather", "Gemm", "Identity", "MatMul", "Mul"}
ROW_WISE |= {"QuantizeLinear", "Sigmoid", "Sin", "Slice", "Unsqueeze"}


def fold_known(model: ir.Model, known: Collection[ir.Value]) -> None:
    """Replace what follows from the constants `known`, and from others with them, by its value. Changes `model`.

    What follows from other constants alone stays: weights that are dequantized when the graph runs stay small.
    """
    pure, followed = set(model.graph.initializers.values()), set(known)
    for node in model.graph:
        reads = _reads(node)
        branches = any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values())
        if reads <= pure and not branches:
            pure.update(node.outputs)
            if reads & followed:
                followed.update(node.outputs)
    wanted = _read_elsewhere(model.graph, followed)
    (found,) = _values(model, [], wanted, [[]])
    for value, array in zip(wanted, found, strict=True):
        value.replace_all_uses_with(_constant(model.graph, f"{value.name}.known", array))
    RemoveUnusedNodesPass()(model)


def fold_rows(model: ir.Model, name: str, values: Sequence[int], if_smaller: bool = False) -> ir.Model:
    """The model with a table and a Gather in place of what follows from an input [batch] and constants; or as it is.

    values: the whole numbers from 0 on that the input may be. Any other is out of the table's bounds, at which runtimes
    raise an error. if_smaller: only where that leaves fewer bytes of constants.
    """
    folded = model.clone()
    graph = folded.graph
    given = next(value for value in graph.inputs if value.name == name)
    pure, rows = set(graph.initializers.values()), {given}
    for node in graph:
        reads = _reads(node)
        if reads <= pure:
            pure.update(node.outputs)
        elif reads <= pure | rows and _is_row_wise(node, rows):
            rows.update(node.outputs)
    wanted = _read_elsewhere(graph, rows)
    if not wanted:
        return model
    size = given.shape[0] if given.shape is not None and isinstance(given.shape[0], int) else 2
    found = _values(folded, [given], wanted, [[np.full(size, value)] for value in values])
    if any((array != array[:1]).any() for arrays in found for array in arrays):
        return model  # something was not row by row after all
    nodes, row = [], given
    if list(values) != list(range(len(values))):
        numbers = np.full(max(values) + 1, len(values))
        numbers[list(values)] = np.arange(len(values))
        nodes.append(ir.node("Gather", [_constant(graph, f"{name}.rows", numbers), given], {"axis": 0}))
        row = nodes[0].outputs[0]
    for place, value in enumerate(wanted):
        table = _constant(graph, f"{value.name}.table", np.stack([arrays[place][0] for arrays in found]))
        nodes.append(ir.node("Gather", [table, row], {"axis": 0}))
        value.replace_all_uses_with(nodes[-1].outputs[0])
    graph.insert_before(graph[0], nodes)
    RemoveUnusedNodesPass()(folded)
    return model if if_smaller and constant_bytes(folded) >= constant_bytes(model) else folded


def _reads(node: ir.Node) -> set[ir.Value]:
    return {value for value in node.inputs if value is not None}


def _read_elsewhere(graph: ir.Graph, values: set[ir.Value]) -> list[ir.Value]:
    """Of what is computed: that which nodes read that compute something else."""
    others = [node for node in graph if not values & set(node.outputs)]
    read = {value for node in others for value in _reads(node)}
    return [value for node in graph for value in node.outputs if value in values & read]


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value


def constant_bytes(model: ir.Model) -> int:
    """What a graph's constants take."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values())


def _is_row_wise(node: ir.Node, rows: set[ir.Value]) -> bool:
    first, *others = node.inputs
    settings = node.attributes
    if node.op_type == "Gather":  # from a table, by label
        return first not in rows and settings.get_int("axis", 0) == 0
    if node.op_type in ("Gemm", "MatMul"):
        return first in rows and not rows & set(others) and not settings.get_int("transA", 0)
    if node.op_type == "Concat":
        return settings.get_int("axis") != 0 and set(node.inputs) <= rows
    if node.op_type in ("Unsqueeze", "Slice"):
        axes = dict(enumerate(others, 1)).get(1 if node.op_type == "Unsqueeze" else 3)
        constant = None if axes is None else axes.const_value
        return constant is not None and not rows & set(others) and int(constant.numpy().min()) > 0
    return node.op_type in ROW_WISE


def _values(
    model: ir.Model, given: list[ir.Value], wanted: list[ir.Value], feeds: Sequence[Sequence[np.ndarray]]
) -> list[list[np.ndarray]]:
    """The values of `wanted` at each of `feeds`, arrays for `given`, from the nodes between them alone."""
    part = ir.convenience.extract(model.graph, given, wanted)
    content = ir.to_proto(ir.Model(part, ir_version=model.ir_version)).SerializeToString()
    # Optimized, its kernels for products with int8 weights would round their input as well.
    graph = OnnxRuntime(optimized=False).open(content, threads=1)
    return [list(graph.run(dict(zip(graph.inputs, arrays, strict=True)))) for arrays in feeds]
