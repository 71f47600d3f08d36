"""Every value between two nodes rounded to whole numbers (QDQ), as compilers for NPUs want a graph.

Weights of layers become int8 around zero, biases int32 on the grid of their products, all else unsigned numbers of 8
or 16 bits. NPUs have tables for some operators, which set the grid of their outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from compress.onnx_graph.byte_products import MOVES
from compress.onnx_graph.shown import shown
from compress.runtime.engine import Feeds

Ranges = Mapping[str, tuple[float, float]]  # least and largest of a value, by its name
KINDS: dict[int, np.dtype[Any]] = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16)}
LAYERS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0}  # axis of the weight's output channels
NORMS = {"LayerNormalization", "InstanceNormalization", "GroupNormalization"}
SETTINGS = {"Resize", "Clip", "Pad"}  # whose inputs behind the first are no values to compute with
LEAST_SPAN = 1e-4


@dataclass(frozen=True)
class Grid:
    """Value = scale · (whole number − zero). Each one number, or one for each channel of `axis`."""

    scale: np.ndarray
    zero: np.ndarray
    axis: int | None = None

    def rounded(self, array: np.ndarray) -> np.ndarray:
        """The nearest whole numbers, of the type of `zero`."""
        along = [1] * array.ndim
        if self.axis is not None:
            along[self.axis] = -1
        ends = np.iinfo(self.zero.dtype)
        whole = np.rint(array / self.scale.reshape(along) + self.zero.reshape(along).astype(np.float64))
        return np.clip(whole, ends.min, ends.max).astype(self.zero.dtype)


def ranges(model: ir.Model, feeds: Sequence[Feeds]) -> dict[str, tuple[float, float]]:
    """Ends of every float between nodes, inputs and outputs included, while a graph runs on `feeds`, by its nodes as
    they stand."""
    copied = model.clone()
    ShapeInferencePass()(copied)
    floats = [value for node in copied.graph for value in node.outputs if value.dtype == ir.DataType.FLOAT]
    found: dict[str, tuple[float, float]] = {}
    for values in shown(copied, floats, feeds):
        for name, array in values.items():
            if array.dtype == np.float32:
                low, high = found.get(name, (np.inf, -np.inf))
                found[name] = min(low, float(array.min())), max(high, float(array.max()))
    return found


def scale_by_convolutions(model: ir.Model) -> int:
    """Depthwise convolutions of one pixel in place of BatchNormalization, as `merge_affine` leaves it (mean 0, variance
    1). Changes `model`; returns how many there were.

    A weight of its own for each channel is exact in 8 bits, which factors on one grid would not be.
    """
    ShapeInferencePass()(model)
    graph = model.graph
    nodes = [node for node in graph if node.op_type == "BatchNormalization"]
    for node in nodes:
        x, *settings = node.inputs
        scale, shift = (value.const_value.numpy() for value in settings[:2])
        name = node.outputs[0].name
        weight = _constant(graph, f"{name}.weight", scale.reshape(-1, *[1] * (x.shape.rank() - 1)))
        bias = _constant(graph, f"{name}.bias", shift)
        convolution = ir.node("Conv", [x, weight, bias], {"group": len(scale)}, name=node.name)
        after = convolution.outputs[0]
        after.shape, after.type = x.shape, x.type
        ir.convenience.replace_nodes_and_values(graph, node, [node], [convolution], node.outputs, [after])
    return len(nodes)


def part_swish(model: ir.Model) -> int:
    """Something that changes nothing between a sigmoid and its product with what it was taken of. Changes `model`;
    returns how many there were.

    Qualcomm's compiler (QAIRT 2.51) makes one operator of the two, which is wrong in 16 bits from some size on.
    """
    graph = model.graph
    nodes = [
        node
        for node in graph
        if node.op_type == "Sigmoid"
        and any(user.op_type == "Mul" and node.inputs[0] in user.inputs for user, _ in node.outputs[0].uses())
    ]
    for node in nodes:
        value = node.outputs[0]
        between = ir.node("Relu", [value], name=f"{value.name}.positive")
        after = between.outputs[0]
        after.name, after.shape, after.type = f"{value.name}.positive", value.shape, value.type
        ir.convenience.replace_all_uses_with(value, after)
        between.replace_input_with(0, value)
        graph.insert_after(node, between)
    return len(nodes)


def quantize_fully(model: ir.Model, met: Ranges, bits: int) -> int:
    """Change `model`; returns how many values are rounded. met: of `ranges`. bits: of activations."""
    graph, kind = model.graph, KINDS[bits]
    grids: dict[ir.Value, Grid] = {
        value: _between(*met[value.name], kind) for value in graph.inputs if value.name in met
    }
    for node in graph:
        for value in node.outputs:
            if value.name in met:
                grids[value] = _of_output(node, grids, met[value.name], kind)
    for node in list(graph):
        _round_constants(graph, node, grids, kind)
    for value, grid in grids.items():
        _round(graph, value, grid)
    return len(grids)


def _between(low: float, high: float, kind: np.dtype[Any]) -> Grid:
    """The grid from one value to another that holds zero."""
    low, most = min(low, 0.0), int(np.iinfo(kind).max)
    scale = max(max(high, 0.0) - low, LEAST_SPAN) / most
    return Grid(np.array(scale, np.float32), np.array(round(-low / scale), kind))


def _around_zero(array: np.ndarray, axis: int | None) -> Grid:
    others = None if axis is None else tuple(place for place in range(array.ndim) if place != axis)
    scale = np.maximum(np.abs(array).max(axis=others), LEAST_SPAN) / 127
    return Grid(scale.astype(np.float32), np.zeros(scale.shape, np.int8), axis)


def _of_output(node: ir.Node, grids: Mapping[ir.Value, Grid], ends: tuple[float, float], kind: np.dtype[Any]) -> Grid:
    most, first = int(np.iinfo(kind).max), node.inputs[0] if node.inputs else None
    if node.op_type == "Sigmoid":
        return Grid(np.array(1 / (most + 1), np.float32), np.array(0, kind))
    if node.op_type == "Tanh":
        return Grid(np.array(2 / (most + 1), np.float32), np.array((most + 1) // 2, kind))
    if node.op_type in MOVES | {"DepthToSpace", "MaxPool", "Relu", "Resize"} and first is not None:
        if first in grids and node.attributes.get_string("mode", "nearest") == "nearest":
            return grids[first]
        if first.const_value is not None:
            return _of_constant(first.const_value.numpy(), kind)
    return _between(*ends, kind)


def _of_constant(array: np.ndarray, kind: np.dtype[Any]) -> Grid:
    return _between(float(array.min(initial=0)), float(array.max(initial=0)), kind)


def _round_constants(graph: ir.Graph, node: ir.Node, grids: Mapping[ir.Value, Grid], kind: np.dtype[Any]) -> None:
    """Constants that a node computes with become whole numbers."""
    weight: Grid | None = None
    for place, value in enumerate(node.inputs):
        tensor = None if value is None else value.const_value
        if value is None or tensor is None or tensor.dtype != ir.DataType.FLOAT:
            continue
        if place and node.op_type in SETTINGS:
            continue
        array = tensor.numpy()
        grid = _of_constant(array, kind)
        if place == 1 and node.op_type in LAYERS:
            turned = node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)
            weight = grid = _around_zero(array, 1 if turned else LAYERS[node.op_type])
        elif place == 1 and node.op_type in NORMS:
            weight = grid = _of_constant(array, KINDS[8])
        elif node.op_type == "MatMul":
            grid = _around_zero(array, None)
        elif place == 2 and weight is not None and (first := node.inputs[0]) in grids:
            scale = weight.scale * grids[first].scale
            grid = Grid(scale, np.zeros(scale.shape, np.int32), None if weight.axis is None else 0)
        _read_rounded(graph, node, place, array, grid)


def _read_rounded(graph: ir.Graph, node: ir.Node, place: int, array: np.ndarray, grid: Grid) -> None:
    name = f"{node.outputs[0].name}.{place}"
    numbers = _constants(graph, name, grid)
    whole = _constant(graph, f"{name}.whole", grid.rounded(array))
    settings = {} if grid.axis is None else {"axis": grid.axis}
    back = ir.node("DequantizeLinear", [whole, *numbers], settings, name=f"{name}.dequantize")
    back.outputs[0].name = f"{name}.back"
    graph.insert_before(node, back)
    node.replace_input_with(place, back.outputs[0])


def _round(graph: ir.Graph, value: ir.Value, grid: Grid) -> None:
    """A value is read as it is after rounding."""
    name = value.name or ""
    numbers = _constants(graph, name, grid)
    to = ir.node("QuantizeLinear", [value, *numbers], name=f"{name}.quantize")
    back = ir.node("DequantizeLinear", [to.outputs[0], *numbers], name=f"{name}.dequantize")
    to.outputs[0].name, after = f"{name}.whole", back.outputs[0]
    after.shape, after.type = value.shape, value.type
    producer = value.producer()
    ir.convenience.replace_all_uses_with(value, after, replace_graph_outputs=True)
    to.replace_input_with(0, value)
    if graph.outputs and after in graph.outputs:
        value.name, after.name = f"{name}.float", name
        after.type = ir.TensorType(ir.DataType.FLOAT)
    else:
        after.name = f"{name}.back"
    if producer is None:
        graph.insert_before(graph[0], [to, back])
    else:
        graph.insert_after(producer, [to, back])


def _constants(graph: ir.Graph, name: str, grid: Grid) -> list[ir.Value]:
    return [_constant(graph, f"{name}.scale", grid.scale), _constant(graph, f"{name}.zero", grid.zero)]


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value
