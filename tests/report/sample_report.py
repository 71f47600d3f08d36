"""A full report of format 2, as `verify` would write it, and its neighbours; the numbers are made up."""

from pathlib import Path
from typing import Any

import numpy as np

SIDE = {
    "params": 1708417,
    "macs": 98066432,
    "bytes": 6833668,
    "ms_per_call": 18.2,
    "ms_per_call_p90": 21.9,
    "ms_per_image": 495.6,
}


def entry(value: float, teacher: float | None, floor: float | None, half: float, better: str = "less") -> dict:
    """An entry by the decision rule: not resolved within the floor, or with 0 in the interval of the excess."""
    if teacher is None:
        return {
            "value": value,
            "interval": [value - half, value + half],
            "count": 1000,
            "better": better,
            "teacher": None,
            "floor": None,
            "excess": None,
            "excess_interval": None,
            "resolved": None,
        }
    excess = value - teacher
    assert floor is not None
    return {
        "value": value,
        "interval": [value - half, value + half],
        "count": 1000,
        "better": better,
        "teacher": teacher,
        "floor": floor,
        "excess": excess,
        "excess_interval": [excess - half, excess + half],
        "resolved": abs(excess) > max(floor, half),
    }


def space(shift: float, enough: bool = True) -> dict:
    return {
        "dimension": 32 if enough else 60,
        "enough": enough,
        "metrics": {
            "frechet": entry(0.31 + shift, 0.12, 0.05, 0.06),
            "kid": entry(0.0021 + shift / 100, 0.0019, 0.0008, 0.0006),
            "two_sample": entry(0.53, 0.50, 0.02, 0.02),
            "density": entry(1.08, 0.99, 0.03, 0.03, "more"),
            "coverage": entry(0.94, 0.97, 0.01, 0.012, "more"),
            "vendi": entry(14.2, 14.6, 0.5, 0.4, "more"),
            "class_variance": entry(0.41, 0.42, 0.02, 0.02, "more"),
            "frechet_ratio": entry(1.02, 1.0, 0.03, 0.04),
            "memorised": {"reason": "the data set's images are not at hand"},
        },
    }


def latency(batch: int, scale: float) -> list[dict]:
    rows: list[dict] = []
    for name, ms in (
        ("teacher, PyTorch", 18.2),
        ("teacher, torch.compile", 9.4 if batch == 1 else None),
        ("teacher, onnxruntime fp32", 4.8),
        ("teacher, OpenVINO fp32", 1.9),
        ("student, onnxruntime int8", 2.1),
    ):
        row: dict[str, Any] = {"name": name, "batch": batch, "threads": 1}
        if ms is None:
            rows.append({**row, "reason": "no C++ compiler was found on this machine"})
            continue
        ms *= scale
        rows.append(
            {
                **row,
                "ms": ms,
                "p90": 1.2 * ms,
                "interval": [0.97 * ms, 1.03 * ms],
                "speedup": 18.2 * scale / ms,
                "speedup_interval": [17.4 * scale / ms, 19.0 * scale / ms],
            }
        )
    return rows


ALWAYS = [
    {"name": name, "kind": kind, "limit": limit, "value": value, "bound": value, "passed": True, "always": True}
    for name, kind, limit, value in (
        ("finite_output", "min", 1.0, 1.0),
        ("listed_files", "min", 1.0, 1.0),
        ("sampling_error", "max", 1e-5, 0.0),
        ("kernel_loss", "max", 1.0, 0.12),
    )
]


def of(verdict: str) -> dict[str, Any]:
    """A report of that verdict: kernels that are not as simulated make it "fail", no gate on quality "not judged"."""
    report = full()
    if verdict == "fail":
        report["gates"][-1] = {**report["gates"][-1], "value": 8.4, "bound": 8.7, "passed": False}
    if verdict == "not judged":
        report["gates"] = [gate for gate in report["gates"] if gate["name"] not in ("class_agreement", "frechet")]
    return {**report, "verdict": verdict}


