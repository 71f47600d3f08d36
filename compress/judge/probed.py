"""The student on the probe, beside its teacher, and the models of the recipe's passes on their way to it."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from compress.judge import probe
from compress.judge.baseline import Baseline
from compress.judge.metrics import lacking
from compress.judge.quality import sqnr
from compress.measure import counts, latency
from compress.model.denoiser import Denoiser, example_inputs, predict
from compress.model.reference import Drawn, Progress, identity
from compress.report.parts import Figure, Quantization, Stage, TimestepError
from compress.runtime import Bundle
from compress.runtime.schemes import SCHEMES

ROUNDS = 10  # of timing what a pass gained: what is shown is a median


@dataclass(frozen=True)
class Probed:
    """Parts of the report. left_out: metrics that mean nothing for this student, and why."""

    quality: dict[str, Figure]
    left_out: dict[str, str] = field(default_factory=dict)
    curve: tuple[TimestepError, ...] = ()
    stages: tuple[Stage, ...] = ()
    quantization: Quantization | None = None


def measure(
    bundle: Bundle,
    baseline: Baseline,
    others: Drawn,
    finite: bool,
    passes: Sequence[Any],
    seed: int,
    progress: Progress,
) -> Probed:
    """Ask student and passes on the probe that is made from `others`.

    finite: whether the student's samples are, without which the sampler's table alone is looked at. passes: the
    recipe's, each with `name`, `kind` and `load`; none where a bundle is verified on its own.
    """
    sound = {"sampling_error": probe.sampling_error(bundle, baseline.teacher)}
    if not finite:
        return Probed(sound)
    with progress("probe", 3) as task:
        frozen = probe.make(baseline.teacher, others, _asked(baseline.teacher, bundle), seed)
        task.advance()
        student = probe.answer(frozen, probe.of_bundle(bundle), bundle.threads)
        task.advance()
        rounding = probe.answer(frozen, baseline.evaluate, baseline.bundle.threads)
        task.advance()
    rows, quantization, loss = _stages(passes, bundle, baseline, student, progress)
    if bundle.sampling.get("distilled"):
        return Probed(sound | loss, lacking("evaluations"), (), rows, quantization)
    floor, _, _ = rounding.curve()
    curve = tuple(
        TimestepError(timestep=timestep, error=float(error), interval=(float(low), float(high)), floor=float(least))
        for timestep, error, low, high, least in zip(frozen.timesteps, *student.curve(), floor, strict=True)
    )
    return Probed(probe.figures(student, rounding) | sound | loss, {}, curve, rows, quantization)


def _asked(teacher: Denoiser, bundle: Bundle) -> tuple[float, ...]:
    """The timesteps of the probe: the teacher's where the student has as many, else the student's own."""
    asked = tuple(step.timestep for step in bundle.steps)
    own = teacher.sampling.timesteps
    return own if len(own) == len(asked) else asked


def _stages(
    passes: Sequence[Any], bundle: Bundle, baseline: Baseline, student: probe.Answer, progress: Progress
) -> tuple[tuple[Stage, ...], Quantization | None, dict[str, Figure]]:
    """(a row for every model, the teacher first; what simulated and real kernels lose, where a pass quantized; the
    figure of it).

    student: the bundle's answer. Models of other timesteps than the probe's, or of guidance of their own, are asked at
    the probe's timesteps. Where steps were distilled there is no error: one evaluation does the work of several.
    """
    if not passes:
        return (), None, {}
    frozen, answers, quantization, loss = student.probe, dict[str, probe.Answer](), None, {}

    def ask(model: Denoiser) -> probe.Answer:
        """A float net that is met again, as the one before quantization is, is asked once."""
        key = model.scheme + identity(model)
        answers[key] = answers.get(key) or probe.answer(frozen, probe.of_model(model))
        return answers[key]

    own = probe.Answer(frozen, frozen.guided)
    rows, calls = [_row("teacher", "teacher", baseline.teacher, own)], {"0": _call(baseline.teacher)}
    noise, given = bundle.example(bundle.batch or 1)
    with progress("what each pass cost", len(passes)) as task:
        for place, done in enumerate(passes, 1):
            if done.kind == "export_onnx":
                known = {"name": done.name, "kind": done.kind, "engine": bundle.engine.name}
                known |= {key: bundle.manifest[key] for key in ("scheme", "params", "macs")}
                known |= {"bytes": bundle.size_bytes}
                rows.append(_stage(known, None if bundle.sampling.get("distilled") else student))
                calls[str(place)] = functools.partial(bundle.denoise, noise, bundle.steps[0].timestep, given)
            else:
                model = done.load()
                rows.append(_row(done.name, done.kind, model, None if model.sampling.distilled else ask(model)))
                if not model.precision:  # the time of simulated arithmetic says nothing of the kernels
                    calls[str(place)] = _call(model)
                elif quantization is None:
                    whole, fake, real = ask(model.in_float()).guided, ask(model).guided, student.guided
                    quantization = Quantization(simulated_sqnr_db=sqnr(whole, fake), kernels_sqnr_db=sqnr(whole, real))
                    loss["kernel_loss"] = probe.kernel_loss(whole, fake, real)
            task.advance()
    with latency.threads(bundle.threads or 1), torch.no_grad():
        taken = latency.interleaved(calls, ROUNDS, progress, "timing what each pass gained")
    for at, values in taken.items():
        row = rows[int(at)]
        time = float(np.median(values)) / (len(noise) if row.kind == "export_onnx" else 1)
        rows[int(at)] = row.model_copy(update={"ms_per_call": time})
    return tuple(rows), quantization, loss


def _row(name: str, kind: str, model: Denoiser, answer: probe.Answer | None) -> Stage:
    """Of a PyTorch model."""
    params, scheme = counts.parameters(model), model.scheme
    sizes = {"params": params, "macs": counts.macs(model), "bytes": params * SCHEMES[scheme].bytes}
    return _stage({"name": name, "kind": kind, "scheme": scheme, "engine": "PyTorch", **sizes}, answer)


def _stage(about: dict[str, Any], answer: probe.Answer | None) -> Stage:
    """A row, not yet timed. about: name, kind, scheme, engine and sizes."""
    error = None if answer is None else float(answer.curve(rounds=2)[0].mean())
    return Stage(**about, ms_per_call=None, output_error=error, sqnr_db=None if answer is None else answer.sqnr())


def _call(model: Denoiser) -> Callable[[], object]:
    """One evaluation, without guidance, of one sample."""
    sample, times, *conditions = example_inputs(model, 1)
    return functools.partial(predict, model, sample, times, dict(zip(model.inputs, conditions, strict=True)))
