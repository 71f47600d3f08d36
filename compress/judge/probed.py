"""The student on the probe, beside its teacher, and the models of the recipe's passes on their way to it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from compress.judge import probe, stages
from compress.judge.baseline import OnnxTeacher
from compress.judge.metrics import lacking
from compress.measure import latency
from compress.model.denoiser import Denoiser
from compress.model.reference import Drawn, Progress
from compress.report.parts import Figure, Quantization, Stage, TimestepError
from compress.runtime import Bundle


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
    baseline: OnnxTeacher,
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
        rounding = probe.answer(frozen, baseline.evaluate, baseline.threads)
        task.advance()
    rows, parity = _passes(passes, bundle, baseline, student, progress)
    quantization, loss = (None, {}) if parity is None else (parity[0], {"kernel_loss": parity[1]})
    if stages.distilled(bundle):
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


def _passes(
    passes: Sequence[Any], bundle: Bundle, baseline: OnnxTeacher, student: probe.Answer, progress: Progress
) -> tuple[tuple[Stage, ...], tuple[Quantization, Figure] | None]:
    """(what each pass of the recipe cost and gained; as `stages.quantized`). student: the bundle's answer."""
    if not passes:
        return (), None
    frozen = student.probe
    models = [stages.Measured("teacher", "teacher", baseline.teacher, probe.Answer(frozen, frozen.guided))]
    with progress("what each pass cost", len(passes)) as task:
        for done in passes:
            if done.kind == "export_onnx":
                models.append(stages.Measured(done.name, done.kind, bundle, student))
            else:
                model = done.load()
                said = probe.answer(frozen, probe.of_model(model))
                models.append(stages.Measured(done.name, done.kind, model, said))
            task.advance()
        parity = stages.quantized(models)
    with latency.threads(bundle.threads or 1):
        return stages.table(models, progress), parity
