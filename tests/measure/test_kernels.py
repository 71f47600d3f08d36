"""Layers timed alone: the graphs compute what the layers do, in the kernels that the exported net uses."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from compress.families.replacements import Convolution
from compress.measure import kernels
from compress.model.reference import silent
from compress.passes import quantize
from tests.conftest import CLASS_CONFIG, assert_close_db, make_context, make_denoiser

LAYERS = {
    "3×3": (nn.Conv2d(16, 24, 3, padding=1), (2, 16, 8, 8), "QLinearConv"),
    "stride 2": (nn.Conv2d(16, 16, 3, stride=2, padding=1), (1, 16, 8, 8), "QLinearConv"),
    "computed weights": (Convolution(), (2, 16, 64), "QLinearConv"),
    "linear": (nn.Linear(32, 48), (2, 9, 32), "QGemm"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_graphs_compute_the_layer(name: str, tmp_path: Path) -> None:
    layer, shape, kernel = LAYERS[name]
    signature = kernels._signature(layer, (torch.empty(shape), torch.empty(24, 16, 1)))
    graphs = [kernels._graph(signature, int8) for int8 in (False, True)]
    constants = [{t.name: onnx.numpy_helper.to_array(t) for t in graph.graph.initializer} for graph in graphs]
    x = np.random.default_rng(0).uniform(-6, 6, signature[1]).astype(np.float32)
    for graph, given in zip(graphs, constants, strict=True):
        weight = given.get("weight", given.get("weight_int8", np.zeros(1)) * np.float32(0.01))
        bias = given["bias"].astype(np.float32) * given.get("bias_scale", np.float32(1))
        parameters = torch.from_numpy(weight.astype(np.float32)), torch.from_numpy(bias)
        if isinstance(layer, nn.Conv2d):
            wanted = nn.functional.conv2d(torch.from_numpy(x), *parameters, layer.stride, layer.padding)
        elif isinstance(layer, Convolution):
            wanted = nn.functional.conv1d(torch.from_numpy(x), *parameters)
        else:
            wanted = nn.functional.linear(torch.from_numpy(x), *parameters)
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        assert_close_db(wanted.clamp(-6.4, 6.35).numpy(), session.run(None, {"x": x})[0].clip(-6.4, 6.35), 20)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("optimization.disable_specified_optimizers", "NhwcTransformer")
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graphs[1].SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert kernel in {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}


def test_every_layer_is_timed_and_whole_nets_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "ROUNDS", 10)
    model = make_denoiser(CLASS_CONFIG)
    paths = [path for path, layer in model.net.named_modules() if isinstance(layer, nn.Conv2d)]
    found = kernels.layer_times(model, paths, 1, silent, "")
    assert set(found) == set(paths)
    assert all(pair.float_ms > 0 and pair.int8_ms > 0 for pair in found.values())
    assert kernels.Pair(2.0, 1.0, 2.0, (1.8, 2.2)).gain == 1.0
    assert kernels.Pair(1.0, 1.1, 0.9, (0.8, 0.95)).gain == pytest.approx(-0.1)
    assert kernels.Pair(1.0, 0.99, 1.01, (0.9, 1.1)).gain == 0.0, "no difference is shown"
    config = quantize.Config(samples=4, evaluations=8)
    int8 = quantize.run(model, config, make_context(model, tmp_path)).model
    taken = kernels.whole_times({"float": model, "int8": int8}, tmp_path, 2, silent, "")
    assert {len(values) for values in taken.values()} == {10} and min(map(min, taken.values())) > 0
