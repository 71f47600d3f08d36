"""What quantizers cut off."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compress.onnx_graph.quantizers import cuts

GRAPH = """<ir_version: 10, opset_import: ["" : 21]>
net (float[b,2] x) => (float[b,2] y)
<float s = {0.1}, float[2] each = {0.1, 0.01}, int8[2] none = {0, 0}, uint8 low = {0}, float[2,2] w = {1, 0, 0, 1}> {
    q = QuantizeLinear(x, s)
    d = DequantizeLinear(q, s)
    h = MatMul(d, w)
    r = Relu(h)
    q1 = QuantizeLinear(r, s, low)
    d1 = DequantizeLinear(q1, s, low)
    h1 = Identity(d1)
    q2 = QuantizeLinear<axis = 1>(h1, each, none)
    d2 = DequantizeLinear<axis = 1>(q2, each, none)
    y = Identity(d2)
}"""


def test_values_beyond_the_ends_are_counted_where_they_are_read(tmp_path: Path) -> None:
    model = ir.from_onnx_text(GRAPH)
    for node in model.graph:
        node.name = f"layer_{node.outputs[0].name}"
    ir.save(model, tmp_path / "net.onnx")
    one = {"x": np.array([[-1, 2], [3, 26]], np.float32)}
    two = {"x": np.array([[0, 0], [0.001, 1]], np.float32)}
    first, second, third = cuts(tmp_path / "net.onnx", [one, two])
    assert (first.layer, second.layer, third.layer) == ("layer_h", "layer_h1", "layer_y")
    assert first.share == 2 / 8  # of uint8 by default: −1 and 26 lie beyond 0 … 25.5
    assert first.lost == pytest.approx((1 + 0.5**2) / (1 + 4 + 9 + 26**2 + 1), rel=1e-4)
    assert second.share == 0 and second.lost == 0  # zeros at the end of the grid are where they belong
    assert third.share == 2 / 8  # of int8, along the channels: 2 and 25.5 lie beyond 1.27, 3 not beyond 12.7


def test_a_graph_without_quantizers_is_not_run(tmp_path: Path) -> None:
    ir.save(ir.from_onnx_text("<ir_version: 10, opset_import: ['' : 20]> n (float[b] x) => (float[b] y) { y = Relu(x) }"
                              .replace("'", '"')), tmp_path / "net.onnx")  # fmt: skip
    assert cuts(tmp_path / "net.onnx", [{"x": np.zeros(1)}]) == []
