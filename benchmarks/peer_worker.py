"""One engine in a process of its own: loads a model, answers with outputs and with how long calls take.

Runs in the virtual environment of its engine and imports nothing of this package. Requests and answers are
JSON, one a line, on standard input and output:

    {"do": "load", "engine": …, "source": …, "batch": …, "threads": …, "calibration": …, "folder": …}
                                            → {"bytes": of the model's files, "notes": [what to know of this engine]}
    {"do": "outputs", "inputs": npz, "to": npy}   → {}    the model's output for every input, in batches
    {"do": "train", "inputs": npz, "calls": n}    → {"ms": a call, "idle_ms": CPU time used since the last answer}

An answer {"error": …} is the last one. The process ends when its standard input does.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Feeds = dict[str, np.ndarray]


@dataclass
class Engine:
    """A loaded model. bind: inputs of one batch → a call that computes their output, inputs already in place."""

    bind: Callable[[Feeds], Callable[[], Any]]
    size_bytes: int
    notes: list[str] = field(default_factory=list)


def batches(file: str, batch: int) -> Iterator[Feeds]:
    """Inputs by name, [batch, ...] each, from an .npz of [n, ...]."""
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for start in range(0, len(arrays["sample"]) - batch + 1, batch):
        yield {name: array[start : start + batch] for name, array in arrays.items()}


def pytorch(job: dict[str, Any]) -> Engine:
    """PyTorch eager. source: a diffusers model folder."""
    return Engine(_torch_bind(_net(job)), _weights(job))


def torch_compile(job: dict[str, Any]) -> Engine:
    """torch.compile with its defaults (inductor)."""
    import torch

    return Engine(_torch_bind(torch.compile(_net(job))), _weights(job))


def quanto(job: dict[str, Any]) -> Engine:
    """optimum-quanto, weights and activations int8, calibrated and frozen."""
    import torch
    from optimum.quanto import Calibration, QModuleMixin, freeze, qint8, quantize
    from safetensors.torch import save_file

    net = _net(job)
    quantize(net, weights=qint8, activations=qint8)
    with Calibration():
        for feeds in batches(job["calibration"], job["batch"]):
            _torch_bind(net)(feeds)()
    freeze(net)
    file = Path(job["folder"]) / "quanto.safetensors"
    save_file({k: v.contiguous() for k, v in net.state_dict().items() if isinstance(v, torch.Tensor)}, file)
    layers = [module for module in net.modules() if isinstance(module, QModuleMixin)]
    int8 = sum("output" in layer._quantize_hooks for layer in layers)
    note = f"convolutions compute in float; the outputs of {int8} of {len(layers)} quantized layers are int8"
    return Engine(_torch_bind(net), file.stat().st_size, [note])


def _net(job: dict[str, Any]) -> Any:
    import diffusers
    import torch

    torch.set_num_threads(job["threads"])
    torch.set_grad_enabled(False)
    config = json.loads((Path(job["source"]) / "config.json").read_text(encoding="utf-8"))
    return getattr(diffusers, config["_class_name"]).from_pretrained(job["source"]).eval().requires_grad_(False)


def _torch_bind(net: Any) -> Callable[[Feeds], Callable[[], Any]]:
    import torch

    def bind(feeds: Feeds) -> Callable[[], Any]:
        tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
        channels = tensors["sample"].shape[1]  # a transformer may give variances behind them
        if "Transformer" in type(getattr(net, "_orig_mod", net)).__name__:
            tensors["hidden_states"] = tensors.pop("sample")
        return lambda: net(**tensors, return_dict=False)[0][:, :channels]

    return bind


def _weights(job: dict[str, Any]) -> int:
    return sum(file.stat().st_size for file in Path(job["source"]).glob("*.safetensors"))


def onnxruntime(job: dict[str, Any]) -> Engine:
    """ONNX Runtime with its defaults. source: an .onnx file."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.log_severity_level = 3
    session = ort.InferenceSession(job["source"], options, providers=["CPUExecutionProvider"])
    return Engine(lambda feeds: lambda: session.run(None, feeds)[0], Path(job["source"]).stat().st_size)


def toolkit(job: dict[str, Any]) -> Engine:
    """This toolkit's int8 file, opened as its runtime does. source: an .onnx file."""
    from compress.runtime.engines import ONNXRUNTIME

    graph = ONNXRUNTIME.open(Path(job["source"]), job["threads"], "int8")
    return Engine(lambda feeds: lambda: graph.run(feeds)[0], Path(job["source"]).stat().st_size)


def quantize_static(job: dict[str, Any]) -> Engine:
    """onnxruntime's static quantization: QDQ, uint8 activations, int8 weights per channel, ranges that clip nothing."""
    return _quantize_static(job)


