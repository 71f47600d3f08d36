"""A layer that a file's kernels compute wrongly is called by its name."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compress.errors import ExportError
from compress.families.unet.attention import channels_first
from compress.judge import parity
from compress.model.denoiser import Denoiser, example_inputs
from compress.onnx_graph.export import as_exported, lean
from compress.passes import export_onnx, quantize
from compress.runtime import Bundle
from compress.runtime.engine import Graph
from compress.runtime.engines import OnnxRuntime
from tests.conftest import CLASS_CONFIG, make_context, make_denoiser

NAMES = ["sample", "timestep", "class_labels"]


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    model = make_denoiser(CLASS_CONFIG)
    config = quantize.Config.model_validate({"samples": 8, "evaluations": 48})
    return quantize.run(model, config, make_context(model, tmp_path_factory.mktemp("int8"))).model


def broken(graph: onnx.ModelProto, layer: str) -> onnx.ModelProto:
    """The graph with the weights of one layer turned round, as kernels might that take them the wrong way."""
    wrong = onnx.ModelProto.FromString(graph.SerializeToString())
    (node,) = (node for node in wrong.graph.node if node.name.startswith(f"{layer}/") and node.op_type == "Conv")
    made = {output: node for node in wrong.graph.node for output in node.output}
    weight = made[node.input[1]].input[0]
    (tensor,) = (tensor for tensor in wrong.graph.initializer if tensor.name == weight)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), weight))
    return wrong


@pytest.mark.parametrize("layer", [None, "mid_block.resnets.0.conv1", "up_blocks.1.resnets.1.conv2"])
def test_the_first_wrong_layer_is_named(int8: Denoiser, layer: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with channels_first(int8.net):
        graph = lean(as_exported(int8.module, example_inputs(int8, 1), NAMES, 1, 20), named=True)
    random = np.random.default_rng(0)
    feeds = [
        {
            "sample": random.standard_normal((1, *int8.sample_shape), dtype=np.float32),
            "timestep": np.array([timestep]),
            "class_labels": np.array([3]),
        }
        for timestep in int8.sampling.timesteps
    ]
    truly = OnnxRuntime.open

    def kernels(self: OnnxRuntime, file: Path, threads: int, scheme: str) -> Graph:
        wrong = self.optimized and layer is not None
        given = broken(onnx.load(file), layer).SerializeToString() if wrong else file
        return truly(self, given, threads, scheme)

    monkeypatch.setattr(OnnxRuntime, "open", kernels)
    found = parity.first_wrong_layer(graph, feeds, "int8", parity.WRONG_LAYER_DB)
    assert found is None if layer is None else found is not None and found[0] == layer and found[1] < 10


def test_a_file_less_exact_than_its_simulation_is_no_export(
    int8: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = export_onnx.run(int8, export_onnx.Config(batch=1), make_context(int8.in_float(), tmp_path / "good"))
    kinds = [node.op_type for node in onnx.load(made.model.path / "denoiser.onnx").graph.node]
    # keys are every second level of bytes and keep to the limit by themselves; probabilities are clipped
    assert kinds.count("Clip") == kinds.count("Softmax") == 4
    file, simulated = made.notes["sqnr_to_float_db"], made.notes["simulated_sqnr_to_float_db"]
    assert file > simulated - parity.KERNEL_LOSS_DB and simulated > 20
    truly = Bundle.denoise
    # as much noise again as rounding makes: 3 dB less exact
    size = 10 ** (-simulated / 20)

    def noisy(self: Bundle, sample: np.ndarray, *given: Any, **more: Any) -> np.ndarray:
        output = truly(self, sample, *given, **more)
        random = np.random.default_rng(int(1e6 * abs(float(sample.sum()))))
        return output + size * np.sqrt(np.mean(output**2)) * random.standard_normal(output.shape, dtype=np.float32)

    monkeypatch.setattr(Bundle, "denoise", noisy)
    with pytest.raises(ExportError, match=r"differs from the PyTorch model: .* dB SQNR, at least .* expected"):
        export_onnx.run(int8, export_onnx.Config(batch=1), make_context(int8.in_float(), tmp_path / "noisy"))
