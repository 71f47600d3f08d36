"""Attention in OpenVINO's form computes what it did, on grids at least as fine."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compress.judge.quality import sqnr
from compress.onnx_graph.for_openvino import for_openvino
from compress.passes import export_onnx, quantize
from compress.runtime.engines import OnnxRuntime
from tests.conftest import CLASS_CONFIG, SHALLOW_CONFIG, make_context, make_denoiser

WITHOUT = {**SHALLOW_CONFIG, "add_attention": False}
NODE_BY_NODE = OnnxRuntime(optimized=False)


def exported(config: dict, folder: Path, scheme: str | None) -> Path:
    model = make_denoiser(config)
    if scheme:
        settings = quantize.Config(scheme=scheme, samples=4, evaluations=40)
        model = quantize.run(model, settings, make_context(model, folder / "quantize")).model
    return export_onnx.run(model, export_onnx.Config(batch=2), make_context(model, folder)).model.path / "denoiser.onnx"


def answered(file: Path) -> np.ndarray:
    random = np.random.default_rng(0)
    feeds = {"sample": random.standard_normal((2, 1, 8, 8), np.float32), "timestep": np.array([400, 10])}
    return NODE_BY_NODE.open(file).run({**feeds, "class_labels": np.array([3, 5])})[0]


def test_probabilities_stand_before_values_and_no_second_factor_has_a_zero_point(tmp_path: Path) -> None:
    file = exported(CLASS_CONFIG, tmp_path, "int8")
    graph = ir.load(file)
    softmax = [node for node in graph.graph if node.op_type == "Softmax"]
    assert for_openvino(graph) == len(softmax) > 1
    for node in graph.graph:
        if node.op_type != "MatMul" or any(value.const_value is not None for value in node.inputs):
            continue
        first, second = (_bytes(value) for value in node.inputs)
        if first is None or second is None:
            continue
        assert second.dtype == np.int8 and second == 0
        assert not any(value.producer().inputs[0].producer().op_type == "Transpose" for value in node.inputs)
    after = tmp_path / "after.onnx"
    ir.save(graph, after)
    wanted = answered(exported(CLASS_CONFIG, tmp_path / "float", None))
    assert sqnr(wanted, answered(after)) > sqnr(wanted, answered(file)) - 1
    assert for_openvino(graph) == 0  # nothing is left to change


def _bytes(value: ir.Value | None) -> np.ndarray | None:
    """The zero point of the bytes that a factor is made of."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "DequantizeLinear":
            return node.inputs[2].const_value.numpy() if node.inputs[0].const_value is None else None
        value = node.inputs[0] if node.op_type in ("Transpose", "Reshape", "Split") else None
    return None


@pytest.mark.parametrize(("config", "scheme"), [(CLASS_CONFIG, None), (WITHOUT, "int8")])
def test_without_attention_in_bytes_nothing_changes(config: dict, scheme: str | None, tmp_path: Path) -> None:
    file = exported(config, tmp_path, scheme)
    graph = ir.load(file)
    before = [node.op_type for node in graph.graph]
    assert for_openvino(graph) == 0
    assert [node.op_type for node in graph.graph] == before


@pytest.mark.parametrize(("zero", "moved"), [(128, True), (100, True), (80, False), (0, False)])
def test_a_factor_far_from_zero_keeps_its_levels(zero: int, moved: bool, tmp_path: Path) -> None:
    value = ir.Input("x", ir.Shape([1, 2, 4]), ir.TensorType(ir.DataType.FLOAT))
    other = ir.Input("y", ir.Shape([1, 4, 2]), ir.TensorType(ir.DataType.FLOAT))
    tape = ir.tape.Tape()
    scale = tape.initializer(ir.tensor(np.float32(0.1), name="scale"))
    offset = tape.initializer(ir.tensor(np.uint8(zero), name="zero"))
    factor = tape.op("DequantizeLinear", [tape.op("QuantizeLinear", [value, scale, offset]), scale, offset])
    out = tape.op("MatMul", [other, factor])
    out.name = "out"
    graph = ir.Graph([value, other], [out], nodes=tape.nodes, initializers=tape.initializers, opset_imports={"": 20})
    model = ir.Model(graph, ir_version=10)
    for_openvino(model)
    rounded = next(node for node in model.graph if node.op_type == "QuantizeLinear")
    assert (rounded.inputs[2].const_value.dtype == ir.DataType.INT8) == moved
    if moved:  # the ends of the old grid are on the new one
        step = rounded.inputs[1].const_value.numpy() * 127
        assert step == pytest.approx(0.1 * max(zero, 255 - zero))
