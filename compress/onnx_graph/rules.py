"""Rewrite rules that onnxscript lacks, in its own form: what is looked for, what stands in its place, and when."""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import RewriteRule


def _by_ones(_context: Any, x: ir.Value, ones: ir.Value, product: ir.Value) -> bool:
    producer = ones.producer()
    if producer is not None and producer.op_type == "Expand":
        ones = producer.inputs[0]
    known = x.dtype == ir.DataType.INT64 and x.shape is not None and x.shape == product.shape
    return known and _is_constant(ones) and bool((ones.const_value.numpy() == 1).all())


# Products of int64 with ones, a constant or an expanded one, that leave the shape as it is: timesteps times a one for
# every sample. Weights that are ones, as in a net that was never trained, stay: what is measured on such a net is to
# hold for others.
DROP_ONES = RewriteRule(
    lambda op, x, ones: op.Mul(x, ones, _outputs=["product"]), lambda op, x, **_: op.Identity(x), _by_ones
)


def _of_more(_context: Any, x: ir.Value, axes: ir.Value) -> bool:
    known = ir.convenience.get_const_tensor(axes)
    if x.shape is None or known is None:
        return False
    sizes = [x.shape[int(axis)] for axis in known.numpy().reshape(-1)]
    return all(isinstance(size, int) and size != 1 for size in sizes)


# Axes longer than 1: PyTorch leaves them as they are where it is to squeeze them, and ONNX knows no such node.
DROP_SQUEEZE = RewriteRule(lambda op, x, axes: op.Squeeze(x, axes), lambda op, x, **_: op.Identity(x), _of_more)


def _by_zeros(_context: Any, fill: ir.Value, padded: ir.Value, **_: Any) -> bool:
    mode = padded.producer().attributes.get_string("mode", "constant")
    return mode == "constant" and _is_constant(fill) and not fill.const_value.numpy().any()


def _rounded(op: Any, x: ir.Value, scale: ir.Value, zero: ir.Value) -> ir.Value:
    return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero), scale, zero)


# Zeros are padded behind a quantization, which keeps them, where a convolution takes them up by onnxscript's rule.
PAD_ROUNDED = RewriteRule(
    lambda op, x, pads, fill, scale, zero: _rounded(op, op.Pad(x, pads, fill, _outputs=["padded"]), scale, zero),
    lambda op, x, pads, fill, scale, zero, **_: op.Pad(_rounded(op, x, scale, zero), pads, fill),
    _by_zeros,
)


def _per_channel(_context: Any, x: ir.Value, w: ir.Value, b: ir.Value) -> bool:
    if x.shape is None or len(x.shape) < 2 or not (_is_constant(w) and _is_constant(b)):
        return False
    channels = (x.shape[1], *[1] * (len(x.shape) - 2))
    fits = all(tuple(each.const_value.shape) in (channels, (1, *channels)) for each in (w, b))
    return fits and b.const_value.dtype.is_floating_point()


def _normalization(op: Any, x: ir.Value, w: ir.Value, b: ir.Value) -> ir.Value:
    scale, shift = (each.const_value.numpy().reshape(-1) for each in (w, b))
    arrays = np.zeros_like(scale), np.ones_like(scale), scale, shift
    mean, variance, *affine = (op.Constant(value=ir.tensor(array)) for array in arrays)
    return op.BatchNormalization(x, *affine, mean, variance, epsilon=0.0)  # the factor 1 / √(1 + 0) is exact


# One BatchNormalization of mean 0 and variance 1 in place of x w + b, with which group norms end. x: floats [b,c,...],
# rank and c known; w, b: constants of one number a channel, [c,1,...] or [1,c,1,...].
SCALE_AND_SHIFT = RewriteRule(lambda op, x, w, b: op.Add(op.Mul(x, w), b), _normalization, _per_channel)


def _of_patches(_context: Any, split: ir.Value, joined: ir.Value, **_: Any) -> bool:
    before, after = (ir.convenience.get_const_tensor(shape) for shape in (split, joined))
    if before is None or after is None or len(before.numpy()) != 6 or len(after.numpy()) != 4:
        return False
    _, rows, columns, high, wide, channels = before.numpy().tolist()
    return high == wide and after.numpy().tolist()[1:] == [channels, rows * high, columns * wide]


def _depth_to_space(op: Any, x: ir.Value, split: ir.Value, **_: Any) -> ir.Value:
    batch, rows, columns, size, _, channels = ir.convenience.get_const_tensor(split).numpy().tolist()
    shape = op.Constant(value=ir.tensor(np.array([batch, rows, columns, size * size * channels])))
    deep = op.Transpose(op.Reshape(x, shape), perm=[0, 3, 1, 2])
    return op.DepthToSpace(deep, blocksize=size, mode="DCR")


# Patches laid side by side, as transformers of patches end, by an operator made for it: NPUs have no six axes.
DEPTH_TO_SPACE = RewriteRule(
    lambda op, x, split, joined: op.Reshape(
        op.Einsum(op.Reshape(x, split), equation="nhwpqc->nchpwq"), joined, _allow_other_attributes=True
    ),
    _depth_to_space,
    _of_patches,
)


def _is_constant(value: ir.Value) -> bool:
    return value.const_value is not None and not value.is_graph_input()
