"""Small hand-made graphs, and how they are run."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from compress.onnx_graph.simplify import simplify


def value(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Mapping[str, np.ndarray],
) -> onnx.ModelProto:
    """A model with the shapes of all its values, as the exporter writes them."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    content = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(content, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def rewritten(model: onnx.ModelProto, rewrite: Callable[[ir.Model], int]) -> tuple[onnx.ModelProto, int]:
    """The model after a rewrite, checked to be one, and the number that the rewrite gave."""
    parsed = ir.from_proto(model)
    count = rewrite(parsed)
    after = ir.to_proto(parsed)
    onnx.checker.check_model(after, full_check=True)
    return after, count


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model after `simplify`, checked to be one."""
    return rewritten(model, lambda parsed: simplify(parsed) or 0)[0]


def run(model: onnx.ModelProto, optimize: bool = True, **feeds: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]
