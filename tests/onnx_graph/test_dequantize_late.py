"""Floats that are made later are the same floats."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress.onnx_graph.dequantize_late import dequantize_late
from tests.onnx_graph.graphs import graph, kinds, rewritten, run, value


def dequantized(moves: list[str], per_channel: bool = False, other_reader: bool = False) -> onnx.ModelProto:
    """x, dequantized, then reshaped or split; one output for each part, each perhaps doubled."""
    scale = np.full(4, 0.5, np.float32) if per_channel else np.float32(0.5)
    constants = {"scale": scale, "zero": np.full(4, 7, np.uint8) if per_channel else np.uint8(7)}
    constants |= {"shape": np.array([2, 4, 3]), "sizes": np.array([1, 3])}
    nodes = [helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["v"], axis=1)]
    last = "v"
    for kind in moves:
        if kind == "Reshape":
            nodes.append(helper.make_node("Reshape", [last, "shape"], ["r"]))
            last = "r"
    if moves == ["Transpose"]:
        nodes.append(helper.make_node("Transpose", [last], ["t"], perm=[0, 2, 1]))
        last = "t"
    if "Split" in moves:
        nodes.append(helper.make_node("Split", [last, "sizes"], ["a", "b"], axis=1))
        nodes.append(helper.make_node("Add", ["a", "a"], ["doubled"]))
        outputs = [value("doubled", ["?"] * 3), value("b", ["?"] * 3)]  # one part is an output itself
    else:
        outputs = [value(last, ["?"] * 3)]
    if other_reader:
        nodes.append(helper.make_node("Add", ["v", "v"], ["z"]))
        outputs.append(value("z", ["?"] * 3))
    return graph(
        nodes, [value("x", (2, 12) if "Reshape" in moves else (2, 4, 3), TensorProto.UINT8)], outputs, constants
    )


@pytest.mark.parametrize("moves", [["Reshape"], ["Split"], ["Transpose"], ["Reshape", "Split"]])
def test_equal_outputs(moves: list[str]) -> None:
    before = dequantized(moves)
    after, count = rewritten(before, dequantize_late)
    assert count == len(moves)
    assert kinds(after)[: len(moves)] == moves  # bytes move before anything is a float
    assert [output.name for output in after.graph.output] == [output.name for output in before.graph.output]
    x = np.random.default_rng(0).integers(0, 256, (2, 12) if "Reshape" in moves else (2, 4, 3)).astype(np.uint8)
    for new, old in zip(run(after, x=x), run(before, x=x), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("changes", [{"per_channel": True}, {"other_reader": True}])
def test_other_floats_are_left(changes: dict) -> None:
    after, count = rewritten(dequantized(["Split"], **changes), dequantize_late)
    assert count == 0 and kinds(after)[0] == "DequantizeLinear"
