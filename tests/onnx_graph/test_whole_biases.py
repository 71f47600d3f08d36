"""Linear layers between bytes and floats: their biases as whole numbers compute what they did, in a kernel of bytes."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from compress.onnx_graph.whole_biases import LARGEST, whole_biases
from compress.passes import export_onnx, quantize
from compress.runtime.engines import OnnxRuntime
from tests.conftest import make_context
from tests.families.dit.models import CONFIG, transformer

SCALE, OUT, IN = np.float32(0.02), 6, 8
NODE_BY_NODE = OnnxRuntime(optimized=False)


def layer(kind: str, bias: np.ndarray, scales: np.ndarray, rounded: bool = False) -> ir.Model:
    """x [2,3,in] (of Gemm [6,in]) → bytes → product with int8 weights + bias → y."""
    shape = (6, IN) if kind == "Gemm" else (2, 3, IN)
    x, tape = ir.Input("x", ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)), ir.tape.Tape()

    def constant(name: str, array: np.ndarray) -> ir.Value:
        return tape.initializer(ir.tensor(array, name=name))

    grid = [constant("scale", SCALE), constant("zero", np.uint8(120))]
    bytes_ = tape.op("DequantizeLinear", [tape.op("QuantizeLinear", [x, *grid]), *grid])
    whole = constant("weight", np.random.default_rng(0).integers(-64, 65, (OUT, IN)).astype(np.int8))
    weight = tape.op("DequantizeLinear", [whole, constant("scales", scales)], {"axis": 0})
    if kind == "Gemm":
        y = tape.op("Gemm", [bytes_, weight, constant("bias", bias)], {"transB": 1})
    else:
        product = tape.op("MatMul", [bytes_, tape.op("Transpose", [weight], {"perm": [1, 0]})])
        y = tape.op("Add", [product, constant("bias", bias)][:: -1 if kind == "bias first" else 1])
    if rounded:
        y = tape.op("DequantizeLinear", [tape.op("QuantizeLinear", [y, *grid]), *grid])
    y.name, y.dtype = "y", ir.DataType.FLOAT
    graph = ir.Graph([x], [y], nodes=tape.nodes, initializers=tape.initializers, opset_imports={"": 20}, name="layer")
    return ir.Model(graph, ir_version=10)


def answered(model: ir.Model, engine: OnnxRuntime = NODE_BY_NODE) -> np.ndarray:
    opened = engine.open(ir.to_proto(model).SerializeToString(), 1, "int8")
    x = np.random.default_rng(1).uniform(-2, 2, opened.inputs["x"]["shape"]).astype(np.float32)
    return opened.run({"x": x})[0]


@pytest.mark.parametrize("kind", ["Gemm", "MatMul", "bias first"])
def test_it_computes_what_it_did(kind: str) -> None:
    random = np.random.default_rng(2)
    bias = random.standard_normal(OUT).astype(np.float32)
    scales = random.uniform(0.001, 0.1, OUT).astype(np.float32)
    model = layer(kind, bias, scales)
    wanted = answered(model)
    assert whole_biases(model) == 1 and whole_biases(model) == 0
    found = answered(model)
    assert (np.abs(found - wanted) <= SCALE * scales / 2 * 1.01).all()  # half of a level of the bias
    assert np.abs(found - wanted).max() > 0
    np.testing.assert_allclose(answered(model, OnnxRuntime()), found, atol=1e-6)


def test_a_bias_that_whole_numbers_cannot_hold_stays_float() -> None:
    scales = np.full(OUT, 0.01, np.float32)
    scales[3] = 1e-9  # a channel of zeros
    bias = np.ones(OUT, np.float32)
    assert np.abs(bias[3] / (SCALE * scales[3])) > LARGEST
    model = layer("MatMul", bias, scales)
    wanted = answered(model)
    assert whole_biases(model) == 0
    assert answered(model).tobytes() == wanted.tobytes()


def test_what_is_rounded_again_and_what_is_float_is_left() -> None:
    bias, scales = np.ones(OUT, np.float32), np.full(OUT, 0.01, np.float32)
    assert whole_biases(layer("MatMul", bias, scales, rounded=True)) == 0
    model = layer("Gemm", bias, scales)
    floats = next(node for node in model.graph if node.op_type == "Gemm")
    floats.replace_input_with(0, model.graph.inputs[0])
    assert whole_biases(model) == 0


def test_linear_layers_of_a_transformer_give_floats_by_kernels_of_bytes(tmp_path: Path) -> None:
    model = transformer()
    config = quantize.Config(scheme="int8", samples=4, evaluations=20, least_attention_width=0)
    int8 = quantize.run(model, config, make_context(model, tmp_path / "quantize")).model
    made = export_onnx.run(int8, export_onnx.Config(batch=2), make_context(model, tmp_path))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(made.model.path / "denoiser.onnx", options, providers=["CPUExecutionProvider"])
    nodes = list(ir.load(tmp_path / "optimized.onnx").graph)
    products = [node for node in nodes if node.op_type == "QGemm"]
    floats = [node for node in products if not any(value is not None for value in node.inputs[7:])]
    blocks = CONFIG["num_layers"]
    assert len(products) == 4 * blocks and len(floats) == 3 * blocks  # all but what attention multiplies
    graph = ir.load(made.model.path / "denoiser.onnx").graph
    rows = [node.inputs[0].const_value for node in graph if node.op_type == "Gather"]
    tables = [tensor.numpy() for tensor in rows if tensor is not None and len(tensor.shape) == 2]
    assert len(tables) == blocks and {table.dtype.name for table in tables} == {"int8"}
    assert max(np.abs(table).max() for table in tables) == 127  # eight bits, as nothing is multiplied by them
