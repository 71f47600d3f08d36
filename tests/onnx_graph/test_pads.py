"""A convolution that pads by itself gives what it gave behind a Pad."""

import numpy as np
import onnx
import pytest
from onnx import helper

from compress.onnx_graph.pads import merge_pads
from tests.onnx_graph.graphs import graph, kinds, rewritten, run, value

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
def test_equal_outputs(pads: list[int], own: list[int], int8: bool) -> None:
    before = padded(pads, own, int8)
    after, count = rewritten(before, merge_pads)
    assert count == 1 and "Pad" not in kinds(after)
    x = np.random.default_rng(1).normal(size=(3, 2, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(run(after, x=x)[0], run(before, x=x)[0], rtol=1e-5, atol=1e-6)


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
def test_other_pads_are_left(changes: dict) -> None:
    after, count = rewritten(padded(**{"pads": DOWN, "own": [0] * 4, "int8": False, **changes}), merge_pads)
    assert count == 0 and "Pad" in kinds(after)
