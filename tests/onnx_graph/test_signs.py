"""A shifted factor is the same factor."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress.onnx_graph.signs import sign_second
from tests.onnx_graph.graphs import graph, kinds, rewritten, run, value

UNSIGNED = np.uint8(200)


def product(
    second: int = TensorProto.UINT8,
    zero: np.generic = UNSIGNED,
    float_first: bool = False,
    first: int = TensorProto.UINT8,
) -> onnx.ModelProto:
    """a [2,3,4] × b [2,4,5], both of bytes unless a is of floats."""
    nodes = [helper.make_node("DequantizeLinear", ["b", "scale", "zero"], ["v"])]
    if float_first:
        nodes.append(helper.make_node("MatMul", ["a", "v"], ["y"]))
    else:
        nodes.append(helper.make_node("DequantizeLinear", ["a", "scale", "other"], ["u"]))
        nodes.append(helper.make_node("MatMul", ["u", "v"], ["y"]))
    inputs = [
        value("a", (2, 3, 4), TensorProto.FLOAT if float_first else first),
        value("b", (2, 4, 5), second),
    ]
    constants = {"scale": np.float32(0.03), "zero": zero}
    if not float_first:
        constants["other"] = np.uint8(11) if first == TensorProto.UINT8 else np.int8(11)
    return graph(nodes, inputs, [value("y", (2, 3, 5))], constants)


@pytest.mark.parametrize("zero", [0, 127, 128, 255])
def test_equal_products(zero: int) -> None:
    before = product(zero=np.uint8(zero))
    after, count = rewritten(before, sign_second)
    assert count == 1 and kinds(after).count("QuantizeLinear") == 1
    random = np.random.default_rng(0)
    a, b = (random.integers(0, 256, shape).astype(np.uint8) for shape in ((2, 3, 4), (2, 4, 5)))
    b.flat[:2] = 0, 255
    np.testing.assert_array_equal(run(after, optimize=False, a=a, b=b)[0], run(before, optimize=False, a=a, b=b)[0])
    types = {tensor.name: tensor.data_type for tensor in after.graph.initializer}
    assert TensorProto.INT8 in types.values()


@pytest.mark.parametrize(
    "before",
    [product(TensorProto.INT8, np.int8(5)), product(float_first=True), product(first=TensorProto.INT8)],
    ids=["signed already", "a factor of floats", "a first factor that is signed"],
)
def test_other_products_are_left(before: onnx.ModelProto) -> None:
    after, count = rewritten(before, sign_second)
    assert count == 0 and kinds(after) == kinds(before)
