"""Judge the exported file, run by the runtime that ships, against the PyTorch teacher.

Both draw the same labels from the same noise with the same sampling. Noise and seeds are used for
nothing else. Latency is measured interleaved in one run; the strongest baseline that is at hand, the
unpruned teacher in onnxruntime fp32, stands beside the PyTorch teacher. Verdict: every gate is held.
"""

import functools
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from pydantic import Field, model_validator

from compress.contract import Context, Forecast, PassConfig, PassResult
from compress.data import Dataset, generator
from compress.errors import VerifyError
from compress.evaluation import decision, latency, quality
from compress.evaluation.classifier import train_judge
from compress.evaluation.statistics import Interval, bootstrap_mean, wilson
from compress.files import write_atomically, write_json
from compress.models import counts
from compress.models.denoiser import Denoiser, example_inputs, guided, predict
from compress.models.reference import conditions_for, draw_many, noise_like
from compress.onnx_graph.export import to_onnx
from compress.runtime import Bundle
from compress.runtime.bundle import open_session

Metric = Literal[
    "class_agreement", "class_accuracy", "psnr", "ssim", "params", "macs", "bytes", "call_speedup", "image_speedup"
]
CLASS_METRICS = ("class_agreement", "class_accuracy")
SHOWN = 40  # pairs of samples that are kept for pictures


class Gate(PassConfig):
    """A limit on a metric; at least one of min and max."""

    min: float | None = Field(None, description="least acceptable value")
    max: float | None = Field(None, description="largest acceptable value")

    @model_validator(mode="after")
    def _some(self) -> "Gate":
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        return self


class Config(PassConfig):
    """Settings of `verify`."""

    gates: dict[Metric, Gate] = Field(
        {}, description="limits; params, macs and bytes are student ÷ teacher, speedups are teacher ÷ student"
    )
    samples: int = Field(300, ge=10, description="pairs of images drawn from the same noise")
    rounds: int = Field(30, ge=10, description="times every call is timed, in trains of 10")
    threads: int = Field(1, ge=1, description="threads of either side; 1 measures work and not scheduling")
    judge_accuracy: float = Field(
        0.9, ge=0, le=1, description="least accuracy on held-out images for the classifier to be believed"
    )


def run(model: Bundle, config: Config, context: Context) -> PassResult[Bundle]:
    """Measure, decide, and write report.json and the samples."""
    threads = config.threads
    bundle = Bundle(model.path, threads=threads)
    teacher = context.teacher()
    if tuple(bundle.sample_shape) != teacher.sample_shape or set(bundle.inputs) - {"sample", "timestep"} != set(
        teacher.conditions
    ):
        raise VerifyError(f"{bundle.path}: has other inputs than the teacher; give the teacher that it was made from")
    noise = noise_like(teacher, config.samples, context.seed, 4)
    conditions = conditions_for(teacher, config.samples, context.dataset, context.seed)
    theirs = draw_many(teacher, noise, conditions, context.progress, f"{context.name}: teacher").numpy()
    ours = _draw(bundle, noise.numpy(), {n: v.numpy() for n, v in conditions.items()}, context)
    if not np.isfinite(ours).all():
        raise VerifyError(f"{bundle.path}: draws NaN or infinity from seed {context.seed}; the file is unusable")
    measured = _quality(theirs, ours, conditions, teacher, config, context)
    sides, ratios, intervals = _cost(teacher, bundle, threads, config, context)
    values = {name: entry["value"] for name, entry in measured.items() if "value" in entry} | ratios
    limits = {name: gate.model_dump() for name, gate in config.gates.items()}
    unknown = [name for name in limits if name not in values]
    if unknown:
        reason = measured.get("class_agreement", {}).get("reason", "the model has no classes")
        raise VerifyError(f"{context.name}: {', '.join(unknown)} cannot be judged: {reason}")
    decisions = decision.decide(values, limits)
    report = {
        "verdict": decision.verdict(decisions),
        "summary": _summary(ratios, measured),
        **sides,
        "ratios": ratios,
        "intervals": intervals,
        "quality": measured,
        "gates": decision.as_json(decisions),
        "samples": len(ours),
        "seed": context.seed,
        "environment": {"cpu": latency.processor(), "threads": threads, "torch": torch.__version__},
    }
    write_json(context.output / "report.json", report)
    shown = {"teacher": theirs[:SHOWN], "student": ours[:SHOWN]}
    if "class_labels" in conditions:
        shown["labels"] = conditions["class_labels"][:SHOWN].numpy()
    write_atomically(context.output / "samples.npz", lambda part: _write_npz(part, shown))
    return PassResult(model, changed=False, notes={"verdict": report["verdict"], "values": values})


