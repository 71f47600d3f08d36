"""Merged layers compute what the separate ones did."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.onnx_graph.merge_linears import merge_linears

WIDTH = 6


def model(sizes: list[int], int8: bool, unsqueeze: bool, other: str = "") -> onnx.ModelProto:
    """Gemms of `sizes` outputs on one input [b,6]. other: what is unlike about the first of them."""
    random = np.random.default_rng(0)
    nodes, constants = [], [numpy_helper.from_array(np.array([2, 3]), "axes")]
    for i, size in enumerate(sizes):
        attributes = {"transB": 1}
        weight = random.normal(size=(size, WIDTH)).astype(np.float32)
        if i == 0 and other == "transposed":
            attributes, weight = {}, weight.T.copy()
        if int8 and not (i == 0 and other):
            parts = [np.clip(weight * 50, -127, 127).astype(np.int8), np.full(size, 0.02, "f"), np.zeros(size, np.int8)]
            names = [f"w{i}.{j}" for j in range(3)]
            constants += [numpy_helper.from_array(part, name) for part, name in zip(parts, names, strict=True)]
            nodes.append(helper.make_node("DequantizeLinear", names, [f"w{i}"], axis=0))
        else:
            constants.append(numpy_helper.from_array(weight, f"w{i}"))
        constants.append(numpy_helper.from_array(random.normal(size=size).astype(np.float32), f"b{i}"))
        attributes |= {"alpha": 2.0} if i == 0 and other == "scaled" else {}
        nodes.append(helper.make_node("Gemm", ["x", f"w{i}", f"b{i}"], [f"g{i}"], **attributes))
        if unsqueeze and not (i == 0 and other == "plain"):
            nodes.append(helper.make_node("Unsqueeze", [f"g{i}", "axes"], [f"u{i}"]))
        nodes.append(helper.make_node("Identity", [nodes[-1].output[0]], [f"y{i}"]))
    shapes = [
        ["b", size, *([1, 1] if unsqueeze and not (i == 0 and other == "plain") else [])]
        for i, size in enumerate(sizes)
    ]
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, shape) for i, shape in enumerate(shapes)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", WIDTH])], outputs, constants
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(content: onnx.ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(content.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(size=(3, WIDTH)).astype(np.float32)
    return list(session.run(None, {"x": x}))


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("unsqueeze", [False, True])
@pytest.mark.parametrize("other", ["", "transposed", "scaled", "plain"])
@pytest.mark.parametrize("sizes", [[4, 5, 1], [2, 2], [3]])
def test_equal_outputs(sizes: list[int], int8: bool, unsqueeze: bool, other: str) -> None:
    before = model(sizes, int8, unsqueeze, other)
    merged = ir.from_proto(before)
    gone = merge_linears(merged)
    after = ir.to_proto(merged)
    onnx.checker.check_model(after, full_check=True)
    for old, new in zip(run(before), run(after), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)
    alike = len(sizes) - (other in ("transposed", "scaled") or (other == "plain" and int8))
    assert gone == max(alike - 1, 0)
    used = {name for node in after.graph.node for name in node.input}
    assert {tensor.name for tensor in after.graph.initializer} <= used
    kinds = [node.op_type for node in after.graph.node]
    assert kinds.count("Gemm") == len(sizes) - gone
    if gone and unsqueeze and not other:
        assert kinds.count("Unsqueeze") == 1


def test_bytes_times_bytes_become_one_product_of_bytes(tmp_path: Path) -> None:
    before = model([4, 5, 1], int8=True, unsqueeze=True)
    graph = before.graph
    graph.initializer.append(numpy_helper.from_array(np.float32(0.02), "scale"))
    graph.initializer.append(numpy_helper.from_array(np.uint8(120), "zero"))
    rounding = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["v"]),
    ]
    for node in graph.node:
        if node.op_type == "Gemm":
            node.input[0] = "v"
    nodes = [*rounding, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    merged = ir.from_proto(before)
    assert merge_linears(merged) == 2
    after = ir.to_proto(merged)
    onnx.checker.check_model(after, full_check=True)
    assert "Gemm" not in [node.op_type for node in after.graph.node]
    for old, new in zip(run(before), run(after), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(file := tmp_path / "run.onnx")
    onnxruntime.InferenceSession(after.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert "MatMulIntegerToFloat" in [node.op_type for node in onnx.load(file).graph.node]


def test_a_gemm_whose_weight_is_shared_or_computed_is_left() -> None:
    content = model([4, 4], int8=False, unsqueeze=False)
    content.graph.node[2].input[1] = "w0"  # both read one weight
    merged = ir.from_proto(content)
    assert merge_linears(merged) == 0
    assert [node.op_type for node in ir.to_proto(merged).graph.node] == ["Gemm"] * 2
