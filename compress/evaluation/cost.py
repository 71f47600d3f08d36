"""What a bundle costs beside its teacher: time, memory, bytes, arithmetic; every baseline in the same run."""

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.errors import VerifyError
from compress.evaluation import latency
from compress.evaluation.baseline import OnnxTeacher
from compress.evaluation.figure import Figure
from compress.models import checkpoint, counts
from compress.models.denoiser import Denoiser, example_inputs, guided, predict
from compress.models.reference import Progress, noise_like
from compress.randomness import Draw
from compress.runtime import Bundle

TEACHER, COMPILED, ONNX = "teacher, PyTorch", "teacher, torch.compile", "teacher, onnxruntime fp32"
WHOLE = "whole image, "
STUDENT_PROGRAM = """
import sys
from compress.runtime import Bundle
bundle = Bundle(sys.argv[1], int(sys.argv[2]))
sample, given = bundle.example(bundle.batch or 1)
bundle.denoise(sample, bundle.steps[0].timestep, given)
"""
TEACHER_PROGRAM = """
import sys, warnings; warnings.filterwarnings("ignore")
import torch
from compress.models import checkpoint
from compress.models.denoiser import example_inputs
torch.set_num_threads(int(sys.argv[2]))
model = checkpoint.load(sys.argv[1], allow_pickle=True)  # written by the process that starts this one
with torch.no_grad():
    model.module(*example_inputs(model, 1))
"""
# getrusage would count the parent's memory in, as it was when the process was made
PEAK = """
try:
    lines = open("/proc/self/status").read().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
except OSError:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(peak)
"""


@dataclass(frozen=True)
class Costs:
    """sides: figures of teacher and student. ratios: as in report.json. rows, process: its tables."""

    sides: dict[str, dict[str, float]]
    ratios: dict[str, Figure]
    rows: list[dict[str, Any]]
    process: list[dict[str, Any]]


