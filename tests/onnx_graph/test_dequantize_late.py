"""Floats that are made later are the same floats."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress.onnx_graph.dequantize_late import dequantize_late, gather_bytes
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


def rows(axis: int = 0, zero: int = 0, scales: int = 9, of_rows: int = 0) -> onnx.ModelProto:
    """Rows of a table [9,4] of bytes, as floats."""
    random = np.random.default_rng(0)
    constants = {"table": random.integers(-127, 128, (9, 4)).astype(np.int8)}
    constants |= {"scale": random.uniform(0.1, 1, scales).astype(np.float32), "zero": np.full(scales, zero, np.int8)}
    nodes = [
        helper.make_node("DequantizeLinear", ["table", "scale", "zero"], ["v"], axis=axis),
        helper.make_node("Gather", ["v", "ids"], ["y"], axis=of_rows),
    ]
    return graph(nodes, [value("ids", ("n", 3), TensorProto.INT64)], [value("y", ["?"] * 3)], constants)


def test_rows_of_a_table_are_read_as_bytes() -> None:
    before = rows()
    after, count = rewritten(before, gather_bytes)
    assert count == 1 and "DequantizeLinear" not in kinds(after)
    ids = np.array([[0, 8, 3], [3, -1, 5]])
    np.testing.assert_array_equal(run(after, ids=ids)[0], run(before, ids=ids)[0])


@pytest.mark.parametrize(
    "changes", [{"axis": 1, "scales": 4}, {"zero": 3}, {"of_rows": 1, "axis": 1, "scales": 4}, {"of_rows": 1}]
)
def test_other_tables_are_left(changes: dict) -> None:
    after, count = rewritten(rows(**changes), gather_bytes)
    assert count == 0 and kinds(after) == ["DequantizeLinear", "Gather"]
