"""Products with ones go; any other product stays."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress.onnx_graph.ones import drop_ones
from tests.onnx_graph.graphs import graph, kinds, rewritten, run, value


def product(factor: np.ndarray, swapped: bool = False) -> onnx.ModelProto:
    """y = (x · factor) + 1."""
    inputs = ["factor", "x"] if swapped else ["x", "factor"]
    nodes = [helper.make_node("Mul", inputs, ["p"]), helper.make_node("Add", ["p", "one"], ["y"])]
    shape = np.broadcast_shapes(factor.shape, (3,))
    whole = TensorProto.INT64
    return graph(nodes, [value("x", (3,), whole)], [value("y", shape, whole)], {"factor": factor, "one": np.int64(1)})


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("ones", [np.int64(1), np.ones(1, np.int64), np.ones(3, np.int64)])
def test_ones_go(ones: np.ndarray, swapped: bool) -> None:
    after, count = rewritten(product(ones, swapped), drop_ones)
    assert count == 1 and kinds(after) == ["Add"]
    x = np.array([5, -7, 0])
    np.testing.assert_array_equal(run(after, x=x)[0], x + 1)


@pytest.mark.parametrize("factor", [np.int64(2), np.array([1, 1, 2]), np.ones((2, 3), np.int64)])
def test_any_other_factor_stays(factor: np.ndarray) -> None:
    before = product(factor)
    after, count = rewritten(before, drop_ones)
    assert count == 0 and kinds(after) == ["Mul", "Add"]


def test_weights_that_are_ones_stay() -> None:
    nodes = [helper.make_node("Mul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "w"], ["y"])]
    before = graph(nodes, [value("x", (3,))], [value("y", (3,))], {"w": np.ones(3, np.float32)})
    assert rewritten(before, drop_ones)[1] == 0


def test_as_many_ones_as_there_are_samples_go() -> None:
    nodes = [
        helper.make_node("Shape", ["sample"], ["size"], start=0, end=1),
        helper.make_node("Expand", ["one", "size"], ["ones"]),
        helper.make_node("Mul", ["timestep", "ones"], ["p"]),
        helper.make_node("Cast", ["p"], ["y"], to=TensorProto.FLOAT),
    ]
    inputs = [value("sample", ("batch", 2)), value("timestep", ("batch",), TensorProto.INT64)]
    before = graph(nodes, inputs, [value("y", ("batch",))], {"one": np.int64(1)})
    for info in before.graph.value_info:  # as the exporter names it
        if info.name in ("p", "ones"):
            info.CopyFrom(value(info.name, ("batch",), TensorProto.INT64))
    after, count = rewritten(before, drop_ones)
    assert count == 1 and kinds(after) == ["Cast"]


def test_a_product_that_is_the_output_stays() -> None:
    nodes = [helper.make_node("Mul", ["x", "one"], ["y"])]
    whole = TensorProto.INT64
    before = graph(nodes, [value("x", (3,), whole)], [value("y", (3,), whole)], {"one": np.int64(1)})
    assert rewritten(before, drop_ones)[1] == 0