def full() -> dict[str, Any]:
    """Every part of the schema; some figures worse, one baseline faster, one engine failed, one gate left out."""
    steps = [980, 931, 882, 833, 784, 735, 686, 637, 588, 539, 490, 441, 392, 343, 294, 245, 196, 147, 98, 49]
    error = [0.004 + 0.03 * (i / 19) ** 3 for i in range(20)]
    student = {"params": 672024, "macs": 38889802, "bytes": 982030, "ms_per_call": 2.1, "ms_per_call_p90": 2.7}
    scales = [1.0, 2.0, 3.0, 5.0]
    rising = [0.972, 0.997, 0.999, 1.0]
    falling = [0.55, 0.43, 0.36, 0.25]
    stage = {"params": 672024, "macs": 38889802, "engine": "PyTorch"}
    return {
        "format": 3,
        "recipe": "digits-edge",
        "verdict": "pass",
        "summary": "8.7× faster a call than the teacher in PyTorch and 2.3× than in onnxruntime fp32, 0.14× its bytes.",
        "gates": [
            {"name": "class_agreement", "kind": "min", "limit": 0.97, "value": 0.998, "bound": 0.9931, "passed": True},
            {"name": "call_speedup", "kind": "min", "limit": 8.0, "value": 8.67, "bound": 8.12, "passed": True},
            {"name": "bytes", "kind": "max", "limit": 0.2, "value": 0.1437, "bound": 0.1437, "passed": True},
            {"name": "frechet", "kind": "max", "limit": 1.0, "reason": "too few samples for its dimension"},
            *ALWAYS,
        ],
        "teacher": SIDE,
        "student": {**student, "ms_per_image": 88.8},
        "ratios": {
            "params": 0.3934,
            "macs": 0.3966,
            "bytes": 0.1437,
            "call_speedup": 8.67,
            "image_speedup": 5.58,
            "call_speedup_over_onnxruntime": 2.29,
        },
        "intervals": {
            "call_speedup": [8.12, 9.1],
            "call_speedup_over_onnxruntime": [2.1, 2.44],
            "image_speedup": [5.2, 5.9],
        },
        "latency": latency(1, 1) + latency(16, 11),
        "process": [
            {"name": "teacher, PyTorch", "cold_start_s": 5.82, "peak_memory_bytes": 512000000},
            {"name": "teacher, onnxruntime fp32", "cold_start_s": 0.31, "peak_memory_bytes": 96000000},
            {"name": "student, onnxruntime int8", "cold_start_s": 0.44, "peak_memory_bytes": 81000000},
        ],
        "quality": {
            "psnr": entry(30.13, None, None, 0.2, "more"),
            "ssim": entry(0.939, None, None, 0.003, "more"),
            "class_agreement": entry(0.998, None, None, 0.002, "more"),
            "class_accuracy": entry(0.984, 0.9985, 0.002, 0.004, "more"),
            "output_error": entry(0.0124, None, None, 0.0008),
            "guidance_ratio": {"reason": "the guided outputs are too small to tell"},
            "classifier_accuracy": {"value": 0.9917, "interval": None},
        },
        "spaces": {"classifier": space(0.0), "random": space(-0.17, enough=False), "pixels": space(0.1)},
        "agreement": {"frechet": False, "kid": True, "two_sample": True, "coverage": True},
        "probe": {
            "timesteps": steps,
            "error": error,
            "low": [0.8 * value for value in error],
            "high": [1.25 * value for value in error],
            "floor": [2e-9] * 20,
        },
        "guidance": {
            "scales": scales,
            "curves": {
                "class_accuracy": {
                    "teacher": [{"value": v, "interval": [v - 0.008, min(v + 0.004, 1)]} for v in rising],
                    "student": [{"value": v - 0.004, "interval": [v - 0.014, v]} for v in rising],
                },
                "class_variance": {
                    "teacher": [{"value": v, "interval": [v - 0.02, v + 0.02]} for v in falling],
                    "student": [{"value": 0.97 * v, "interval": [0.97 * v - 0.02, 0.97 * v + 0.02]} for v in falling],
                },
            },
        },
        "by_class": {
            "labels": list(range(10)),
            "teacher": [1.0, 1.0, 0.99, 1.0, 1.0, 0.98, 1.0, 1.0, 0.97, 1.0],
            "student": [1.0, 0.99, 0.99, 0.97, 1.0, 0.98, 1.0, 0.99, 0.93, 0.98],
        },
        "few_steps": [
            {
                "name": "teacher, UniPC, onnxruntime fp32",
                "evaluations": 8,
                "class_accuracy": 0.991,
                "frechet": 0.66,
                "ms_per_image": 77.0,
            },
            {
                "name": "teacher, UniPC, onnxruntime fp32",
                "evaluations": 12,
                "class_accuracy": 0.998,
                "frechet": 0.3,
                "ms_per_image": 116.0,
            },
        ],
        "stages": [
            {
                "name": "teacher",
                "pass": "",
                **SIDE,
                "engine": "PyTorch",
                "output_error": 0.0,
                "sqnr_db": None,
                "psnr": None,
            },
            {
                **stage,
                "name": "prune_channels",
                "pass": "prune_channels",
                "bytes": 2688096,
                "ms_per_call": 11.9,
                "output_error": 0.48,
                "sqnr_db": 3.2,
                "psnr": 11.2,
            },
            {
                **stage,
                "name": "distill",
                "pass": "distill",
                "bytes": 2688096,
                "ms_per_call": 11.9,
                "output_error": 0.0103,
                "sqnr_db": 19.9,
                "psnr": 31.0,
            },
            {
                **stage,
                "name": "quantize",
                "pass": "quantize",
                "bytes": 700024,
                "ms_per_call": None,
                "output_error": 0.0122,
                "sqnr_db": 19.1,
                "psnr": 30.2,
            },
            {
                **stage,
                "name": "export_onnx",
                "pass": "export_onnx",
                "bytes": 982030,
                "ms_per_call": 2.1,
                "output_error": 0.0124,
                "sqnr_db": 19.07,
                "psnr": 30.13,
                "engine": "onnxruntime int8",
            },
        ],
        "quantization": {"simulated_sqnr_db": 27.4, "kernels_sqnr_db": 27.2},
        "reference": {"count": 4000, "identity": "9f2c41d0", "solver": "dpmpp_2m", "steps": 20, "paired": 1000},
        "samples": 1000,
        "seed": 0,
        "seeds": {"reference": [1, 2, 3, 4], "student": [0]},
        "environment": {
            "cpu": "AMD EPYC",
            "threads": 1,
            "python": "3.11.7",
            "torch": "2.13.0+cpu",
            "onnxruntime": "1.32.0",
            "compress": "0.1.0",
        },
        "commands": [
            "compress apply recipes/digits-edge.yaml",
            "compress verify exported/digits-edge --teacher benchmarks/teachers/digits",
        ],
    }


