"""Constant shapes give what shapes read from tensors gave, at every batch size."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from compress.onnx_graph.shapes import fold_shapes
from tests.onnx_graph.graphs import graph, kinds, rewritten, run, value


def reshaped(shape: tuple, **attributes: int) -> onnx.ModelProto:
    """y: x flattened, doubled and in its old shape again."""
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["f"]),
        helper.make_node("Add", ["f", "f"], ["g"]),
        helper.make_node("Shape", ["x"], ["s"], **attributes),
        helper.make_node("Reshape", ["g", "s"], ["y"]),
    ]
    return graph(nodes, [value("x", shape)], [value("y", ["?"] * len(shape))], {"flat": np.array([-1])})


@pytest.mark.parametrize("shape", [("batch", 6, 4, 5), (2, 6, 4, "w"), (2, 6), ("batch",)])
def test_equal_outputs_and_no_shape_is_read(shape: tuple) -> None:
    after, count = rewritten(reshaped(shape), fold_shapes)
    assert (count, kinds(after)) == (1, ["Reshape", "Add", "Reshape"])
    for size in (1, 3):
        x = np.random.default_rng(0).normal(size=[s if isinstance(s, int) else size for s in shape]).astype(np.float32)
        np.testing.assert_array_equal(run(after, x=x)[0], 2 * x)


def test_the_output_has_the_shape_that_other_rewrites_need() -> None:
    parsed = ir.from_proto(reshaped(("batch", 6, 4, 5)))
    parsed.graph.outputs[0].shape = ir.Shape([None] * 4)  # as the exporter leaves it
    fold_shapes(parsed)
    assert list(parsed.graph.outputs[0].shape)[1:] == [6, 4, 5]


def test_two_open_dimensions_are_left() -> None:
    after, count = rewritten(reshaped(("batch", 6, "h", 5)), fold_shapes)
    assert count == 0 and "Shape" in kinds(after)


def test_a_dimension_of_zero_is_left() -> None:
    after, count = rewritten(reshaped(("batch", 0, 5)), fold_shapes)  # in a constant shape 0 would mean: as before
    assert count == 0 and "Shape" in kinds(after)


@pytest.mark.parametrize(("attributes", "rank"), [({"start": 1}, 2), ({"end": 1}, 1), ({"end": -1}, 2)])
def test_part_of_a_shape_is_left(attributes: dict, rank: int) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], **attributes),
        helper.make_node("Reshape", ["z", "s"], ["y"]),
    ]
    model = graph(nodes, [value("x", ("b", 6, 4)), value("z", ("n",))], [value("y", ["?"] * rank)], {})
    after, count = rewritten(model, fold_shapes)
    assert count == 0 and kinds(after) == ["Shape", "Reshape"]


def test_unknown_rank_is_left() -> None:
    model = reshaped(("batch", 6, 4, 5))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert fold_shapes(ir.from_proto(model)) == 0


def test_a_shape_that_is_read_elsewhere_stays() -> None:
    model = reshaped(("batch", 6, 4, 5))
    model.graph.node.append(helper.make_node("Identity", ["s"], ["size"]))
    model.graph.output.append(value("size", [4], TensorProto.INT64))
    after, count = rewritten(model, fold_shapes)
    assert count == 1 and "Shape" in kinds(after)
    x = np.ones((3, 6, 4, 5), np.float32)
    assert [found.tolist() for found in run(after, x=x)[1:]] == [[3, 6, 4, 5]]


def test_equal_shapes_are_written_once() -> None:
    nodes = [helper.make_node("Shape", ["x"], ["s"])]
    nodes += [helper.make_node("Reshape", [f"z{i}", "s"], [f"y{i}"]) for i in range(3)]
    outputs = [value(f"y{i}", ["?", "?"]) for i in range(3)]
    inputs = [value("x", ("b", 6)), *(value(f"z{i}", ("n",)) for i in range(3))]
    after, count = rewritten(graph(nodes, inputs, outputs, {}), fold_shapes)
    assert count == 3 and [list(tensor.dims) for tensor in after.graph.initializer] == [[2]]