def measure(
    teacher: Denoiser,
    bundle: Bundle,
    baseline: OnnxTeacher,
    threads: int,
    rounds: int,
    batches: tuple[int, ...],
    compiled: bool,
    starts: int,
    progress: Progress,
) -> Costs:
    """Time every engine, interleaved, at batch 1 and at each of `batches`; start fresh processes; count.

    rounds: at batch 1; larger batches take as many fewer, and the teacher in PyTorch, which takes most of the
    time, a third. compiled: also by torch.compile, which takes minutes.
    starts: fresh processes of each side.
    """
    rows: list[dict[str, Any]] = []
    with latency.threads(threads), torch.no_grad():
        single: Mapping[str, np.ndarray] = {}
        for batch in sorted({1, *batches}):
            calls, failed = _calls(teacher, bundle, baseline, batch, compiled)
            turns, eager = max(10, rounds // batch), [name for name in calls if name.endswith(TEACHER)]
            taken = latency.interleaved(calls, turns, progress, f"timing, batch {batch}", seldom=eager)
            taken = {name: values * batch / _items(bundle, name, batch) for name, values in taken.items()}
            rows += _rows(taken, failed, batch, threads, len(teacher.sampling.timesteps))
            single = single or taken
    student, steps = student_name(bundle), len(teacher.sampling.timesteps)
    image, evaluations = "guided " + student, len(bundle.steps)
    if whole_image(bundle) in single:
        image, evaluations = whole_image(bundle), 1
    sides = {
        "teacher": _side(
            counts.parameters(teacher),
            counts.macs(teacher),
            4 * counts.parameters(teacher),
            single[TEACHER],
            single["guided " + TEACHER],
            steps,
        ),
        "student": _side(
            bundle.manifest["params"],
            bundle.manifest["macs"],
            bundle.size_bytes,
            single[student],
            single[image],
            evaluations,
        ),
    }
    ratios = {
        name: Figure(sides["student"][name] / sides["teacher"][name], "less") for name in ("params", "macs", "bytes")
    }
    for name, slow, fast, factor in (
        ("call_speedup", TEACHER, student, 1.0),
        ("call_speedup_over_onnxruntime", ONNX, student, 1.0),
        ("image_speedup", "guided " + TEACHER, image, steps / evaluations),
        ("image_speedup_over_onnxruntime", "guided " + ONNX, image, steps / evaluations),
    ):
        value, (low, high) = latency.speedup(single[slow], single[fast])
        count = int(np.isfinite(single[slow]).sum())
        ratios[name] = Figure(value * factor, "more", (low * factor, high * factor), count)
    process = _processes(teacher, bundle, threads, starts, progress) if starts else []
    return Costs(sides, ratios, rows, process)


def student_name(bundle: Bundle) -> str:
    """As in the tables."""
    return f"student, onnxruntime {bundle.manifest['scheme']}"


def whole_image(bundle: Bundle) -> str:
    """As in the tables: all steps in one call."""
    return f"{WHOLE}{student_name(bundle)}"


def _items(bundle: Bundle, name: str, batch: int) -> int:
    """How many items a call of the named engine has; a bundle of a fixed batch size fills it."""
    size = bundle.batch or 1
    return -(-batch // size) * size if "student" in name else batch


def _calls(
    teacher: Denoiser, bundle: Bundle, baseline: OnnxTeacher, batch: int, compiled: bool
) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """(one evaluation by every engine; why an engine is missing)."""
    zeros = example_inputs(teacher, batch)
    sample = noise_like(teacher, batch, Draw.TIMING).to(teacher.device)
    given = dict(zip(teacher.inputs, zeros[2:], strict=True))
    arrays = {name: value.cpu().numpy() for name, value in given.items()}
    noise = sample.cpu().numpy()
    own = np.arange(_items(bundle, "student", batch)) % batch
    own_noise, own_arrays = noise[own], {name: value[own] for name, value in arrays.items()}
    when = teacher.sampling.steps()[len(teacher.sampling.timesteps) // 2].timestep
    times = torch.full_like(zeros[1], when)
    student = student_name(bundle)
    calls: dict[str, Callable[[], object]] = {
        TEACHER: functools.partial(predict, teacher, sample, times, given),
        ONNX: functools.partial(baseline.predict, noise, when, arrays),
        student: functools.partial(bundle.denoise, own_noise, when, own_arrays),
    }
    failed = {}
    if compiled:
        found = _compiled(teacher, sample, times, given)
        if isinstance(found, str):
            failed[COMPILED] = found
        else:
            calls[COMPILED] = found
    if batch == 1:
        calls["guided " + TEACHER] = functools.partial(guided, teacher, sample, times, given)
        calls["guided " + ONNX] = functools.partial(baseline.guided, noise, when, arrays)
        calls["guided " + student] = functools.partial(bundle.guided, own_noise, when, own_arrays)
        if bundle.manifest.get("sampler"):
            calls[whole_image(bundle)] = functools.partial(bundle.sample_at_once, own_noise, **own_arrays)
    return calls, failed


def _compiled(
    teacher: Denoiser, sample: torch.Tensor, times: torch.Tensor, given: Mapping[str, torch.Tensor]
) -> Callable[[], object] | str:
    """One evaluation by torch.compile, warmed up; or why there is none."""
    try:
        module = torch.compile(teacher.module, dynamic=False)
        call = functools.partial(module, sample, times, *given.values())
        call()
    except Exception as error:  # of many kinds: no compiler, an operator that it lacks
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return call


def _rows(
    taken: Mapping[str, np.ndarray], failed: Mapping[str, str], batch: int, threads: int, steps: int
) -> list[dict[str, Any]]:
    """steps: the teacher's evaluations an image, against which a whole image is held."""
    rows: list[dict[str, Any]] = []
    for name, values in taken.items():
        slow = taken[TEACHER if not name.startswith(("guided", WHOLE)) else "guided " + TEACHER]
        slow = slow * steps if name.startswith(WHOLE) else slow
        timing, (ratio, ends) = latency.summary(values), latency.speedup(slow, values)
        rows.append(
            {
                "name": name,
                "batch": batch,
                "threads": threads,
                "ms": timing.median,
                "p90": timing.p90,
                "interval": timing.interval,
                "speedup": ratio,
                "speedup_interval": ends,
            }
        )
    return rows + [{"name": name, "batch": batch, "threads": threads, "reason": why} for name, why in failed.items()]


def _side(params: int, macs: int, size: int, call: np.ndarray, image: np.ndarray, steps: int) -> dict[str, float]:
    timing = latency.summary(call)
    return {
        "params": params,
        "macs": macs,
        "bytes": size,
        "ms_per_call": timing.median,
        "ms_per_call_p90": timing.p90,
        "ms_per_image": latency.summary(image).median * steps,
    }


def _processes(
    teacher: Denoiser, bundle: Bundle, threads: int, starts: int, progress: Progress
) -> list[dict[str, Any]]:
    """Seconds until the first result, and peak memory, of processes that start from nothing; medians."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, progress("fresh processes", 2 * starts) as task:
        checkpoint.save(teacher, Path(folder, "teacher"))
        for name, program, path in (
            (TEACHER, TEACHER_PROGRAM, Path(folder, "teacher")),
            (student_name(bundle), STUDENT_PROGRAM, bundle.path.resolve()),
        ):
            started = []
            for _ in range(starts):
                started.append(_start(program + PEAK, [str(path), str(threads)], name))
                task.advance()
            seconds, peaks = zip(*started, strict=True)
            rows.append(
                {"name": name, "cold_start_s": float(np.median(seconds)), "peak_memory_bytes": int(np.median(peaks))}
            )
    return rows


def _start(program: str, arguments: list[str], name: str) -> tuple[float, int]:
    """(seconds, bytes) of one process. Raises VerifyError."""
    timed = f"import time; began = time.time()\n{program}\nprint(time.time() - began)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", timed, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise VerifyError(f"{name}: a fresh process failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    peak, seconds = done.stdout.split()[-2:]
    return float(seconds), int(peak)
