"""How long layers take in onnxruntime, in float and in int8, each alone at the shape that it has in the net."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import torch
from torch import nn

from compress.families.replacements import Convolution
from compress.measure.latency import interleaved, speedup
from compress.model.denoiser import Denoiser, example_inputs
from compress.model.paths import watched
from compress.model.reference import Progress
from compress.onnx_graph.export import to_onnx
from compress.report.statistics import Interval
from compress.runtime.engines import ONNXRUNTIME

ROUNDS = 15
OPSET = 20
Signature = tuple[str, tuple[int, ...], tuple[int, ...], str]


@dataclass(frozen=True)
class Pair:
    """Milliseconds of a layer, and how many times faster int8 is, with its 95% interval."""

    float_ms: float
    int8_ms: float
    speedup: float
    interval: Interval

    @property
    def gain(self) -> float:
        """Milliseconds that int8 saves; 0 where no difference is shown."""
        low, high = self.interval
        return 0.0 if low <= 1 <= high else self.float_ms - self.int8_ms


@torch.no_grad()
def layer_times(model: Denoiser, paths: Sequence[str], batch: int, progress: Progress, title: str) -> dict[str, Pair]:
    """Convolutions and linear layers in both arithmetics, one thread. int8 pays for quantizing its input and output.

    Layers of one shape are timed once.
    """
    shapes: dict[str, Signature] = {}

    def note(path: str, layer: nn.Module, inputs: tuple[torch.Tensor, ...], *_: object) -> None:
        shapes[path] = _signature(layer, inputs)

    with model.family.lean.within(model.net), watched(model.net, paths, note):
        model.module(*example_inputs(model, batch))
    calls: dict[str, Callable[[], object]] = {}
    for signature in set(shapes.values()):
        for kind in ("float", "int8"):
            calls[f"{kind} {signature}"] = _call(_graph(signature, int8=kind == "int8"), kind == "int8")
    taken = interleaved(calls, ROUNDS, progress, title)
    found = {}
    for path, signature in shapes.items():
        slow, fast = taken[f"float {signature}"], taken[f"int8 {signature}"]
        found[path] = Pair(float(np.median(slow)), float(np.median(fast)), *speedup(slow, fast))
    return found


def whole_times(
    models: Mapping[str, Denoiser], folder: Path, batch: int, progress: Progress, title: str
) -> dict[str, np.ndarray]:
    """Milliseconds [rounds] of one evaluation of whole models, exported to `folder` at a fixed batch, one thread."""
    calls = {}
    for name, model in models.items():
        inputs = example_inputs(model, batch)
        names = ["sample", "timestep", *model.inputs]
        with model.family.lean.within(model.net):
            graph = to_onnx(model.module, inputs, names, batch, OPSET)
        file = folder / f"{name}.onnx"
        ir.save(graph, file, external_data=f"{file.name}.data")
        feeds = {item: value.cpu().numpy() for item, value in zip(names, inputs, strict=True)}
        calls[name] = functools.partial(ONNXRUNTIME.open(file, 1, model.scheme).run, feeds)
    return interleaved(calls, ROUNDS, progress, title)


def _signature(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Signature:
    """All that a layer's time depends on: operator, shapes of input and weight, attributes as ONNX writes them."""
    shape = tuple(inputs[0].shape)
    if isinstance(layer, nn.Linear):
        return "Gemm", (int(np.prod(shape[:-1])), shape[-1]), tuple(layer.weight.shape), "transB = 1"
    if isinstance(layer, Convolution):
        return "Conv", shape, tuple(inputs[1].shape), "group = 1"
    assert isinstance(layer, nn.Conv2d)
    padding = layer.padding if isinstance(layer.padding, tuple) else (0, 0)
    given = {"strides": layer.stride, "pads": (*padding, *padding), "dilations": layer.dilation}
    said = [f"{name} = {list(numbers)}" for name, numbers in given.items()]
    return "Conv", shape, tuple(layer.weight.shape), ", ".join((*said, f"group = {layer.groups}"))


INT8 = """
    x_int8 = QuantizeLinear (x, scale, zero)
    x_float = DequantizeLinear (x_int8, scale, zero)
    weight = DequantizeLinear <axis = 0> (weight_int8, weight_scale, weight_zero)
"""
OF_LAYER = {
    "Conv": """
        y_float = {layer} (x_float, weight, bias)
        y_int8 = QuantizeLinear (y_float, scale, zero)
        y = DequantizeLinear (y_int8, scale, zero)
    """,
    "Gemm": """
        bias_float = DequantizeLinear <axis = 0> (bias, bias_scale)
        y = {layer} (x_float, weight, bias_float)
    """,
}


def _graph(signature: Signature, int8: bool) -> onnx.ModelProto:
    """The layer alone, with random weights; in int8 behind a quantization, a convolution before a dequantization."""
    kind, shape, weights, given = signature
    random = np.random.default_rng(0)
    constants: dict[str, np.ndarray] = {"bias": random.standard_normal(weights[0]).astype(np.float32)}
    if int8:
        constants["weight_int8"] = random.integers(-63, 64, weights).astype(np.int8)
        constants["weight_scale"] = np.full(weights[0], 0.01, np.float32)
        constants["weight_zero"] = np.zeros(weights[0], np.int8)
        constants["scale"], constants["zero"] = np.array(0.05, np.float32), np.array(128, np.uint8)
        if kind == "Gemm":
            constants["bias"] = random.integers(-1000, 1000, weights[0]).astype(np.int32)
            constants["bias_scale"] = constants["scale"] * constants["weight_scale"]
    else:
        constants["weight"] = random.standard_normal(weights).astype(np.float32)
    nodes = INT8 + OF_LAYER[kind] if int8 else "y = {layer} (x, weight, bias)"
    nodes = nodes.format(layer=f"{kind} <{given}>")
    head = f'<ir_version: 10, opset_import: ["" : {OPSET}]> layer (float{list(shape)} x) => (float[] y)'
    model = onnx.parser.parse_model(f"{head} {{ {nodes} }}")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


def _call(model: onnx.ModelProto, int8: bool) -> Callable[[], object]:
    graph = ONNXRUNTIME.open(model.SerializeToString(), 1, "int8" if int8 else "float")
    x = np.random.default_rng(1).standard_normal(tuple(graph.inputs["x"]["shape"])).astype(np.float32)
    return functools.partial(graph.run, {"x": x})
