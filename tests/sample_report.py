"""A full report, as `verify` would fill it, and its neighbours; the numbers are made up."""

from pathlib import Path
from typing import Any

import numpy as np

from compress.report.parts import (
    ClassAccuracy,
    Decision,
    Environment,
    Failed,
    FewSteps,
    Figure,
    Latency,
    Process,
    Quantization,
    Reference,
    Response,
    Side,
    Space,
    Stage,
    TimestepError,
    Verdict,
)
from compress.report.report import FORMAT, Report
from compress.report.text_to_image import Attribute, PipelinePart

TEACHER: dict[str, Any] = {"side": "teacher", "engine": "PyTorch", "scheme": "float"}
ONNX, COMPILED, OPENVINO = ({**TEACHER, "engine": name} for name in ("onnxruntime", "torch.compile", "OpenVINO"))
STUDENT: dict[str, Any] = {"side": "student", "engine": "onnxruntime", "scheme": "int8"}
SIDE = Side(params=1708417, macs=98066432, bytes=6833668, ms_per_call=18.2, ms_per_call_p90=21.9, ms_per_image=495.6)


def entry(value: float, teacher: float | None, floor: float | None, half: float, better: Any = "less") -> Figure:
    """A figure whose interval, and that of its excess, is `half` to either side."""
    excess = None if teacher is None else value - teacher
    return Figure(
        value=value,
        better=better,
        interval=(value - half, value + half),
        count=1000,
        teacher=teacher,
        floor=floor,
        excess=excess,
        excess_interval=None if excess is None else (excess - half, excess + half),
    )


def space(shift: float, enough: bool = True) -> Space:
    return Space(
        dimension=32 if enough else 60,
        enough=enough,
        metrics={
            "frechet": entry(0.31 + shift, 0.12, 0.05, 0.06),
            "kid": entry(0.0021 + shift / 100, 0.0019, 0.0008, 0.0006),
            "two_sample": entry(0.53, 0.50, 0.02, 0.02),
            "density": entry(1.08, 0.99, 0.03, 0.03, "more"),
            "coverage": entry(0.94, 0.97, 0.01, 0.012, "more"),
            "vendi": entry(14.2, 14.6, 0.5, 0.4, "more"),
            "class_variance": entry(0.41, 0.42, 0.02, 0.02, "more"),
            "frechet_ratio": entry(1.02, 1.0, 0.03, 0.04),
        },
    )


def row(engine: dict[str, Any], ms: float, low: float = 0.97, high: float = 1.03, **more: Any) -> Latency:
    """Timed at batch 1, unless `more` says otherwise. low, high: ends of the interval ÷ ms."""
    given = {"batch": 1, "threads": 1, "speedup": 18.2 / ms, "speedup_interval": (17.4 / ms, 19.0 / ms), **more}
    return Latency(**engine, ms=ms, p90=1.2 * ms, interval=(low * ms, high * ms), **given)


def latency() -> tuple[Latency, ...]:
    timed = ((TEACHER, 18.2), (COMPILED, 9.4), (ONNX, 4.8), (OPENVINO, 1.9), (STUDENT, 2.1))
    larger = tuple(row(engine, 11 * ms, batch=16) for engine, ms in timed if engine is not COMPILED)
    return tuple(row(engine, ms) for engine, ms in timed) + larger


ALWAYS = tuple(
    Decision(name=name, kind=kind, limit=limit, value=value, bound=value, passed=True, always=True)  # type: ignore[arg-type]
    for name, kind, limit, value in (
        ("finite_output", "min", 1.0, 1.0),
        ("listed_files", "min", 1.0, 1.0),
        ("sampling_error", "max", 1e-5, 0.0),
        ("kernel_loss", "max", 1.0, 0.12),
    )
)


def gate(name: str, kind: Any, limit: float, value: float, bound: float, passed: bool = True) -> Decision:
    return Decision(name=name, kind=kind, limit=limit, value=value, bound=bound, passed=passed)


