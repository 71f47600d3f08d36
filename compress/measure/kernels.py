"""How long layers take in onnxruntime, in float and in int8, each alone at the shape that it has in the net."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compress.families.replacements import Convolution
from compress.measure.latency import interleaved, speedup
from compress.model.denoiser import Denoiser, example_inputs
from compress.model.reference import Progress
from compress.onnx_graph.export import to_onnx
from compress.report.statistics import Interval
from compress.runtime.bundle import open_session

ROUNDS = 15
OPSET = 20


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
    shapes: dict[str, tuple[Any, ...]] = {}
    handles = []
    with model.family.lean.within(model.net):
        for path in paths:

            def note(layer: nn.Module, inputs: Any, path: str = path) -> None:
                shapes[path] = _signature(layer, inputs)

            handles.append(model.net.get_submodule(path).register_forward_pre_hook(note))
        model.module(*example_inputs(model, batch))
    for handle in handles:
        handle.remove()
    calls: dict[str, Callable[[], object]] = {}
    for signature in set(shapes.values()):
        for kind in ("float", "int8"):
            calls[f"{kind} {signature}"] = _call(_graph(signature, int8=kind == "int8"), kind == "int8")
    taken = interleaved(calls, ROUNDS, progress, title)
    found = {}
    for path, signature in shapes.items():
        slow, fast = taken[f"float {signature}"], taken[f"int8 {signature}"]
        ratio, ends = speedup(slow, fast)
        found[path] = Pair(float(np.median(slow)), float(np.median(fast)), ratio, ends)
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
        session = open_session(file, threads=1, scheme=model.scheme)
        feeds = {item: value.cpu().numpy() for item, value in zip(names, inputs, strict=True)}
        calls[name] = lambda session=session, feeds=feeds: session.run(None, feeds)
    return interleaved(calls, ROUNDS, progress, title)


def _signature(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
    """Everything that a layer's time depends on."""
    shape = tuple(inputs[0].shape)
    if isinstance(layer, Convolution):
        ones = (1,) * (len(shape) - 2)
        return ("Conv", shape, tuple(inputs[1].shape), ones, tuple(0 for _ in ones), ones, 1)
    if isinstance(layer, nn.Conv2d):
        padding = layer.padding if isinstance(layer.padding, tuple) else (0, 0)
        return ("Conv", shape, tuple(layer.weight.shape), layer.stride, padding, layer.dilation, layer.groups)
    assert isinstance(layer, nn.Linear)
    return ("Gemm", (int(np.prod(shape[:-1])), shape[-1]), tuple(layer.weight.shape))


def _graph(signature: tuple[Any, ...], int8: bool) -> onnx.ModelProto:
    """The layer alone, with random weights; in int8 between a quantization and a dequantization."""
    kind, shape, weight_shape, *rest = signature
    random = np.random.default_rng(0)
    constants: dict[str, np.ndarray] = {"bias": random.standard_normal(weight_shape[0]).astype(np.float32)}
    if kind == "Conv":
        stride, padding, dilation, groups = rest
        given: dict[str, Any] = {"strides": stride, "pads": (*padding, *padding), "dilations": dilation}
        given["group"] = groups
    else:
        given = {"transB": 1}
    nodes = []
    if int8:
        constants["weight_int8"] = random.integers(-63, 64, weight_shape).astype(np.int8)
        constants["weight_scale"] = np.full(weight_shape[0], 0.01, np.float32)
        constants["weight_zero"] = np.zeros(weight_shape[0], np.int8)
        constants["scale"], constants["zero"] = np.array(0.05, np.float32), np.array(128, np.uint8)
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_int8"]),
            helper.make_node("DequantizeLinear", ["x_int8", "scale", "zero"], ["x_float"]),
            helper.make_node("DequantizeLinear", ["weight_int8", "weight_scale", "weight_zero"], ["weight"], axis=0),
            helper.make_node(kind, ["x_float", "weight", "bias"], ["y_float"], **given),
            helper.make_node("QuantizeLinear", ["y_float", "scale", "zero"], ["y_int8"]),
            helper.make_node("DequantizeLinear", ["y_int8", "scale", "zero"], ["y"]),
        ]
    else:
        constants["weight"] = random.standard_normal(weight_shape).astype(np.float32)
        nodes.append(helper.make_node(kind, ["x", "weight", "bias"], ["y"], **given))
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _call(model: onnx.ModelProto, int8: bool) -> Callable[[], object]:
    session = open_session(model.SerializeToString(), threads=1, scheme="int8" if int8 else "float")
    shape = [item.dim_value for item in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return lambda: session.run(None, {"x": x})
