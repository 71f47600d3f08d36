"""One tool makes a file: `python candidate_worker.py TOOL SOURCE CALIBRATION TARGET` in the tool's environment.

SOURCE: a pipeline's folder for optimum, else an ONNX file. CALIBRATION: .npz with inputs by name, [n,…] each; the
timestep is one number a call. TARGET: the ONNX file to write, in a folder of its own.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np


def optimum(source: Path, _feeds: list[dict[str, Any]], target: Path) -> None:
    """optimum-onnx, as its command line exports a pipeline; the U-Net of it."""
    from optimum.exporters.onnx import main_export

    main_export(str(source), target.parent, task="text-to-image", do_validation=False)
    (target.parent / "unet" / "model.onnx").replace(target)


def nncf(source: Path, feeds: list[dict[str, Any]], target: Path) -> None:
    """NNCF's post-training quantization with its defaults, from ONNX to ONNX."""
    import nncf as library
    import onnx

    quantized = library.quantize(onnx.load(source), library.Dataset(feeds), subset_size=len(feeds))
    onnx.save(quantized, target)


def quantize_static(source: Path, feeds: list[dict[str, Any]], target: Path) -> None:
    """onnxruntime's static quantization: QDQ, weights per channel."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, Any] | None:
            return feeds.pop() if feeds else None

    quantization.quantize_static(
        source,
        target,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        per_channel=True,
    )


def quantize_dynamic(source: Path, _feeds: list[dict[str, Any]], target: Path) -> None:
    """onnxruntime's dynamic quantization."""
    from onnxruntime import quantization

    quantization.quantize_dynamic(source, target)


if __name__ == "__main__":
    tool, (source, calibration, target) = sys.argv[1], map(Path, sys.argv[2:])
    with np.load(calibration) as stored:
        arrays = {name: stored[name] for name in stored.files}
    times = arrays.pop("timestep").astype(np.float32)
    feeds = [
        {"timestep": np.array(time), **{name: array[i : i + 1] for name, array in arrays.items()}}
        for i, time in enumerate(times)
    ]
    globals()[tool](source, feeds, target)
