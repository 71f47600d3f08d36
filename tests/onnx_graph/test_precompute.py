"""What follows from constants alone is a constant in the file, unless it would be larger."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from compress.onnx_graph import precompute
from tests.onnx_graph.graphs import graph, kinds, run, simplified, value


def fold_rows(model: onnx.ModelProto, *settings: Any, **more: Any) -> onnx.ModelProto:
    return ir.to_proto(precompute.fold_rows(ir.from_proto(model), *settings, **more))


def content() -> onnx.ModelProto:
    """y = x (2 w) + the sum of w + dequantized v: a product of weights, a large expansion and int8 weights."""
    nodes = [
        helper.make_node("Add", ["w", "w"], ["doubled"]),
        helper.make_node("ReduceSum", ["w"], ["sum"], keepdims=0),
        helper.make_node("Expand", ["sum", "size"], ["large"]),
        helper.make_node("DequantizeLinear", ["v", "scale"], ["dequantized"]),
        helper.make_node("Transpose", ["dequantized"], ["turned"]),
        helper.make_node("MatMul", ["x", "doubled"], ["p"]),
        helper.make_node("Add", ["p", "turned"], ["q"]),
        helper.make_node("Add", ["q", "large"], ["y"]),
    ]
    random = np.random.default_rng(0)
    constants = {
        "w": random.normal(size=(4, 4)).astype(np.float32),
        "v": random.integers(-9, 9, (4, 4)).astype(np.int8),
        "scale": np.float32(0.5),
        "size": np.array([100_000, 1, 4]),
    }
    return graph(nodes, [value("x", ("b", 4))], [value("y", ["?"] * 3)], constants)


def test_equal_outputs_in_fewer_nodes() -> None:
    before = content()
    after = simplified(before)
    assert sorted(kinds(after)) == sorted(["Expand", "DequantizeLinear", "Transpose", "MatMul", "Add", "Add"])
    x = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    np.testing.assert_allclose(run(after, x=x)[0], run(before, x=x)[0], rtol=1e-6)
    names = {tensor.name for tensor in after.graph.initializer}
    assert "v" in names and "w" not in names, "what nothing reads any more is not in the file"


def test_branches_read_what_is_outside() -> None:
    branch = helper.make_graph(
        [helper.make_node("Add", ["w", "w"], ["o"])],
        "b",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("If", ["c"], ["i"], then_branch=branch, else_branch=branch),
        helper.make_node("Add", ["x", "i"], ["y"]),
    ]
    inputs = [value("x", (4,)), value("c", (), TensorProto.BOOL)]
    model = graph(nodes, inputs, [value("y", ["?"])], {"w": np.ones(4, np.float32)})
    after = simplified(model)
    assert kinds(after) == ["If", "Add"]
    np.testing.assert_array_equal(run(after, x=np.zeros(4, np.float32), c=np.array(True))[0], np.full(4, 2))


def embedded(width: int = 64, batch: int | str = "b") -> onnx.ModelProto:
    """y = x + W sin(t · f) for a timestep t, and W of many bytes."""
    nodes = [
        helper.make_node("Unsqueeze", ["t", "one"], ["u"]),
        helper.make_node("Cast", ["u"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["c", "f"], ["angle"]),
        helper.make_node("Sin", ["angle"], ["s"]),
        helper.make_node("Cos", ["angle"], ["k"]),
        helper.make_node("Concat", ["s", "k"], ["both"], axis=-1),
        helper.make_node("DequantizeLinear", ["w", "scale"], ["weights"]),
        helper.make_node("MatMul", ["both", "weights"], ["p"]),
        helper.make_node("Add", ["x", "p"], ["y"]),
    ]
    random = np.random.default_rng(0)
    constants = {
        "one": np.array([1]),
        "f": random.random(width // 2).astype(np.float32),
        "w": random.integers(-9, 9, (width, 3)).astype(np.int8),
        "scale": np.float32(0.1),
    }
    inputs = [value("x", (batch, 3)), value("t", (batch,), TensorProto.INT64)]
    return graph(nodes, inputs, [value("y", (batch, 3))], constants)


@pytest.mark.parametrize("batch", ["b", 1, 3])
@pytest.mark.parametrize("values", [(4, 17, 999), (0, 1, 2)])
def test_what_follows_from_known_timesteps_is_a_table(values: tuple[int, ...], batch: int | str) -> None:
    before = embedded(batch=batch)
    gathers = 1 if values[0] == 0 else 2
    after = fold_rows(before, "t", values)
    onnx.checker.check_model(after, full_check=True)
    assert kinds(after) == ["Gather"] * gathers + ["Add"]
    assert "w" not in {tensor.name for tensor in after.graph.initializer}, "nor what dequantized it"
    x = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    size = 1 if batch == 1 else 3
    for start in range(0, 3, size):
        part, times = x[start : start + size], np.array(values)[start : start + size]
        wanted = run(before, optimize=False, x=part, t=times)[0]
        np.testing.assert_array_equal(run(after, x=part, t=times)[0], wanted)


@pytest.mark.parametrize("timestep", [5, 1000, 3])
def test_at_any_other_timestep_the_table_raises(timestep: int) -> None:
    model = fold_rows(embedded(), "t", (4, 17, 999))
    with pytest.raises(Exception, match=r"out of data bounds"):
        run(model, x=np.zeros((1, 3), np.float32), t=np.array([timestep]))


def test_a_table_that_is_larger_is_not_made() -> None:
    small, large = embedded(width=2), embedded(width=900)
    assert kinds(fold_rows(small, "t", range(500), if_smaller=True)) == kinds(small)
    assert fold_rows(large, "t", range(200), if_smaller=True).ByteSize() < large.ByteSize()


@pytest.mark.parametrize("kind", ["sum", "concatenation"])
def test_what_mixes_the_samples_of_a_batch_stays(kind: str) -> None:
    mixed = {
        "sum": helper.make_node("ReduceSum", ["c"], ["mixed"], keepdims=1),
        "concatenation": helper.make_node("Concat", ["c", "c"], ["mixed"], axis=0),
    }[kind]
    nodes = [helper.make_node("Cast", ["t"], ["c"], to=TensorProto.FLOAT), mixed]
    nodes.append(helper.make_node("Add", ["x", "mixed"], ["y"]))
    inputs = [value("x", (4,)), value("t", ("b",), TensorProto.INT64)]
    model = graph(nodes, inputs, [value("y", (4,))], {})
    found = run(fold_rows(model, "t", (1, 2)), x=np.zeros(4, np.float32), t=np.array([1, 2]))[0]
    np.testing.assert_array_equal(found, [3] * 4 if kind == "sum" else [1, 2, 1, 2])