def quantize_static_tuned(job: dict[str, Any]) -> Engine:
    """The same with ranges by percentile and the ends of the net in float, as a careful user would set it up."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod

    nodes = onnx.load(job["source"], load_external_data=False).graph.node
    convolutions, linears = ([n.name for n in nodes if n.op_type == kind] for kind in ("Conv", "Gemm"))
    ends = [convolutions[0], convolutions[-1], *linears[:2]]  # the first two linear layers embed the time
    return _quantize_static(job, calibrate_method=CalibrationMethod.Percentile, nodes_to_exclude=ends)


def quantize_dynamic(job: dict[str, Any]) -> Engine:
    """onnxruntime's dynamic quantization: int8 weights per channel, activations measured at every call."""
    from onnxruntime import quantization

    target = str(Path(job["folder"]) / "quantized.onnx")
    quantization.quantize_dynamic(job["source"], target, per_channel=True, weight_type=quantization.QuantType.QInt8)
    return onnxruntime({**job, "source": target})


def _quantize_static(job: dict[str, Any], **options: Any) -> Engine:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.items = batches(job["calibration"], job["batch"])

        def get_next(self) -> Feeds | None:
            return next(self.items, None)

    source, prepared = job["source"], str(Path(job["folder"]) / "prepared.onnx")
    notes = []
    try:
        quant_pre_process(source, prepared)
    except Exception as error:  # symbolic shape inference fails on some graphs; quantization works without
        notes.append(f"without quant_pre_process, which failed: {_reason(error)}")
        prepared = source
    target = str(Path(job["folder"]) / "quantized.onnx")
    quantization.quantize_static(
        prepared,
        target,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        **options,
    )
    engine = onnxruntime({**job, "source": target})
    return Engine(engine.bind, engine.size_bytes, notes)


def openvino(job: dict[str, Any]) -> Engine:
    """OpenVINO with its defaults for latency. source: an .onnx file."""
    import openvino as ov

    return _openvino(ov.convert_model(job["source"]), job)


def openvino_onnx(job: dict[str, Any]) -> Engine:
    """OpenVINO on an .onnx file as it is: saved in its own form, scales of int8 would become fp16, and layers float."""
    return _compiled(Path(job["source"]), Path(job["source"]).stat().st_size, job)


def nncf(job: dict[str, Any]) -> Engine:
    """NNCF post-training quantization with its defaults, on OpenVINO."""
    return _nncf(job)


def nncf_tuned(job: dict[str, Any]) -> Engine:
    """NNCF with what its documentation advises for nets with attention and SiLU, and with ranges that clip nothing."""
    import nncf as library
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    return _nncf(
        job,
        preset=library.QuantizationPreset.MIXED,
        model_type=library.ModelType.TRANSFORMER,
        advanced_parameters=library.AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
        ),
    )


def _nncf(job: dict[str, Any], **options: Any) -> Engine:
    import nncf as library
    import openvino as ov

    items = list(batches(job["calibration"], job["batch"]))
    model = library.quantize(ov.convert_model(job["source"]), library.Dataset(items), subset_size=len(items), **options)
    return _openvino(model, job)


def _openvino(model: Any, job: dict[str, Any]) -> Engine:
    """Saved, read back and compiled."""
    import openvino as ov

    file = Path(job["folder"]) / "openvino.xml"
    ov.save_model(model, file)
    return _compiled(file, file.stat().st_size + file.with_suffix(".bin").stat().st_size, job)


def _compiled(file: Path, size: int, job: dict[str, Any]) -> Engine:
    import openvino as ov

    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": job["threads"]}
    compiled = ov.Core().compile_model(file, "CPU", hints)
    request = compiled.create_infer_request()
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    notes = [f"what is not int8 is computed in {precision}, OpenVINO's default on this CPU"]
    return Engine(lambda feeds: lambda: request.infer(feeds)[0], size, notes)


_ENGINES = (
    pytorch,
    torch_compile,
    quanto,
    onnxruntime,
    toolkit,
    quantize_static,
    quantize_static_tuned,
    quantize_dynamic,
    openvino,
    openvino_onnx,
    nncf,
    nncf_tuned,
)
ENGINES: dict[str, Callable[[dict[str, Any]], Engine]] = {engine.__name__: engine for engine in _ENGINES}


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300]


def _train(call: Callable[[], object], calls: int) -> float:
    """Milliseconds a call, over `calls` calls in a row after one untimed."""
    call()
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return 1000 * (time.perf_counter() - began) / calls


def serve() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log, not between the answers
    engine: Engine | None = None
    bound: dict[str, Callable[[], Any]] = {}
    batch, used = 1, time.process_time()
    for line in sys.stdin:
        idle = time.process_time() - used
        request = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if request["do"] == "load":
                batch, engine = request["batch"], ENGINES[request["engine"]](request)
                answer = {"bytes": engine.size_bytes, "notes": engine.notes}
            elif request["do"] == "outputs":
                assert engine is not None
                # Copied: an engine may reuse the memory of its output.
                parts = [np.array(engine.bind(feeds)(), copy=True) for feeds in batches(request["inputs"], batch)]
                np.save(request["to"], np.concatenate(parts))
            else:
                assert engine is not None
                inputs = request["inputs"]
                if inputs not in bound:
                    bound[inputs] = engine.bind(next(batches(inputs, batch)))
                answer = {"ms": _train(bound[inputs], request["calls"]), "idle_ms": 1000 * idle}
        except Exception as error:  # an engine may fail in any way; the one who asks must hear of it
            answer = {"error": _reason(error)}
        print(json.dumps(answer), file=answers, flush=True)
        used = time.process_time()


if __name__ == "__main__":
    serve()