def part(name: Any, theirs: int, ours: int, slow: float, fast: float, psnr: float) -> PipelinePart:
    return PipelinePart(
        name=name,
        teacher_bytes=theirs,
        student_bytes=ours,
        teacher_ms=slow,
        student_ms=fast,
        psnr=entry(psnr, None, None, 0.4, "more"),
    )


def but(report: Report, **changes: Any) -> Report:
    """The same with some parts exchanged, checked."""
    return Report(**{**dict(report), **changes})


def of(verdict: Verdict) -> Report:
    """A report of that verdict: kernels that are not as simulated make it "fail", no gate on quality "not judged"."""
    report, gates = full(), full().gates
    if verdict == "fail":
        gates = (*gates[:-1], gates[-1].model_copy(update={"value": 8.4, "bound": 8.7, "passed": False}))
    if verdict == "not judged":
        gates = tuple(gate for gate in gates if gate.name not in ("class_agreement", "frechet"))
    return but(report, verdict=verdict, gates=gates)


def full() -> Report:
    """Every part; some figures worse, one baseline faster, one engine failed, one gate left out."""
    steps = [980, 931, 882, 833, 784, 735, 686, 637, 588, 539, 490, 441, 392, 343, 294, 245, 196, 147, 98, 49]
    error = [0.004 + 0.03 * (i / 19) ** 3 for i in range(20)]
    scales = [1.0, 2.0, 3.0, 5.0]
    rising = [0.972, 0.997, 0.999, 1.0]
    falling = [0.55, 0.43, 0.36, 0.25]
    teacher, ours = [1, 1, 0.99, 1, 1, 0.98, 1, 1, 0.97, 1], [1, 0.99, 0.99, 0.97, 1, 0.98, 1, 0.99, 0.93, 0.98]

    def stage(name: str, size: int, ms: float | None, error: float, sqnr: float, **more: Any) -> Stage:
        given = {"engine": "PyTorch", "scheme": "float", "params": 672024, "macs": 38889802, **more}
        return Stage(name=name, kind=name, bytes=size, ms_per_call=ms, output_error=error, sqnr_db=sqnr, **given)

    return Report(
        format=FORMAT,
        recipe="digits-edge",
        verdict="pass",
        gates=(
            gate("class_agreement", "min", 0.97, 0.998, 0.9931),
            gate("call_speedup", "min", 8.0, 8.67, 8.12),
            gate("bytes", "max", 0.2, 0.1437, 0.1437),
            Decision(name="frechet", kind="max", limit=1.0, reason="too few samples for its dimension"),
            *ALWAYS,
        ),
        teacher=SIDE,
        student=Side(
            params=672024, macs=38889802, bytes=982030, ms_per_call=2.1, ms_per_call_p90=2.7, ms_per_image=88.8
        ),
        ratios={
            "params": Figure(value=0.3934, better="less"),
            "macs": Figure(value=0.3966, better="less"),
            "bytes": Figure(value=0.1437, better="less"),
            "call_speedup": Figure(value=8.67, better="more", interval=(8.12, 9.1)),
            "call_speedup_over_onnxruntime": Figure(value=2.29, better="more", interval=(2.1, 2.44)),
            "image_speedup": Figure(value=5.58, better="more", interval=(5.2, 5.9)),
        },
        latency=latency(),
        failed=(Failed(**COMPILED, batch=16, threads=1, reason="no C++ compiler was found on this machine"),),
        process=(
            Process(**TEACHER, cold_start_s=5.82, peak_memory_bytes=512000000),
            Process(**ONNX, cold_start_s=0.31, peak_memory_bytes=96000000),
            Process(**STUDENT, cold_start_s=0.44, peak_memory_bytes=81000000),
        ),
        quality={
            "psnr": entry(30.13, None, None, 0.2, "more"),
            "ssim": entry(0.939, None, None, 0.003, "more"),
            "class_agreement": entry(0.998, None, None, 0.002, "more"),
            "class_accuracy": entry(0.984, 0.9985, 0.002, 0.004, "more"),
            "output_error": entry(0.0124, None, None, 0.0008),
            "classifier_accuracy": Figure(value=0.9917, better="more"),
        },
        unmeasured={"guidance_ratio": "the guided outputs are too small to tell"},
        spaces={"classifier": space(0.0), "random": space(-0.17, enough=False), "pixels": space(0.1)},
        probe=tuple(
            TimestepError(timestep=timestep, error=value, interval=(0.8 * value, 1.25 * value), floor=2e-9)
            for timestep, value in zip(steps, error, strict=True)
        ),
        guidance={
            "class_accuracy": tuple(
                Response(scale=scale, teacher=entry(v, None, None, 0.008), student=entry(v - 0.004, None, None, 0.01))
                for scale, v in zip(scales, rising, strict=True)
            ),
            "class_variance": tuple(
                Response(scale=scale, teacher=entry(v, None, None, 0.02), student=entry(0.97 * v, None, None, 0.02))
                for scale, v in zip(scales, falling, strict=True)
            ),
        },
        by_class=tuple(
            ClassAccuracy(label=label, teacher=a, student=b)
            for label, (a, b) in enumerate(zip(teacher, ours, strict=True))
        ),
        few_steps=(
            FewSteps(
                **ONNX,
                solver="ddim",
                evaluations=8,
                ms_per_image=77.0,
                space="pixels",
                frechet=0.66,
                class_accuracy=0.991,
            ),
            FewSteps(
                **ONNX,
                solver="ddim",
                evaluations=12,
                ms_per_image=116.0,
                space="pixels",
                frechet=0.3,
                class_accuracy=0.998,
            ),
        ),
        stages=(
            stage("teacher", SIDE.bytes, 18.2, 0.0, 200.0, params=SIDE.params, macs=SIDE.macs),
            stage("prune_channels", 2688096, 11.9, 0.48, 3.2),
            stage("distill", 2688096, 11.9, 0.0103, 19.9),
            stage("quantize", 700024, None, 0.0122, 19.1, scheme="int8"),
            stage("export_onnx", 982030, 2.1, 0.0124, 19.07, engine="onnxruntime", scheme="int8"),
        ),
        quantization=Quantization(simulated_sqnr_db=27.4, kernels_sqnr_db=27.2),
        reference=Reference(count=4000, paired=1000, identity="9f2c41d0", solver="dpmpp_2m", steps=20),
        seed=0,
        attributes={
            name: Attribute(
                classes=count,
                accuracy=0.9 - count / 100,
                count=471,
                metrics={
                    "attribute_accuracy": entry(0.81 - count / 100, 0.83 - count / 100, 0.02, 0.015, "more"),
                    "attribute_agreement": entry(0.95, 1.0, 0.0, 0.01, "more"),
                },
            )
            for name, count in (("style", 3), ("colour", 11))
        },
        pipeline=(
            part("text encoder", 3400000, 860000, 2.5, 0.8, 56.0),
            part("denoiser", 34800000, 8700000, 930.0, 313.0, 34.1),
            part("decoder", 8600000, 130000, 52.9, 4.2, 31.7),
        ),
        environment=Environment(
            cpu="AMD EPYC", threads=1, python="3.11.7", torch="2.13.0+cpu", onnxruntime="1.32.0", compress="0.1.0"
        ),
    )


EMPTY: dict[str, Any] = {
    "attributes": {},
    "pipeline": (),
    "latency": (),
    "failed": (),
    "process": (),
    "spaces": {},
    "probe": (),
    "guidance": {},
    "by_class": (),
    "few_steps": (),
    "stages": (),
    "quantization": None,
}


def minimal() -> Report:
    """What `verify` gives on its own for an unconditional model: none of the parts that may be missing."""
    return but(full(), **EMPTY, gates=(), unmeasured={}, quality={"psnr": entry(28.0, None, None, 0.3, "more")})


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
