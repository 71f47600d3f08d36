"""What quantizers of a graph cut off: values beyond the ends of their grids."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from compress.runtime.engines import Feeds, OnnxRuntime

_ENDS = {
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT16: (0, 65535),
}


@dataclass(frozen=True)
class Cut:
    """layer: that reads the values. share: of them beyond the ends; lost: of their energy, 0 to 1."""

    layer: str
    share: float
    lost: float


@dataclass(frozen=True)
class _Quantizer:
    """scale, zero: as wide as the values, or along one axis of them."""

    layer: str
    value: str
    scale: np.ndarray
    zero: np.ndarray
    ends: tuple[int, int]
    axis: int

    def cut(self, values: np.ndarray) -> tuple[float, float, float, int]:
        """(how many lie beyond the ends, energy of what is cut off, energy, how many there are)."""
        wide = values.astype(np.float64)
        along = [1] * wide.ndim
        if self.scale.size > 1:
            along[self.axis] = -1
        scale, zero = (one.astype(np.float64).reshape(along) for one in (self.scale, self.zero))
        low, high = ((end - zero) * scale for end in self.ends)
        beyond = (wide < low - scale / 2) | (wide > high + scale / 2)
        return beyond.sum(), np.square(wide - wide.clip(low, high)).sum(), np.square(wide).sum(), wide.size


def cuts(file: Path, feeds: Sequence[Feeds]) -> list[Cut]:
    """What each QuantizeLinear with a constant scale cuts off, in the order of the graph, computed node by node.

    Quantization within other nodes (QLinearConv, …) is not looked at. feeds: inputs by name.
    """
    model = ir.load(file)
    found = [one for node in model.graph if (one := _quantizer(node)) is not None]
    if not found:
        return []
    known = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    for node in model.graph:
        value = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        if value is not None and value.name in {one.value for one in found} - known:
            value.type = ir.TensorType(node.inputs[1].const_value.dtype)
            model.graph.outputs.append(value)
            known.add(value.name)
    sums = np.zeros((len(found), 4))
    with tempfile.TemporaryDirectory() as folder:
        shown = Path(folder, "shown.onnx")
        ir.save(model, shown, external_data="weights.bin")
        opened = OnnxRuntime(optimized=False).open(shown)
        for given in feeds:
            values = {**given, **dict(zip(opened.outputs, opened.run(given), strict=True))}
            sums += [one.cut(values[one.value]) for one in found]
    return [
        Cut(one.layer, float(beyond / count), float(lost / max(energy, 1e-30)))
        for one, (beyond, lost, energy, count) in zip(found, sums, strict=True)
    ]


def _quantizer(node: ir.Node) -> _Quantizer | None:
    if node.op_type != "QuantizeLinear":
        return None
    value, scale, zero = (*node.inputs, None)[:3]
    step, offset = (None if one is None else ir.convenience.get_const_tensor(one) for one in (scale, zero))
    default = ir.DataType(node.attributes.get_int("output_dtype", 0) or ir.DataType.UINT8)
    ends = _ENDS.get(default if offset is None else offset.dtype)
    if value is None or step is None or ends is None or value.is_initializer() or len(step.shape) > 1:
        return None
    axis = node.attributes.get_int("axis", 1)
    known = np.zeros(1) if offset is None else offset.numpy()
    return _Quantizer(_reader(node), str(value.name), step.numpy(), known, ends, axis)


def _reader(node: ir.Node) -> str:
    """Name of the first layer that reads what a quantizer gives."""
    after = node
    while after.op_type in ("QuantizeLinear", "DequantizeLinear"):
        readers = [use.node for output in after.outputs for use in output.uses()]
        if not readers:
            break
        after = readers[0]
    return after.name or f"{after.op_type} {after.outputs[0].name}"
