"""What a bundle costs beside its teacher: time, memory, bytes, arithmetic; every baseline in the same run."""

import functools
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch

from compress import __version__
from compress.judge.baseline import Baseline
from compress.measure import latency, processes
from compress.model.denoiser import Denoiser, example_inputs, guided, predict
from compress.model.reference import Progress, noise_like
from compress.randomness import Draw
from compress.report.parts import Environment, Failed, Figure, Latency, Row, Side, Unit
from compress.report.report import Costs
from compress.runtime import Bundle
from compress.runtime.schemes import SCHEMES

TEACHER, COMPILED, ONNX = (
    Row(side="teacher", engine=engine, scheme="float") for engine in ("PyTorch", "torch.compile", "onnxruntime")
)


AROUND: tuple[Unit, ...] = ("text", "decoding")  # of the net, and timed by themselves


@dataclass(frozen=True)
class Clock:
    """How costs are measured. rounds: of timing, at batch 1; larger batches take as many fewer, and the teacher in
    PyTorch, which takes most of the time, a third. batches: to time beside 1. compiled: by torch.compile as well, which
    takes minutes. starts: fresh processes of each side.
    """

    rounds: int
    batches: tuple[int, ...]
    compiled: bool
    starts: int

    @property
    def turns(self) -> dict[int, int]:
        """Rounds at each batch size, 1 first."""
        return {batch: max(10, self.rounds // batch) for batch in sorted({1, *self.batches})}


def measure(bundle: Bundle, baseline: Baseline, clock: Clock, progress: Progress) -> Costs:
    """Time every engine, interleaved, at each batch size; start fresh processes; count."""
    teacher, threads, steps = baseline.teacher, baseline.bundle.threads or 1, len(baseline.bundle.steps)
    rows: list[Latency] = []
    failed: list[Failed] = []
    single: dict[Row, np.ndarray] = {}
    with latency.threads(threads), torch.no_grad():
        for batch, turns in clock.turns.items():
            calls, why = _calls(bundle, baseline, batch, clock.compiled)
            named = {row.name: call for row, call in calls.items()}
            eager = [row.name for row in calls if row.engine == TEACHER.engine]
            times = latency.interleaved(named, turns, progress, f"timing, batch {batch}", seldom=eager)
            taken = {row: times[row.name] * batch / _items(bundle, row, batch) for row in calls}
            rows += _rows(taken, batch, threads, steps)
            failed += [Failed(**dict(row), batch=batch, threads=threads, reason=said) for row, said in why.items()]
            single = single or taken
    student = student_row(bundle)
    whole = single.get(of_unit("whole image", student))
    size = SCHEMES["float"].bytes * (baseline.bundle.manifest["params"] + baseline.parts.parameters)
    images = {
        TEACHER: single[of_unit("guided call", TEACHER)] * steps + _around(single, TEACHER),
        ONNX: single[of_unit("guided call", ONNX)] * steps + _around(single, ONNX),
        student: single[of_unit("guided call", student)] * len(bundle.steps) + _around(single, student),
    }
    if whole is not None:
        images[student] = whole
    theirs = _side(baseline.bundle, size, single[TEACHER], images[TEACHER])
    ours = _side(bundle, bundle.size_bytes, single[student], images[student])
    ratios = {
        name: Figure(value=getattr(ours, name) / getattr(theirs, name), better="less")
        for name in ("params", "macs", "bytes")
    }
    for name, slow, fast in (
        ("call_speedup", single[TEACHER], single[student]),
        ("call_speedup_over_onnxruntime", single[ONNX], single[student]),
        ("image_speedup", images[TEACHER], images[student]),
        ("image_speedup_over_onnxruntime", images[ONNX], images[student]),
    ):
        value, ends = latency.speedup(slow, fast)
        ratios[name] = Figure(value=value, better="more", interval=ends, count=int(np.isfinite(slow).sum()))
    process = processes.measure(teacher, bundle, (TEACHER, student), clock.starts, progress)
    return Costs(
        teacher=theirs,
        student=ours,
        ratios=ratios,
        latency=tuple(rows),
        failed=tuple(failed),
        process=process,
        environment=Environment(
            cpu=latency.processor(),
            threads=threads,
            python=platform.python_version(),
            torch=torch.__version__,
            onnxruntime=onnxruntime.__version__,
            compress=__version__,
        ),
    )


def student_row(bundle: Bundle) -> Row:
    """The student as it ships."""
    return Row(side="student", engine=bundle.engine.name, scheme=bundle.manifest["scheme"])


def of_unit(unit: Unit, row: Row) -> Row:
    """The same for another unit."""
    return row.model_copy(update={"unit": unit})


def _around(single: Mapping[Row, np.ndarray], row: Row) -> np.ndarray | float:
    """Milliseconds of what is around the net, by round."""
    found = [single[of_unit(unit, row)] for unit in AROUND if of_unit(unit, row) in single]
    return sum(found, start=np.zeros(()))


def _items(bundle: Bundle, row: Row, batch: int) -> int:
    """How many items a call of a row has; a bundle of a fixed batch size fills it."""
    size = bundle.batch or 1
    return -(-batch // size) * size if row.side == "student" and row.unit not in AROUND else batch


def _calls(
    bundle: Bundle, baseline: Baseline, batch: int, compiled: bool
) -> tuple[dict[Row, Callable[[], object]], dict[Row, str]]:
    """(one evaluation by every engine; why an engine is missing)."""
    teacher, student, partial = baseline.teacher, student_row(bundle), functools.partial
    _, zeros, *values = example_inputs(teacher, batch)
    sample = noise_like(teacher, batch, Draw.TIMING).to(teacher.device)
    given = dict(zip(teacher.inputs, values, strict=True))
    noise, arrays = sample.cpu().numpy(), {name: given[name].cpu().numpy() for name in teacher.conditions}
    own = np.arange(_items(bundle, student, batch)) % batch
    own_noise, own_arrays = noise[own], {name: value[own] for name, value in arrays.items()}
    when = baseline.bundle.steps[len(baseline.bundle.steps) // 2].timestep
    times = torch.full_like(zeros, when)
    calls: dict[Row, Callable[[], object]] = {
        TEACHER: partial(predict, teacher, sample, times, given),
        ONNX: partial(baseline.bundle.denoise, noise, when, arrays),
        student: partial(bundle.denoise, own_noise, when, own_arrays),
    }
    failed = {}
    if compiled:
        found = _compiled(teacher, sample, times, given)
        if isinstance(found, str):
            failed[COMPILED] = found
        else:
            calls[COMPILED] = found
    if batch == 1:
        calls[of_unit("guided call", TEACHER)] = partial(guided, teacher, sample, times, given)
        calls[of_unit("guided call", ONNX)] = partial(baseline.guided.guided, noise, when, arrays)
        calls[of_unit("guided call", student)] = partial(bundle.guided, own_noise, when, own_arrays)
        calls |= _calls_around(bundle, baseline, sample)
        if bundle.manifest.get("sampler"):
            if bundle.text is not None:
                own_arrays = {
                    name: value for name, value in own_arrays.items() if name not in bundle.text.about["made"]
                }
                own_arrays |= bundle.text.tokens([""] * len(own))
            calls[of_unit("whole image", student)] = partial(bundle.sample_at_once, own_noise, **own_arrays)
    return calls, failed


def _calls_around(bundle: Bundle, baseline: Baseline, sample: torch.Tensor) -> dict[Row, Callable[[], object]]:
    """A text encoded and a picture decoded by every engine; nothing where a net stands alone."""
    calls: dict[Row, Callable[[], object]] = {}
    text, decoder, latent = baseline.parts.text, baseline.parts.decoder, sample.cpu()[:1]
    for row, one in ((ONNX, baseline.bundle), (student_row(bundle), bundle)):
        if one.text is not None:
            calls[of_unit("text", row)] = functools.partial(one.text.encode, [""])
        if one.decoder is not None:
            calls[of_unit("decoding", row)] = functools.partial(one.decoder.decode, latent.numpy())
    if text is not None:
        calls[of_unit("text", TEACHER)] = functools.partial(text.encode, [""])
    if decoder is not None:
        calls[of_unit("decoding", TEACHER)] = functools.partial(decoder.decode, latent)
    return calls


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
        slow = taken[of_unit("guided call", TEACHER) if row.unit == "whole image" else of_unit(row.unit, TEACHER)]
        ratio, ends = latency.speedup(slow * (steps if row.unit == "whole image" else 1), values)
        timing, about = latency.summary(values), {**dict(row), "batch": batch, "threads": threads}
        about |= {"ms": timing.median, "p90": timing.p90, "interval": timing.interval}
        rows.append(Latency(**about, speedup=ratio, speedup_interval=ends))
    return rows


def _side(bundle: Bundle, size: int, call: np.ndarray, image: np.ndarray) -> Side:
    timing = latency.summary(call)
    return Side(
        params=bundle.manifest["params"],
        macs=bundle.manifest["macs"],
        bytes=size,
        ms_per_call=timing.median,
        ms_per_call_p90=timing.p90,
        ms_per_image=latency.summary(image).median,
    )
