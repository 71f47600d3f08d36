"""Attention in bytes as OpenVINO wants them computes what it did, with one quantization around zero for each factor."""

import importlib.util

import numpy as np
import onnx_ir as ir
import pytest
import torch

from compress.judge.quality import sqnr
from compress.model.denoiser import Denoiser
from compress.onnx_graph.for_openvino import for_openvino
from compress.passes import export_onnx, quantize
from compress.runtime.engines import OnnxRuntime
from tests.conftest import CLASS_CONFIG, make_context, make_denoiser

TIMES, LABELS = np.array([500, 20]), np.array([3, 10])


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> tuple[Denoiser, ir.Model]:
    """(the float net, the graph of the net in int8): four attentions of two products each."""
    model, folder = make_denoiser(CLASS_CONFIG), tmp_path_factory.mktemp("int8")
    context = make_context(model, folder)
    quantized = quantize.run(model, quantize.Config(samples=4, evaluations=16), context).model
    bundle = export_onnx.run(quantized, export_onnx.Config(batch=2), context).model
    return model, ir.load(bundle.path / "denoiser.onnx")


def factors(model: ir.Model) -> list[ir.Value]:
    """What is multiplied in products of two activations, without what only moves it."""
    found = []
    for node in (node for node in model.graph if node.op_type == "MatMul"):
        values = list(node.inputs)
        for place, value in enumerate(values):
            while value.producer() is not None and value.producer().op_type in ("Reshape", "Split", "Transpose"):
                value = value.producer().inputs[0]
            values[place] = value
        if all(value.producer() and value.producer().inputs[0].producer() for value in values):
            found += values
    return found


def answer(model: ir.Model, sample: np.ndarray) -> np.ndarray:
    graph = OnnxRuntime(optimized=False).open(ir.to_proto(model).SerializeToString(), 1)
    given = {"sample": sample, "timestep": TIMES, "class_labels": LABELS}
    feeds = {name: given[name].astype(spec["dtype"]) for name, spec in graph.inputs.items()}
    return graph.run(feeds)[0]


def test_factors_are_quantized_around_zero_and_the_answer_is_as_exact(int8: tuple[Denoiser, ir.Model]) -> None:
    model = ir.from_proto(ir.to_proto(int8[1]))
    sample = np.random.default_rng(0).standard_normal((2, 1, 8, 8), dtype=np.float32)
    before = answer(model, sample)
    assert for_openvino(model) == 8
    after = answer(model, sample)
    whole = int8[0].module(*map(torch.from_numpy, (sample, TIMES, LABELS))).numpy()
    assert (after != before).any() and sqnr(whole, after) > sqnr(whole, before) - 1
    pairs = [value.producer() for value in factors(model)]
    assert len(pairs) == 16
    for node in pairs:
        assert node.op_type == "DequantizeLinear" and node.inputs[0].producer().op_type == "QuantizeLinear"
        assert node.inputs[2].const_value.numpy() == np.int8(0) and node.inputs[2].dtype == ir.DataType.INT8
        assert node.inputs[1] is node.inputs[0].producer().inputs[1]


def test_a_float_graph_is_left(class_model: Denoiser, tmp_path) -> None:
    bundle = export_onnx.run(class_model, export_onnx.Config(batch=2), make_context(class_model, tmp_path)).model
    model = ir.load(bundle.path / "denoiser.onnx")
    before = [node.op_type for node in model.graph]
    assert for_openvino(model) == 0 and [node.op_type for node in model.graph] == before


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_multiplies_in_bytes(int8: tuple[Denoiser, ir.Model]) -> None:
    import openvino

    def kinds(model: ir.Model) -> list[str]:
        core = openvino.Core()
        read = core.read_model(ir.to_proto(model).SerializeToString())
        compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        about = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
        return [one["runtimePrecision"].astype(str) for one in about if one["layerType"].astype(str) == "MatMul"]

    if "f32" not in kinds(int8[1]):
        pytest.skip("this processor has no products of bytes that OpenVINO takes")
    model = ir.from_proto(ir.to_proto(int8[1]))
    for_openvino(model)
    assert set(kinds(model)) == {"i8"}
