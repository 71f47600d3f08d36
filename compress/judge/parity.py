"""Where a file's kernels compute something else than its graph says."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from compress.judge.quality import sqnr
from compress.runtime.engines import ONNXRUNTIME, OnnxRuntime

PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def first_wrong_layer(
    graph: onnx.ModelProto, feeds: Sequence[Mapping[str, np.ndarray]], scheme: str, least: float
) -> tuple[str, float] | None:
    """(name, dB) of the first product whose result, as onnxruntime's kernels give it, is nearer than `least` dB to
    noise against the same graph computed node by node; None: there is none.

    graph: whose nodes are `named`, as `onnx_graph.export.to_onnx` does. feeds: inputs by name.
    """
    kinds = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    looked: dict[str, str] = {}  # output → layer, in the order of the graph
    for node in graph.graph.node:
        if node.op_type not in PRODUCTS:
            continue
        (output,), kind = node.output, onnx.TensorProto.FLOAT
        after = readers.get(output, [])
        if [reader.op_type for reader in after] == ["QuantizeLinear"]:  # kernels give bytes: there are no floats
            (output,), kind = after[0].output, kinds[after[0].input[2]]
        if output not in {value.name for value in graph.graph.output}:
            graph.graph.output.append(onnx.helper.make_tensor_value_info(output, kind, None))
        looked[output] = node.name.partition("/")[0]
    content = graph.SerializeToString()
    answers = []
    for engine in (OnnxRuntime(optimized=False), ONNXRUNTIME):
        opened = engine.open(content, 1, scheme)
        found = [dict(zip(opened.outputs, opened.run(given), strict=True)) for given in feeds]
        answers.append([np.concatenate([outputs[name].reshape(-1) for outputs in found]) for name in looked])
    for layer, plain, kernels in zip(looked.values(), *answers, strict=True):
        wanted = plain.astype(np.float64)
        agreement = sqnr(wanted - wanted.mean(), kernels.astype(np.float64) - wanted.mean())
        if not agreement >= least:
            return layer, agreement
    return None