OPTIONAL = (
    "latency",
    "process",
    "spaces",
    "agreement",
    "probe",
    "guidance",
    "by_class",
    "few_steps",
    "stages",
    "quantization",
)


def minimal() -> dict[str, Any]:
    """What `verify` gives on its own for an unconditional model: none of the parts that may be missing."""
    report = {key: value for key, value in full().items() if key not in OPTIONAL}
    return {**report, "gates": [], "quality": {"psnr": entry(28.0, None, None, 0.3, "more")}}


def records() -> list[dict[str, Any]]:
    """Records of a short recipe, as the engine writes them."""
    versions = {"compress": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.4.6"}
    common = {"identity": "0" * 64, "changed": True, "stored": None, "before": {}, "after": {}, "versions": versions}
    return [
        {
            **common,
            "pass": "distill",
            "name": "distill",
            "config": {"steps": 2000, "null_fraction": None},
            "seconds": 1151.0,
            "notes": {},
        },
        {
            **common,
            "pass": "export_onnx",
            "name": "export_onnx",
            "config": {"batch": 1},
            "seconds": 16.1,
            "notes": {"inputs": {"sample": [1, 1, 16, 16], "class_labels": [1]}},
        },
        {**common, "pass": "verify", "name": "verify", "config": {"samples": 1000}, "seconds": 221.0, "notes": {}},
    ]


def write_samples(path: Path, labelled: bool = True) -> Path:
    """Pairs of samples: a bright bar whose place is its class; the student's is dimmer."""
    labels = np.arange(40) % 10
    teacher = np.full((40, 1, 16, 16), -1.0, np.float32)
    for image, label in zip(teacher, labels, strict=True):
        image[0, 3:13, label + 3] = 1.0
    arrays = {"teacher": teacher, "student": 0.8 * teacher}
    if labelled:
        arrays["labels"] = labels
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path