def forecast(model: Denoiser, config: Config, context: Context) -> Forecast:
    """Drawing the teacher's samples takes most of the time; it is measured on one evaluation."""
    teacher = context.teacher()
    sample, when, *conditions = example_inputs(teacher, batch=50)
    began = time.perf_counter()
    with torch.no_grad():
        guided(teacher, sample, when, dict(zip(teacher.conditions, conditions, strict=True)))
    seconds = (time.perf_counter() - began) * len(teacher.sampling.timesteps) * config.samples / len(sample)
    return Forecast(model, seconds)


def _write_npz(part: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with part.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def _draw(bundle: Bundle, noise: np.ndarray, conditions: Mapping[str, np.ndarray], context: Context) -> np.ndarray:
    size = bundle.batch or 50
    parts = []
    with context.progress(f"{context.name}: student", len(noise)) as task:
        for start in range(0, len(noise) - len(noise) % (bundle.batch or 1), size):
            chosen = {name: value[start : start + size] for name, value in conditions.items()}
            parts.append(bundle.sample(noise[start : start + size], **chosen))
            task.advance(len(parts[-1]))
    return np.concatenate(parts)


def _quality(
    theirs: np.ndarray,
    ours: np.ndarray,
    conditions: Mapping[str, torch.Tensor],
    teacher: Denoiser,
    config: Config,
    context: Context,
) -> dict[str, dict[str, Any]]:
    theirs = theirs[: len(ours)]
    pairs = {"psnr": quality.psnr(theirs, ours), "ssim": quality.ssim(theirs, ours)}
    measured: dict[str, dict[str, Any]] = {
        name: {"value": float(values.mean()), "interval": bootstrap_mean(values), "count": len(values)}
        for name, values in pairs.items()
    }
    if teacher.classes is not None:
        measured |= _by_class(theirs, ours, conditions["class_labels"].numpy()[: len(ours)], context.dataset(), config)
    return measured


def _by_class(
    theirs: np.ndarray, ours: np.ndarray, labels: np.ndarray, dataset: Dataset, config: Config
) -> dict[str, dict[str, Any]]:
    judge = train_judge(dataset)
    if judge.accuracy < config.judge_accuracy:
        reason = f"the classifier names only {judge.accuracy:.1%} of the held-out images correctly"
        return {name: {"reason": reason} for name in CLASS_METRICS}
    named_theirs, named_ours = judge.classify(theirs), judge.classify(ours)
    hits = {
        "class_agreement": named_theirs == named_ours,
        "class_accuracy": named_ours == labels,
        "teacher_class_accuracy": named_theirs == labels,
    }
    return {
        name: {"value": float(hit.mean()), "interval": wilson(int(hit.sum()), len(hit)), "count": len(hit)}
        for name, hit in hits.items()
    } | {"classifier_accuracy": {"value": judge.accuracy, "interval": None}}


def _cost(
    teacher: Denoiser, bundle: Bundle, threads: int, config: Config, context: Context
) -> tuple[dict[str, dict[str, float]], dict[str, float], dict[str, Interval]]:
    """(figures of each side, ratios, 95% intervals of the speedups)."""
    one = example_inputs(teacher, batch=1)
    random = torch.randn(one[0].shape, generator=generator(context.seed, 5))
    sample, noise = random.to(one[0].device), random.numpy()
    conditions = dict(zip(teacher.conditions, one[2:], strict=True))
    arrays = {name: value.cpu().numpy() for name, value in conditions.items()}
    when = teacher.sampling.timesteps[len(teacher.sampling.timesteps) // 2]
    if bundle.batch and bundle.batch > 1:
        noise = np.repeat(noise, bundle.batch, axis=0)
        arrays = {name: np.repeat(value, bundle.batch, axis=0) for name, value in arrays.items()}
    with tempfile.TemporaryDirectory() as folder, latency.threads(threads), torch.no_grad():
        names = ["sample", "timestep", *teacher.conditions]
        with context.progress(f"{context.name}: exporting the baseline", 1) as task:
            graph = to_onnx(teacher.module, example_inputs(teacher, 2), names, None, opset=20)
            onnx.save(graph, Path(folder, "t.onnx"))
            task.advance()
        session = open_session(Path(folder, "t.onnx"), threads)
        feeds = dict(zip(names, (random.numpy(), np.array([when]), *(v.cpu().numpy() for v in one[2:])), strict=True))
        times = torch.full_like(one[1], when)
        calls: dict[str, Callable[[], object]] = {
            "teacher": functools.partial(predict, teacher, sample, times, conditions),
            "student": functools.partial(bundle.denoise, noise, when, arrays),
            "teacher_onnxruntime": functools.partial(session.run, None, feeds),
            "teacher_guided": functools.partial(guided, teacher, sample, times, conditions),
            "student_guided": functools.partial(bundle.guided, noise, when, arrays),
        }
        taken = latency.interleaved(calls, config.rounds, context.progress, f"{context.name}: timing")
    per = len(noise)  # a bundle of fixed batch size is timed per item
    taken["student"], taken["student_guided"] = taken["student"] / per, taken["student_guided"] / per
    params, macs = counts.parameters(teacher), counts.macs(teacher)
    sides = {
        "teacher": _side(
            params, macs, 4 * params, taken["teacher"], taken["teacher_guided"], len(teacher.sampling.timesteps)
        ),
        "student": _side(
            bundle.manifest["params"],
            bundle.manifest["macs"],
            bundle.size_bytes,
            taken["student"],
            taken["student_guided"],
            len(bundle.steps),
        ),
        "teacher_onnxruntime": {"ms_per_call": latency.summary(taken["teacher_onnxruntime"]).median},
    }
    call, call_interval = latency.speedup(taken["teacher"], taken["student"])
    baseline, baseline_interval = latency.speedup(taken["teacher_onnxruntime"], taken["student"])
    ratios = {key: sides["student"][key] / sides["teacher"][key] for key in ("params", "macs", "bytes")}
    ratios["call_speedup"] = call
    ratios["image_speedup"] = sides["teacher"]["ms_per_image"] / sides["student"]["ms_per_image"]
    ratios["call_speedup_over_onnxruntime"] = baseline
    return sides, ratios, {"call_speedup": call_interval, "call_speedup_over_onnxruntime": baseline_interval}


def _side(params: int, macs: int, size: int, call: np.ndarray, image: np.ndarray, steps: int) -> dict[str, float]:
    timing = latency.summary(call)
    return {
        "params": params,
        "macs": macs,
        "bytes": size,
        "ms_per_call": timing.median,
        "ms_per_call_p90": timing.p90,
        "ms_per_image": float(np.median(image)) * steps,
    }


def _summary(ratios: Mapping[str, float], measured: Mapping[str, Mapping[str, Any]]) -> str:
    text = (
        f"{ratios['call_speedup']:.1f}× faster a call than the teacher in PyTorch and "
        f"{ratios['call_speedup_over_onnxruntime']:.1f}× than the teacher in onnxruntime fp32, "
        f"{ratios['bytes']:.2f}× its bytes, {ratios['macs']:.2f}× its multiply-accumulates"
    )
    agreement = measured.get("class_agreement", {}).get("value")
    return f"{text}; {agreement:.1%} of images are named as the teacher's." if agreement is not None else f"{text}."
