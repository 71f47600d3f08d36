"""What quantizers of a graph cut off: values beyond the ends of their grids."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from compress.onnx_graph.shown import shown
from compress.runtime.engine import Feeds

_ENDS = {"INT4": (-8, 7), "UINT4": (0, 15)} | {
    name.upper(): (np.iinfo(name).min, np.iinfo(name).max) for name in ("int8", "uint8", "int16", "uint16")
}


@dataclass(frozen=True)
class Cut:
    """layer: that reads the values. share: of them beyond the ends; lost: of their energy, 0 to 1."""

    layer: str
    share: float
    lost: float


def cuts(file: Path, feeds: Sequence[Feeds]) -> list[Cut]:
    """What each QuantizeLinear with a constant scale cuts off, in the order of the graph, computed node by node.

    Quantization within other nodes (QLinearConv, …) is not looked at. feeds: inputs by name.
    """
    model = ir.load(file)
    ends = {node: limits for node in model.graph if (limits := _ends(node)) is not None}
    if not ends:
        return []
    for node in ends:
        value, scale, *_ = node.inputs
        if value is not None and scale is not None:
            value.type = ir.TensorType(scale.dtype or ir.DataType.FLOAT)
    sums = np.zeros((len(ends), 4))
    for values in shown(model, [node.inputs[0] for node in ends], feeds):
        for row, (node, limits) in zip(sums, ends.items(), strict=True):
            row += _cut(values[node.inputs[0].name], node.attributes.get_int("axis", 1), *limits)
    return [
        Cut(_reader(node), float(beyond / count), float(lost / max(energy, 1e-30)))
        for node, (beyond, lost, energy, count) in zip(ends, sums, strict=True)
    ]


def _ends(node: ir.Node) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(least value, largest value, distance of two) of a quantizer's grid, one or for each channel; None: not known."""
    if node.op_type != "QuantizeLinear":
        return None
    value, *given = (*node.inputs, None)[:3]
    scale, zero = (None if one is None else ir.convenience.get_const_tensor(one) for one in given)
    kind = ir.DataType(node.attributes.get_int("output_dtype", 0) or ir.DataType.UINT8) if zero is None else zero.dtype
    if value is None or value.is_initializer() or scale is None or len(scale.shape) > 1 or kind.name not in _ENDS:
        return None
    step, offset = scale.numpy().astype(np.float64), 0.0 if zero is None else zero.numpy().astype(np.float64)
    low, high = ((end - offset) * step for end in _ENDS[kind.name])
    return low, high, step


def _cut(values: np.ndarray, axis: int, *grid: np.ndarray) -> tuple[float, float, float, int]:
    """(how many lie beyond the ends, energy of what is cut off, energy, how many there are)."""
    wide, along = values.astype(np.float64), [1] * values.ndim
    if grid[0].size > 1:
        along[axis] = -1
    low, high, step = (one.reshape(along) for one in grid)
    beyond = (wide < low - step / 2) | (wide > high + step / 2)
    return beyond.sum(), np.square(wide - wide.clip(low, high)).sum(), np.square(wide).sum(), wide.size


def _reader(node: ir.Node) -> str:
    """Name of the first layer that reads what a quantizer gives."""
    while node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        readers = [use.node for output in node.outputs for use in output.uses()]
        if not readers:
            break
        node = readers[0]
    return node.name or f"{node.op_type} {node.outputs[0].name}"
