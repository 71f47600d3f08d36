"""x w + b in one kernel is what it was in two; what only looks like it is left alone."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from compress.onnx_graph.affine import merge_affine
from tests.conftest import assert_close_db
from tests.onnx_graph.graphs import graph, kinds, rewritten, run, value

RANDOM = np.random.default_rng(0)
W, B = (RANDOM.normal(size=6).astype(np.float32) for _ in range(2))
PER_CHANNEL = {"w": W.reshape(6, 1, 1), "b": B.reshape(6, 1, 1)}


def affine(
    constants: dict, shape: tuple = ("batch", 6, 4, 5), swapped: bool = False, kind: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """y = x w + b."""
    factors, terms = ["x", "w"], ["p", "b"]
    if swapped:
        factors, terms = factors[::-1], terms[::-1]
    nodes = [helper.make_node("Mul", factors, ["p"]), helper.make_node("Add", terms, ["y"])]
    return graph(nodes, [value("x", shape, kind)], [value("y", shape, kind)], constants)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize(
    ("shape", "leading"),
    [(("batch", 6, 4, 5), False), ((3, 6, 4, 5), True), (("batch", 6, 7), False), ((3, 6, "l"), True), ((3, 6), False)],
)
def test_equal_outputs(shape: tuple, leading: bool, optimize: bool, swapped: bool) -> None:
    form = ((1,) if leading else ()) + (6,) + (1,) * (len(shape) - 2)
    before = affine({"w": W.reshape(form), "b": B.reshape(form)}, shape, swapped)
    after, gone = rewritten(before, merge_affine)
    assert (gone, kinds(after)) == (1, ["BatchNormalization"])
    x = 100 * numbers(*(size if isinstance(size, int) else 3 for size in shape))
    assert_close_db(run(before, optimize, x=x)[0], run(after, optimize, x=x)[0], 130)


@pytest.mark.parametrize(
    ("constants", "shape"),
    [
        ({"w": W.reshape(6, 1, 1), "b": B[:1].reshape(1, 1, 1)}, (2, 6, 4, 5)),  # one bias for all channels
        ({"w": W[:1], "b": B[:1]}, (2, 6, 4, 5)),
        ({"w": W, "b": B}, (2, 6, 6, 6)),  # along the width
        ({"w": W.reshape(6, 1), "b": B.reshape(6, 1)}, (2, 6, 6, 6)),  # along the height
        ({"w": W.reshape(6, 1, 1), "b": B.reshape(6, 1, 1)}, (6, 4, 5)),  # along the batch
        ({"w": W.reshape(6, 1, 1, 1), "b": B.reshape(6, 1, 1, 1)}, (6, 6, 4, 5)),
        ({"w": numbers(6, 4, 1), "b": B.reshape(6, 1, 1)}, (2, 6, 4, 5)),
        (PER_CHANNEL, (2, "c", 4, 5)),  # might be 1, and widened
    ],
)
def test_other_shapes_are_left(constants: dict, shape: tuple) -> None:
    before = affine(constants, shape)
    after, gone = rewritten(before, merge_affine)
    assert gone == 0 and kinds(after) == ["Mul", "Add"]


def test_widening_of_one_channel_is_left() -> None:
    nodes = [helper.make_node("Mul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
    before = graph(nodes, [value("x", (2, 1, 4, 5))], [value("y", (2, 6, 4, 5))], PER_CHANNEL)
    assert rewritten(before, merge_affine)[1] == 0


def test_unknown_rank_is_left() -> None:
    model = affine(PER_CHANNEL)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert merge_affine(ir.from_proto(model)) == 0


def test_integers_are_left() -> None:
    constants = {name: np.arange(6).reshape(6, 1, 1) for name in "wb"}
    after, gone = rewritten(affine(constants, kind=TensorProto.INT64), merge_affine)
    assert gone == 0 and kinds(after) == ["Mul", "Add"]


@pytest.mark.parametrize("product", ["read", "output"])
def test_a_product_that_is_needed_elsewhere_is_left(product: str) -> None:
    model = affine(PER_CHANNEL)
    if product == "read":
        model.graph.node.append(helper.make_node("Neg", ["p"], ["z"]))
    model.graph.output.append(value("z" if product == "read" else "p", ("batch", 6, 4, 5)))
    after, gone = rewritten(model, merge_affine)
    assert gone == 0 and kinds(after)[:2] == ["Mul", "Add"]


def test_a_constant_that_a_caller_may_replace_is_left() -> None:
    model = affine(PER_CHANNEL)
    model.graph.input.append(value("b", (6, 1, 1)))
    assert rewritten(model, merge_affine)[1] == 0


def test_shared_constants_are_written_once_and_stay_for_other_readers() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["p0"]),
        helper.make_node("Add", ["p0", "w"], ["y0"]),  # weight and bias are one constant
        helper.make_node("Mul", ["y0", "w"], ["p1"]),
        helper.make_node("Add", ["p1", "b"], ["y1"]),
        helper.make_node("Sub", ["y1", "b"], ["y2"]),
    ]
    shape = ("batch", 6, 4, 5)
    before = graph(nodes, [value("x", shape)], [value("y1", shape), value("y2", shape)], PER_CHANNEL)
    after, gone = rewritten(before, merge_affine)
    assert (gone, kinds(after)) == (2, ["BatchNormalization", "BatchNormalization", "Sub"])
    x = numbers(3, 6, 4, 5)
    for old, new in zip(run(before, x=x), run(after, x=x), strict=True):
        assert_close_db(old, new, 130)
    # w and b as vectors, mean and variance; b as it was, for Sub
    assert sorted(list(tensor.dims) for tensor in after.graph.initializer) == [[6], [6], [6], [6], [6, 1, 1]]


def test_nodes_without_optional_inputs_are_passed_over() -> None:
    nodes = [helper.make_node("Clip", ["x", "", "b"], ["y"])]
    model = graph(nodes, [value("x", (2, 6))], [value("y", (2, 6))], {"b": np.float32(1)})
    after, gone = rewritten(model, merge_affine)
    assert gone == 0 and kinds(after) == ["Clip"]
