"""Qualcomm's compiler and its simulator of the NPU, as the package onnxruntime-qnn brings them.

On x86 every instruction of the NPU is imitated: what comes out is right to the last bit, and takes seconds a call.
"""

import json
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from compress.errors import BundleError
from compress.runtime.engine import Graph, closed, library, specs

PROVIDER = "QNNExecutionProvider"
MOST_NAMED = 5  # nodes


@dataclass(frozen=True)
class Qnn:
    """soc_model, htp_arch: of the processor, by Qualcomm's numbers: 57 and 75 are a Snapdragon 8 Gen 3."""

    soc_model: int = 57
    htp_arch: int = 75

    @property
    def name(self) -> str:
        """As recipes and reports call it."""
        return "qnn"

    @property
    def version(self) -> str:
        """As `Engine.version`."""
        return str(_registered().__version__)

    def open(self, graph: Path | bytes, threads: int | None = None, scheme: str = "float") -> Graph:
        """As `Engine.open`; no thread can be set and no scheme needs options. Raises BundleError for a graph of which
        nodes are left to the CPU, and names them.
        """
        onnxruntime, qnn = library("onnxruntime", "onnxruntime"), _registered()
        options: Any = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        with tempfile.TemporaryDirectory() as folder:
            settings = {
                "backend_path": qnn.get_qnn_htp_path(),
                "soc_model": str(self.soc_model),
                "htp_arch": str(self.htp_arch),
                "htp_graph_finalization_optimization_mode": "1",  # preparing takes minutes otherwise
                "offload_graph_io_quantization": "0",
                "enable_framework_op_trace": "1",
                "framework_op_trace_dir": folder,
            }
            options.add_provider_for_devices([one for one in onnxruntime.get_ep_devices() if _is_npu(one)], settings)
            try:
                session = onnxruntime.InferenceSession(graph, options)
            except Exception as error:  # onnxruntime raises its own, undocumented exception types
                raise closed(graph, self, _refused(Path(folder)) or error) from None
        return Graph(*specs(session), lambda feeds: session.run(None, feeds))


def _is_npu(device: Any) -> bool:
    return bool(device.ep_name == PROVIDER)


def _refused(folder: Path) -> BundleError | None:
    """Which nodes the compiler left out, by the trace that it wrote."""
    try:
        (trace,) = folder.glob("*.json")
        nodes = json.loads(trace.read_text(encoding="utf-8"))["unsupported_nodes"]
        said = [f"{node['node_name']} ({node['op_type']}: {node.get('reason')})" for node in nodes]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    more = f" and {len(said) - MOST_NAMED} more" if said[MOST_NAMED:] else ""
    return BundleError(f"it refuses {'; '.join(said[:MOST_NAMED])}{more}") if said else None


@cache
def _registered() -> Any:
    """The package, known to onnxruntime. Raises BundleError."""
    onnxruntime, qnn = library("onnxruntime", "onnxruntime"), library("onnxruntime_qnn", "compress-diffusion[npu]")
    try:
        onnxruntime.register_execution_provider_library(PROVIDER, qnn.get_library_path())
    except Exception as error:  # of another version, or of another system
        raise BundleError(f"qnn: onnxruntime cannot load it: {' '.join(str(error).split())}") from None
    if not any(map(_is_npu, onnxruntime.get_ep_devices())):
        raise BundleError("qnn: it knows no device on this machine")
    return qnn
