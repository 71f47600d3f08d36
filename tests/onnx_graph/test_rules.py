"""What a rule puts in the place of nodes computes the same; what only looks like them is left alone."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from compress.onnx_graph.simplify import merge_affine
from tests.conftest import assert_close_db
from tests.onnx_graph.graphs import graph, kinds, rewritten, run, simplified, value

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
    after = simplified(product(ones, swapped))
    assert kinds(after) == ["Add"]
    x = np.array([5, -7, 0])
    np.testing.assert_array_equal(run(after, x=x)[0], x + 1)


@pytest.mark.parametrize("factor", [np.int64(2), np.array([1, 1, 2]), np.ones((2, 3), np.int64)])
def test_any_other_factor_stays(factor: np.ndarray) -> None:
    assert kinds(simplified(product(factor))) == ["Mul", "Add"]


def test_weights_that_are_ones_stay() -> None:
    nodes = [helper.make_node("Mul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "w"], ["y"])]
    before = graph(nodes, [value("x", (3,))], [value("y", (3,))], {"w": np.ones(3, np.float32)})
    assert kinds(simplified(before)) == ["Mul", "Add"]


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
    assert kinds(simplified(before)) == ["Cast"]


DOWN = [0, 0, 0, 0, 0, 0, 1, 1]  # as diffusers pads before it halves an image


def padded(
    pads: list[int], own: list[int], int8: bool, fill: float = 0.0, other_reader: bool = False, **attributes: str
) -> onnx.ModelProto:
    """x, padded, perhaps quantized, convolved."""
    random = np.random.default_rng(0)
    constants = {"pads": np.array(pads), "fill": np.float32(fill), "w": random.normal(size=(3, 2, 3, 3)).astype("f")}
    nodes = [helper.make_node("Pad", ["x", "pads", "fill"], ["p"], **attributes)]
    if int8:
        constants |= {"scale": np.float32(0.03), "zero": np.uint8(101)}
        nodes.append(helper.make_node("QuantizeLinear", ["p", "scale", "zero"], ["q"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]))
    nodes.append(helper.make_node("Conv", [nodes[-1].output[0], "w"], ["y"], strides=[2, 2], pads=own))
    outputs = [value("y", ["?"] * 4)]
    if other_reader:
        nodes.append(helper.make_node("Identity", ["p"], ["z"]))
        outputs.append(value("z", ["?"] * 4))
    return graph(nodes, [value("x", ("batch", 2, 6, 6))], outputs, constants)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("own", [[0, 0, 0, 0], [1, 0, 2, 1]])
@pytest.mark.parametrize("pads", [DOWN, [0, 0, 2, 0, 0, 0, 1, 3]])
def test_a_convolution_pads_by_itself(pads: list[int], own: list[int], int8: bool) -> None:
    before = padded(pads, own, int8)
    after = simplified(before)
    assert "Pad" not in kinds(after)
    x = np.random.default_rng(1).normal(size=(3, 2, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(run(after, x=x)[0], run(before, x=x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"pads": [0, 1, 0, 0, 0, -1, 1, 1]},  # channels too
        {"pads": [0, 0, -1, 0, 0, 0, 1, 1]},  # crops
        {"fill": 0.5},
        {"mode": "reflect"},
        {"other_reader": True},
    ],
)
def test_other_pads_are_left(changes: dict, int8: bool) -> None:
    before = padded(**{"pads": DOWN, "own": [0] * 4, "int8": int8, **changes})
    assert "Pad" in kinds(simplified(before))


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
    after = simplified(reshaped(shape))
    assert kinds(after) == ["Reshape", "Add", "Reshape"]
    for size in (1, 3):
        x = np.random.default_rng(0).normal(size=[s if isinstance(s, int) else size for s in shape]).astype(np.float32)
        np.testing.assert_array_equal(run(after, x=x)[0], 2 * x)


def test_two_open_dimensions_are_left() -> None:
    assert "Shape" in kinds(simplified(reshaped(("batch", 6, "h", 5))))


@pytest.mark.parametrize(("attributes", "size"), [({"start": 1}, 24), ({"end": 1}, 3), ({"end": -1}, 18)])
def test_part_of_a_shape_is_that_part(attributes: dict, size: int) -> None:
    nodes = [helper.make_node("Shape", ["x"], ["s"], **attributes), helper.make_node("Reshape", ["z", "s"], ["y"])]
    rank = {24: 2, 3: 1, 18: 2}[size]
    model = graph(nodes, [value("x", ("b", 6, 4)), value("z", ("n",))], [value("y", ["?"] * rank)], {})
    feeds = {"x": np.zeros((3, 6, 4), np.float32), "z": np.arange(size, dtype=np.float32)}
    np.testing.assert_array_equal(run(simplified(model), **feeds)[0], run(model, **feeds)[0])


def test_a_shape_that_is_read_elsewhere_stays() -> None:
    model = reshaped(("batch", 6, 4, 5))
    model.graph.node.append(helper.make_node("Identity", ["s"], ["size"]))
    model.graph.output.append(value("size", [4], TensorProto.INT64))
    after = simplified(model)
    assert "Shape" in kinds(after)
    x = np.ones((3, 6, 4, 5), np.float32)
    assert [found.tolist() for found in run(after, x=x)[1:]] == [[3, 6, 4, 5]]


def test_equal_shapes_are_written_once() -> None:
    nodes = [helper.make_node("Shape", ["x"], ["s"])]
    nodes += [helper.make_node("Reshape", [f"z{i}", "s"], [f"y{i}"]) for i in range(3)]
    outputs = [value(f"y{i}", ["?", "?"]) for i in range(3)]
    inputs = [value("x", ("b", 6)), *(value(f"z{i}", ("n",)) for i in range(3))]
    after = simplified(graph(nodes, inputs, outputs, {}))
    assert [list(tensor.dims) for tensor in after.graph.initializer] == [[2]]


@pytest.mark.parametrize(("size", "left"), [(4, []), (1, ["Squeeze"]), ("n", ["Squeeze"])])
def test_an_axis_that_is_longer_than_one_is_not_squeezed(size: int | str, left: list[str]) -> None:
    """PyTorch squeezes no such axis, and its exporter writes a node that ONNX refuses."""
    nodes = [helper.make_node("Squeeze", ["x", "axes"], ["s"]), helper.make_node("Neg", ["s"], ["y"])]
    model = graph(nodes, [value("x", ("batch", "n", 5))], [value("y", ("batch", 5))], {"axes": np.array([1])})
    if isinstance(size, int):
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = size
    if size == 4:
        model.graph.output[0].CopyFrom(value("y", ("batch", 4, 5)))
        model.graph.ClearField("value_info")
    assert kinds(simplified(model)) == [*left, "Neg"]


def patches(equation: str = "nhwpqc->nchpwq", joined: tuple = (5, 6, 8)) -> onnx.ModelProto:
    """3×4 patches of 2×2 pixels and 5 channels, laid side by side."""
    constants = {"split": np.array([-1, 3, 4, 2, 2, 5]), "joined": np.array([2, *joined])}
    nodes = [
        helper.make_node("Reshape", ["x", "split"], ["a"]),
        helper.make_node("Einsum", ["a"], ["e"], equation=equation),
        helper.make_node("Reshape", ["e", "joined"], ["y"]),
    ]
    return graph(nodes, [value("x", (2, 12, 20))], [value("y", (2, *joined))], constants)


def test_patches_are_laid_side_by_side() -> None:
    before = patches()
    after = simplified(before)
    assert kinds(after) == ["Reshape", "Transpose", "DepthToSpace"]
    x = numbers(2, 12, 20)
    np.testing.assert_array_equal(run(after, x=x)[0], run(before, x=x)[0])


@pytest.mark.parametrize("changes", [{"equation": "nhwpqc->nchqwp"}, {"joined": (10, 6, 4)}])
def test_other_orders_of_patches_are_left(changes: dict) -> None:
    before = patches(**changes)
    after = simplified(before)
    assert "DepthToSpace" not in kinds(after)
    x = numbers(2, 12, 20)
    np.testing.assert_array_equal(run(after, x=x)[0], run(before, x=x)[0])
