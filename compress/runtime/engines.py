"""Engines: each opens the file of a graph and runs it. Here alone a session is opened and a provider named.

Another is added by one class with `name` and `open`, to be handed to `Bundle`, and to be named in recipes by a row of
`ENGINES`.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from compress.errors import BundleError
from compress.runtime.schemes import SCHEMES

Feeds = Mapping[str, np.ndarray]
Specs = Mapping[str, Mapping[str, Any]]  # name -> dtype, shape
_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}  # by onnxruntime's names
DTYPES = tuple(_TYPES.values())


@dataclass(frozen=True)
class Graph:
    """An opened graph. inputs, outputs: dtype and shape by name, as in bundle.json; a size that is left open is no
    number. run: outputs, in order, from inputs by name; may be called by several threads at once.
    """

    inputs: Specs
    outputs: Specs
    run: Callable[[Feeds], Sequence[np.ndarray]]


class Engine(Protocol):
    """Opens graphs. What an engine takes beside this are fields of its own."""

    @property
    def name(self) -> str:
        """As reports call it."""

    def open(self, graph: Path | bytes, threads: int | None = None, scheme: str = "float") -> Graph:
        """A graph from its file or its content. threads: None: the engine's choice. Raises BundleError."""


@dataclass(frozen=True)
class OnnxRuntime:
    """onnxruntime. providers: first the one to be preferred. optimized: False: every node as it stands."""

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    optimized: bool = True
    name = "onnxruntime"

    def options(self, threads: int | None, scheme: str) -> Any:
        """SessionOptions with which a scheme runs best, or float if it is unknown."""
        onnxruntime = _library("onnxruntime", "onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        for key, value in SCHEMES.get(scheme, SCHEMES["float"]).session.items():
            options.add_session_config_entry(key, value)
        if threads:
            options.intra_op_num_threads = threads
        if not self.optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options

    def open(self, graph: Path | bytes, threads: int | None = None, scheme: str = "float") -> Graph:
        """As `Engine.open`. Raises BundleError for a provider that this onnxruntime lacks."""
        onnxruntime = _library("onnxruntime", "onnxruntime")
        missing = [name for name in self.providers if name not in onnxruntime.get_available_providers()]
        if missing:
            known = ", ".join(onnxruntime.get_available_providers())
            raise BundleError(f"onnxruntime: has no {missing[0]} here, but {known}; install a build that has it")
        try:
            session = onnxruntime.InferenceSession(graph, self.options(threads, scheme), providers=list(self.providers))
        except Exception as error:  # onnxruntime raises its own, undocumented exception types
            raise _closed(graph, self, error) from None
        inputs, outputs = (
            {value.name: {"dtype": _TYPES.get(value.type, value.type), "shape": value.shape} for value in values}
            for values in (session.get_inputs(), session.get_outputs())
        )
        return Graph(inputs, outputs, lambda feeds: session.run(None, feeds))


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO, in float32 where the graph has floats. device: CPU, GPU, NPU."""

    device: str = "CPU"
    name = "openvino"

    def open(self, graph: Path | bytes, threads: int | None = None, scheme: str = "float") -> Graph:
        """As `Engine.open`; a scheme needs no options of its own here."""
        openvino = _library("openvino", "compress-diffusion[openvino]")
        # by itself it computes in bfloat16 where the processor can
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads and self.device == "CPU":
            options["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        try:
            model = core.compile_model(core.read_model(graph), self.device, options)
        except Exception as error:  # RuntimeErrors of its frontends and plugins
            raise _closed(graph, self, error) from None
        inputs, outputs = (
            {
                value.any_name: {
                    "dtype": value.element_type.to_dtype().name,
                    "shape": [_size(n) for n in value.partial_shape],
                }
                for value in values
            }
            for values in (model.inputs, model.outputs)
        )
        idle: list[Any] = []  # a request serves one thread at a time

        def run(feeds: Feeds) -> list[np.ndarray]:
            request = idle.pop() if idle else model.create_infer_request()
            found = [np.array(value) for value in request.infer(dict(feeds)).values()]
            idle.append(request)
            return found

        return Graph(inputs, outputs, run)


ONNXRUNTIME = OnnxRuntime()
ENGINES: dict[str, Engine] = {engine.name: engine for engine in (ONNXRUNTIME, OpenVino())}


def engine_called(name: str) -> Engine:
    """The engine of this name. Raises BundleError."""
    if name not in ENGINES:
        raise BundleError(f"{name}: is no engine; known are {', '.join(ENGINES)}")
    return ENGINES[name]


def _library(name: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BundleError(
            f"{name}: cannot be imported ({error}); pip install '{package}', or take another engine"
        ) from None


def _closed(graph: Path | bytes, engine: Engine, error: Exception) -> BundleError:
    name = graph if isinstance(graph, Path) else "the model"
    return BundleError(f"{name}: {engine.name} cannot open it: {' '.join(str(error).split())}")


def _size(dimension: Any) -> int | None:
    return None if dimension.is_dynamic else int(dimension.get_length())
