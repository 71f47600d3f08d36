"""Engines: what a bundle asks of one, and those that are known."""

import importlib.util
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from compress.errors import BundleError
from compress.judge.quality import psnr, sqnr
from compress.runtime import Bundle
from compress.runtime.engine import Feeds, Graph
from compress.runtime.engines import ENGINES, ONNXRUNTIME, OnnxRuntime, OpenVino, engine_called, installed
from tests.conftest import inputs_for

EDGE = Path(__file__).parents[2] / "exported" / "digits-edge" / "onnx"


@dataclass
class Reference:
    """onnx's own evaluation in Python: an engine from outside the package."""

    opened: list[tuple[str, int | None, str]] = field(default_factory=list)
    name = "reference"
    version = onnx.__version__

    def open(self, graph: Path | bytes, threads: int | None = None, scheme: str = "float") -> Graph:
        assert isinstance(graph, Path)
        self.opened.append((graph.name, threads, scheme))
        evaluator = ReferenceEvaluator(str(graph))
        inputs, outputs = (
            {
                value.name: {
                    "dtype": onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
                    "shape": [size.dim_value or None for size in value.type.tensor_type.shape.dim],
                }
                for value in values
            }
            for values in (evaluator.proto_.graph.input, evaluator.proto_.graph.output)
        )

        def run(feeds: Feeds) -> list[np.ndarray]:
            return list(evaluator.run(None, dict(feeds)))

        return Graph(inputs, outputs, run)


def asked(bundle: Bundle, count: int) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(0).standard_normal((count, *bundle.sample_shape), dtype=np.float32)
    return noise, np.arange(count)


def test_a_bundle_runs_on_an_engine_from_outside(exported) -> None:
    model, path = exported("class")
    engine = Reference()
    bundle = Bundle(path, threads=2, engine=engine)
    assert engine.opened == [("denoiser.onnx", 2, "float")]
    noise, _, conditions = inputs_for(model, 2)
    given = {name: value.numpy() for name, value in conditions.items()}
    assert sqnr(Bundle(path, threads=1).sample(noise.numpy(), **given), bundle.sample(noise.numpy(), **given)) > 80


def test_an_engine_that_fails_is_named(exported) -> None:
    class Broken(Reference):
        name = "broken"

        def open(self, graph: Path | bytes, threads: int | None = None, scheme: str = "float") -> Graph:
            opened = super().open(graph, threads, scheme)

            def run(feeds: Feeds) -> list[np.ndarray]:
                raise RuntimeError("out of order")

            return Graph(opened.inputs, opened.outputs, run)

    bundle = Bundle(exported("class")[1], engine=Broken())
    with pytest.raises(BundleError, match="broken cannot run it: out of order"):
        bundle.denoise(*bundle.example(1)[:1], 500, bundle.example(1)[1])


def test_graphs_say_what_they_take(exported) -> None:
    _, path = exported("text")
    bundle = Bundle(path, threads=1)
    for name, spec in bundle.inputs.items():
        dtype, (batch, *shape) = bundle.graph.inputs[name]["dtype"], bundle.graph.inputs[name]["shape"]
        assert (dtype, shape) == (spec["dtype"], spec["shape"][1:]) and not isinstance(batch, int)


def test_nodes_as_they_stand_give_the_same(exported) -> None:
    path = exported("class")[1]
    plain = Bundle(path, threads=1, engine=OnnxRuntime(optimized=False))
    noise, labels = asked(plain, 2)
    usual = Bundle(path, threads=1).sample(noise, class_labels=labels)
    assert sqnr(usual, plain.sample(noise, class_labels=labels)) > 80


def test_a_provider_that_is_not_here_is_named(exported) -> None:
    with pytest.raises(BundleError, match=r"has no MissingExecutionProvider here, but .*CPUExecutionProvider"):
        Bundle(exported("class")[1], engine=OnnxRuntime(providers=("MissingExecutionProvider",)))


def test_engines_are_called_by_their_names() -> None:
    assert {name: engine.name for name, engine in ENGINES.items()} == {name: name for name in ENGINES}
    assert ENGINES["onnxruntime"] is ONNXRUNTIME


def test_an_engine_that_is_not_installed_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BundleError, match=r"openvino: cannot be imported .*install 'compress-diffusion\[openvino\]'"):
        Bundle(EDGE, engine=OpenVino())


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
@pytest.mark.parametrize("name", ["openvino", "openvino:bf16"])
@pytest.mark.parametrize("folder", ["digits-edge", "digits-flagship"])
def test_openvino_draws_what_onnxruntime_draws(folder: str, name: str) -> None:
    try:
        assert engine_called(name).version
    except BundleError as error:  # a processor without bf16
        pytest.skip(str(error))
    path = EDGE.parents[1] / folder / "onnx"
    ours, other = Bundle(path, threads=1), Bundle(path, threads=1, engine=engine_called(name))
    assert other.graph.inputs.keys() == other.inputs.keys()
    noise, labels = asked(ours, 10)
    found = psnr(ours.sample(noise, class_labels=labels), other.sample(noise, class_labels=labels))
    assert found.min() > (25 if name.endswith("bf16") else 35), found  # kernels round otherwise, over all steps


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(BundleError, match="steam: is no engine; known are onnxruntime, openvino"):
        engine_called("steam")
    with pytest.raises(BundleError, match=r"onnxruntime:steam: is no engine; providers of onnxruntime are .*cuda.*cpu"):
        engine_called("onnxruntime:steam")


def test_providers_have_names(exported, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_called("onnxruntime:cpu") == ONNXRUNTIME
    engine = engine_called("onnxruntime:openvino")
    assert engine == OnnxRuntime(("OpenVINOExecutionProvider",)) and engine.name == "onnxruntime:openvino"
    known = ["OpenVINOExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: known)
    assert set(installed()) == {*ENGINES, "onnxruntime:openvino"}
    with pytest.raises(BundleError, match="onnxruntime:openvino"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnxruntime's own, before it goes on without
        engine.open(exported("class")[1] / "denoiser.onnx")


def test_openvino_refuses_to_imitate_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        def get_property(self, device: str, name: str) -> list[str]:
            return {("CPU", "OPTIMIZATION_CAPABILITIES"): ["FP32", "INT8"]}[device, name]

    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=Old, __version__="2026.4"))
    assert OpenVino().version == "2026.4"
    with pytest.raises(BundleError, match="openvino:bf16: this CPU has no bf16; take openvino"):
        Bundle(EDGE, engine=engine_called("openvino:bf16"))
