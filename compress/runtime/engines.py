"""Engines: each opens the file of a graph and runs it. Here alone a session is opened and a provider named.

Another is added by one class with `name`, `version` and `open`, to be handed to `Bundle`, and to be named in recipes by
a row of `ENGINES`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import BundleError
from compress.runtime.engine import Engine, Feeds, Graph, closed, library, specs
from compress.runtime.qnn import Qnn
from compress.runtime.schemes import SCHEMES

_PROVIDER = "ExecutionProvider"


def _short(provider: str) -> str:
    return provider.removesuffix(_PROVIDER).lower()


@dataclass(frozen=True)
class OnnxRuntime:
    """onnxruntime. providers: first the one to be preferred; the CPU computes what they have not.
    optimized: False: every node as it stands.
    """

    providers: tuple[str, ...] = (f"CPU{_PROVIDER}",)
    optimized: bool = True

    @property
    def name(self) -> str:
        """With the provider, unless that is the CPU: `onnxruntime`, `onnxruntime:cuda`."""
        provider = _short(self.providers[0])
        return "onnxruntime" if provider == "cpu" else f"onnxruntime:{provider}"

    @property
    def version(self) -> str:
        """As `Engine.version`. Raises BundleError for a provider that this onnxruntime lacks."""
        onnxruntime = library("onnxruntime", "onnxruntime")
        known = onnxruntime.get_available_providers()
        missing = [name for name in self.providers if name not in known]
        if missing:
            raise BundleError(
                f"{self.name}: onnxruntime has no {missing[0]} here, but {', '.join(known)}; install a build that has "
                "it, or take another engine"
            )
        return str(onnxruntime.__version__)

    def options(self, threads: int | None, scheme: str) -> Any:
        """SessionOptions with which a scheme runs best, or float if it is unknown."""
        onnxruntime = library("onnxruntime", "onnxruntime")
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
        onnxruntime, _ = library("onnxruntime", "onnxruntime"), self.version
        asked: dict[str, Any] = {"providers": list(self.providers), "enable_fallback": 0}
        try:
            session = onnxruntime.InferenceSession(graph, self.options(threads, scheme), **asked)
        except Exception as error:  # onnxruntime raises its own, undocumented exception types
            raise closed(graph, self, error) from None
        if self.providers[0] not in session.get_providers():  # it goes on without, where a library of it is missing
            raise BundleError(f"{self.name}: onnxruntime cannot start {self.providers[0]}; see what it needs installed")
        return Graph(*specs(session), lambda feeds: session.run(None, feeds))


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO. device: CPU, GPU, NPU. precision: f32 or bf16, of what is float in the graph; by itself it takes bf16
    where the processor has it.
    """

    device: str = "CPU"
    precision: str = "f32"

    @property
    def name(self) -> str:
        """With what is not by default: `openvino`, `openvino:bf16`."""
        own = [self.device.lower()] * (self.device != "CPU") + [self.precision] * (self.precision != "f32")
        return ":".join(["openvino", *own])

    @property
    def version(self) -> str:
        """As `Engine.version`. Raises BundleError for bf16 on a device that would only imitate it."""
        openvino = library("openvino", "compress-diffusion[openvino]")
        if self.precision == "bf16" and "BF16" not in openvino.Core().get_property(
            self.device, "OPTIMIZATION_CAPABILITIES"
        ):
            raise BundleError(f"{self.name}: this {self.device} has no bf16; take openvino, which computes in f32")
        return str(openvino.__version__)

    def open(self, graph: Path | bytes, threads: int | None = None, scheme: str = "float") -> Graph:
        """As `Engine.open`; a scheme needs no options of its own here."""
        openvino, _ = library("openvino", "compress-diffusion[openvino]"), self.version
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": self.precision}
        if threads and self.device == "CPU":
            options["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        try:
            model = core.compile_model(core.read_model(graph), self.device, options)
        except Exception as error:  # RuntimeErrors of its frontends and plugins
            raise closed(graph, self, error) from None
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
ENGINES: dict[str, Engine] = {engine.name: engine for engine in (ONNXRUNTIME, OpenVino(), OpenVino(precision="bf16"))}

SIMULATORS: dict[str, Engine] = {engine.name: engine for engine in (Qnn(),)}  # right and slow: never the fastest


def engine_called(name: str) -> Engine:
    """The engine of this name: a row of ENGINES, or onnxruntime with any provider that it knows. Raises BundleError."""
    if name in ENGINES | SIMULATORS:
        return (ENGINES | SIMULATORS)[name]
    family, _, provider = name.partition(":")
    providers = library("onnxruntime", "onnxruntime").get_all_providers()
    known = {_short(each): each for each in providers} if family == "onnxruntime" else {}
    if provider in known:
        return OnnxRuntime((known[provider],))
    said = (
        f"providers of onnxruntime are {', '.join(known)}" if known else f"known are {', '.join(ENGINES | SIMULATORS)}"
    )
    raise BundleError(f"{name}: is no engine; {said}{'' if known else ', onnxruntime:PROVIDER'}")


def installed() -> dict[str, Engine]:
    """The rows of ENGINES, installed or not, and onnxruntime with each other provider that its build brings."""
    providers = library("onnxruntime", "onnxruntime").get_available_providers()
    local = [OnnxRuntime((each,)) for each in providers if _short(each) != "azure"]  # which computes elsewhere
    return ENGINES | {engine.name: engine for engine in local}


def _size(dimension: Any) -> int | None:
    return None if dimension.is_dynamic else int(dimension.get_length())
