"""Each node that a compiler does not take is named, with a reason."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from compress.onnx_graph.npu_rules import RULES, refusals
from tests.onnx_graph.graphs import graph, value


def model_of(node: onnx.NodeProto, shape: list, opset: int = 19, **constants: np.ndarray) -> ir.Model:
    made = graph([node], [value("x", shape)], [value("y", ["?"] * len(shape))], constants)
    made.opset_import[0].version = opset
    return ir.from_proto(onnx.shape_inference.infer_shapes(made))


@pytest.mark.parametrize("compiler", RULES)
def test_an_ordinary_graph_is_taken(compiler: str) -> None:
    assert refusals(model_of(helper.make_node("Relu", ["x"], ["y"], name="r"), [1, 2]), compiler) == []


@pytest.mark.parametrize(
    ("node", "shape", "refused"),
    [
        (("Relu", 1), ["b", 2], {name: "the sizes of x are open" for name in RULES}),
        (("Relu", 1), [1] * 5, {"rockchip": "x has more than 4 axes"}),
        (("Relu", 1), [1] * 6, {"rockchip": "x has more than 4 axes", "qualcomm": "x has more than 5 axes"}),
        (("Hardmax", 1), [1, 2], {"qualcomm": "it has no such operator"}),
    ],
)
def test_reasons(node: tuple[str, int], shape: list, refused: dict[str, str]) -> None:
    kind, _ = node
    model = model_of(helper.make_node(kind, ["x"], ["y"], name="one"), shape)
    for compiler in RULES:
        wanted = [f"one ({kind}): {refused[compiler]}"] if compiler in refused else []
        assert refusals(model, compiler) == wanted


def test_branches_other_domains_wide_numbers_and_operator_sets() -> None:
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["z"], name="inner")], "body", [], [value("z", [1, 2])])
    branch = helper.make_node("If", ["c"], ["y"], name="fork", then_branch=body, else_branch=body)
    made = helper.make_graph(
        [branch],
        "g",
        [value("x", [1, 2]), helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [value("y", [1, 2])],
    )
    model = ir.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)]))
    for compiler in RULES:
        assert "fork (If): a graph that branches" in refusals(model, compiler)
    assert refusals(model, "rockchip")[0] == "operator set 21: rockchip takes 19 at most"
    model.graph[0].domain = "com.microsoft"
    assert "fork (If): a graph that branches" in refusals(model, "intel")
    wide = ir.Value(name="w", type=ir.TensorType(ir.DataType.UINT16), shape=ir.Shape([1]))
    node = ir.node("DequantizeLinear", [wide], name="d", domain="com.microsoft")
    alone = ir.Model(ir.Graph([wide], node.outputs, nodes=[node], opset_imports={"": 19}), ir_version=9)
    assert refusals(alone, "intel") == ["d (DequantizeLinear): is of the domain com.microsoft"]
    node.domain = ""
    assert refusals(alone, "rockchip") == ["d (DequantizeLinear): 16 bits"]
    assert refusals(alone, "qualcomm") == []
