"""Convolutions that pad by themselves."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


def merge_pads(model: ir.Model) -> int:
    """The zeros of a Pad become those of the Conv that alone reads it, also through a quantization, which keeps zeros.

    Changes `model`; returns how many pads went.
    """
    merged = 0
    for conv in list(model.graph):
        if conv.op_type != "Conv" or conv.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
            continue
        reader, value = conv, conv.inputs[0]
        while value is not None and _alone(value) and _kind(value) in ("DequantizeLinear", "QuantizeLinear"):
            reader, value = value.producer(), value.producer().inputs[0]
        pads = _zeros(value) if value is not None and _alone(value) else None
        if pads is None:
            continue
        own = conv.attributes.get_ints("pads") or [0] * len(pads)
        conv.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, pads, strict=True)])
        source = value.producer().inputs[0]
        while reader is not conv:  # what lies between has the smaller shape now
            reader.replace_input_with(0, source)
            reader.outputs[0].shape = source.shape
            source, reader = reader.outputs[0], next(iter(reader.outputs[0].uses())).node
        conv.replace_input_with(0, source)
        merged += 1
    RemoveUnusedNodesPass()(model)
    return merged


def _alone(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _kind(value: ir.Value) -> str:
    producer = value.producer()
    return "" if producer is None else producer.op_type


def _zeros(value: ir.Value) -> list[int] | None:
    """[before..., after...] of the positions, where a value is [b,c,...] padded by zeros there alone."""
    node = value.producer()
    if node is None or node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "constant":
        return None
    given: list[np.ndarray] = []
    for item in node.inputs[1:]:
        if item is not None and item.const_value is None:
            return None
        given.append(np.zeros(0) if item is None else item.const_value.numpy())
    pads, fill, axes = (*given, np.zeros(0), np.zeros(0))[:3]
    if axes.size or fill.any() or len(pads) < 6 or min(pads) < 0:
        return None
    before, after = pads[: len(pads) // 2].tolist(), pads[len(pads) // 2 :].tolist()
    return None if any(before[:2] + after[:2]) else [*before[2:], *after[2:]]
