"""What follows from constants alone is a constant in the file, unless it would be larger."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from compress.onnx_graph.known import fold_constants
from tests.onnx_graph.graphs import graph, kinds, run, value


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
        "size": np.array([4, 4]),
    }
    return graph(nodes, [value("x", ("b", 4))], [value("y", ["?", "?"])], constants)


def test_equal_outputs_in_fewer_nodes() -> None:
    before, after = content(), content()
    assert fold_constants(after) == 2
    onnx.checker.check_model(after, full_check=True)
    assert sorted(kinds(after)) == sorted(["Expand", "DequantizeLinear", "Transpose", "MatMul", "Add", "Add"])
    x = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    np.testing.assert_allclose(run(after, x=x)[0], run(before, x=x)[0], rtol=1e-6)
    names = {tensor.name for tensor in after.graph.initializer}
    assert "v" in names and "w" not in names, "what nothing reads any more is not in the file"


def test_twice_changes_nothing_more() -> None:
    model = content()
    fold_constants(model)
    assert fold_constants(model) == 0


def test_branches_are_left() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["o"])],
        "b",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("If", ["c"], ["i"], then_branch=branch, else_branch=branch),
        helper.make_node("Add", ["x", "i"], ["y"]),
    ]
    constants = {"w": np.ones(4, np.float32), "c": np.array(True)}
    model = graph(nodes, [value("x", (4,))], [value("y", ["?"])], constants)
    assert fold_constants(model) == 0 and kinds(model) == ["If", "Add"]
