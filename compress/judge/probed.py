"""The student on the probe, beside its teacher, and the models of the recipe's passes on their way to it."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from compress.judge import probe, stages
from compress.judge.baseline import Baseline
from compress.judge.decision import Evaluated
from compress.judge.quality import sqnr
from compress.measure import latency
from compress.model.denoiser import Denoiser
from compress.model.reference import Drawn, Progress, identity
from compress.report.parts import Figure, Quantization, Stage, TimestepError
from compress.runtime import Bundle

DISTILLED = "one evaluation of the student does the work of several of the teacher's"


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
    rows, parity = _passes(passes, bundle, baseline, student, progress)
    quantization, loss = (None, {}) if parity is None else (parity[0], {"kernel_loss": parity[1]})
    if bundle.sampling.get("distilled"):
        return Probed(sound | loss, dict.fromkeys(get_args(Evaluated), DISTILLED), (), rows, quantization)
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


def _passes(
    passes: Sequence[Any], bundle: Bundle, baseline: Baseline, student: probe.Answer, progress: Progress
) -> tuple[tuple[Stage, ...], tuple[Quantization, Figure] | None]:
    """(what each pass of the recipe cost and gained; what simulated and real kernels lose, where one quantized).

    student: the bundle's answer. A float net that is met again, as the one before quantization is, is asked once.
    """
    if not passes:
        return (), None
    frozen, answers, parity = student.probe, dict[str, probe.Answer](), None

    def ask(model: Denoiser) -> probe.Answer:
        key = model.scheme + identity(model)
        answers[key] = answers.get(key) or probe.answer(frozen, probe.of_model(model))
        return answers[key]

    own = probe.Answer(frozen, frozen.guided)
    models = [stages.of_model("teacher", "teacher", baseline.teacher, lambda: own)]
    with progress("what each pass cost", len(passes)) as task:
        for done in passes:
            if done.kind == "export_onnx":
                models.append(stages.of_bundle(done.name, bundle, student))
            else:
                model = done.load()
                models.append(stages.of_model(done.name, done.kind, model, functools.partial(ask, model)))
                if model.precision and parity is None:
                    whole, fake, real = ask(model.in_float()).guided, ask(model).guided, student.guided
                    levels = Quantization(simulated_sqnr_db=sqnr(whole, fake), kernels_sqnr_db=sqnr(whole, real))
                    parity = levels, stages.kernel_loss(whole, fake, real)
            task.advance()
    with latency.threads(bundle.threads or 1):
        return stages.table(models, progress), parity
