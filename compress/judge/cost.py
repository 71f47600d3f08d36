"""What a bundle costs beside its teacher: time, memory, bytes, arithmetic; every baseline in the same run."""

import functools
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch

from compress import __version__
from compress.judge.baseline import OnnxTeacher
from compress.measure import counts, latency, processes
from compress.model.denoiser import Denoiser, example_inputs, guided, predict
from compress.model.reference import Progress, noise_like
from compress.randomness import Draw
from compress.report.parts import Environment, Failed, Figure, Latency, Process, Row, Side, Unit
from compress.runtime import Bundle

TEACHER, COMPILED, ONNX = (
    Row(side="teacher", engine=engine, scheme="float") for engine in ("PyTorch", "torch.compile", "onnxruntime")
)


@dataclass(frozen=True)
class Costs:
    """Parts of the report."""

    teacher: Side
    student: Side
    ratios: dict[str, Figure]
    latency: tuple[Latency, ...]
    failed: tuple[Failed, ...]
    process: tuple[Process, ...]
    environment: Environment


def measure(
    bundle: Bundle,
    baseline: OnnxTeacher,
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
    teacher, threads, steps = baseline.teacher, baseline.threads, len(baseline.teacher.sampling.timesteps)
    rows: list[Latency] = []
    failed: list[Failed] = []
    single: dict[Row, np.ndarray] = {}
    with latency.threads(threads), torch.no_grad():
        for batch in sorted({1, *batches}):
            calls, why = _calls(bundle, baseline, batch, compiled)
            turns, eager = max(10, rounds // batch), [row.name for row in calls if row.engine == TEACHER.engine]
            named = {row.name: call for row, call in calls.items()}
            times = latency.interleaved(named, turns, progress, f"timing, batch {batch}", seldom=eager)
            taken = {row: times[row.name] * batch / _items(bundle, row.side, batch) for row in calls}
            rows += _rows(taken, batch, threads, steps)
            failed += [Failed(**dict(row), batch=batch, threads=threads, reason=said) for row, said in why.items()]
            single = single or taken
    student, image, evaluations = student_row(bundle), student_row(bundle, "guided call"), len(bundle.steps)
    if student_row(bundle, "whole image") in single:
        image, evaluations = student_row(bundle, "whole image"), 1
    params, macs = counts.parameters(teacher), counts.macs(teacher)
    theirs = _side(params, macs, 4 * params, single[TEACHER], single[guided_row(TEACHER)] * steps)
    ours = _side(
        bundle.manifest["params"],
        bundle.manifest["macs"],
        bundle.size_bytes,
        single[student],
        single[image] * evaluations,
    )
    ratios = {
        name: Figure(value=getattr(ours, name) / getattr(theirs, name), better="less")
        for name in ("params", "macs", "bytes")
    }
    for name, slow, fast, factor in (
        ("call_speedup", TEACHER, student, 1.0),
        ("call_speedup_over_onnxruntime", ONNX, student, 1.0),
        ("image_speedup", guided_row(TEACHER), image, steps / evaluations),
        ("image_speedup_over_onnxruntime", guided_row(ONNX), image, steps / evaluations),
    ):
        value, (low, high) = latency.speedup(single[slow], single[fast])
        count, ends = int(np.isfinite(single[slow]).sum()), (low * factor, high * factor)
        ratios[name] = Figure(value=value * factor, better="more", interval=ends, count=count)
    process = processes.measure(teacher, bundle, (TEACHER, student), starts, progress)
    return Costs(theirs, ours, ratios, tuple(rows), tuple(failed), process, _environment(threads))


def student_row(bundle: Bundle, unit: Unit = "call") -> Row:
    """The student as it ships."""
    return Row(side="student", engine="onnxruntime", scheme=bundle.manifest["scheme"], unit=unit)


def guided_row(row: Row) -> Row:
    """The same with guidance."""
    return row.model_copy(update={"unit": "guided call"})


def _items(bundle: Bundle, side: str, batch: int) -> int:
    """How many items a call of a side has; a bundle of a fixed batch size fills it."""
    size = bundle.batch or 1
    return -(-batch // size) * size if side == "student" else batch


def _calls(
    bundle: Bundle, baseline: OnnxTeacher, batch: int, compiled: bool
) -> tuple[dict[Row, Callable[[], object]], dict[Row, str]]:
    """(one evaluation by every engine; why an engine is missing)."""
    teacher = baseline.teacher
    zeros = example_inputs(teacher, batch)
    sample = noise_like(teacher, batch, Draw.TIMING).to(teacher.device)
    given = dict(zip(teacher.inputs, zeros[2:], strict=True))
    arrays = {name: value.cpu().numpy() for name, value in given.items()}
    noise = sample.cpu().numpy()
    own = np.arange(_items(bundle, "student", batch)) % batch
    own_noise, own_arrays = noise[own], {name: value[own] for name, value in arrays.items()}
    when = teacher.sampling.steps()[len(teacher.sampling.timesteps) // 2].timestep
    times = torch.full_like(zeros[1], when)
    calls: dict[Row, Callable[[], object]] = {
        TEACHER: functools.partial(predict, teacher, sample, times, given),
        ONNX: functools.partial(baseline.predict, noise, when, arrays),
        student_row(bundle): functools.partial(bundle.denoise, own_noise, when, own_arrays),
    }
    failed = {}
    if compiled:
        found = _compiled(teacher, sample, times, given)
        if isinstance(found, str):
            failed[COMPILED] = found
        else:
            calls[COMPILED] = found
    if batch == 1:
        calls[guided_row(TEACHER)] = functools.partial(guided, teacher, sample, times, given)
        calls[guided_row(ONNX)] = functools.partial(baseline.guided, noise, when, arrays)
        calls[student_row(bundle, "guided call")] = functools.partial(bundle.guided, own_noise, when, own_arrays)
        if bundle.manifest.get("sampler"):
            whole = functools.partial(bundle.sample_at_once, own_noise, **own_arrays)
            calls[student_row(bundle, "whole image")] = whole
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


def _rows(taken: Mapping[Row, np.ndarray], batch: int, threads: int, steps: int) -> list[Latency]:
    """steps: the teacher's evaluations an image, against which a whole image is held."""
    rows = []
    for row, values in taken.items():
        slow = taken[TEACHER if row.unit == "call" else guided_row(TEACHER)] * (
            steps if row.unit == "whole image" else 1
        )
        timing, (ratio, ends) = latency.summary(values), latency.speedup(slow, values)
        rows.append(
            Latency(
                **dict(row),
                batch=batch,
                threads=threads,
                ms=timing.median,
                p90=timing.p90,
                interval=timing.interval,
                speedup=ratio,
                speedup_interval=ends,
            )
        )
    return rows


def _side(params: int, macs: int, size: int, call: np.ndarray, image: np.ndarray) -> Side:
    timing = latency.summary(call)
    return Side(
        params=params,
        macs=macs,
        bytes=size,
        ms_per_call=timing.median,
        ms_per_call_p90=timing.p90,
        ms_per_image=latency.summary(image).median,
    )


def _environment(threads: int) -> Environment:
    return Environment(
        cpu=latency.processor(),
        threads=threads,
        python=platform.python_version(),
        torch=torch.__version__,
        onnxruntime=onnxruntime.__version__,
        compress=__version__,
    )
