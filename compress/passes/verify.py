"""Judge the exported file, run by the runtime that ships, against the PyTorch teacher.

Both draw the same labels from the same noise with their own sampling; seeds are used for nothing else. Every figure
has its 95% interval and stands beside the teacher's own, so that a difference that could be noise is called "not
resolved". A gate is held against the far end of the interval, those that no recipe can lift as well; without one on
quality the verdict is "not judged". Latency is measured interleaved in one run, beside the strongest baselines at hand.
The reference samples are drawn once and kept.
"""

import platform
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import onnxruntime
import torch
from pydantic import Field, model_validator

from compress import __version__
from compress.contract import Context, Forecast, PassConfig, PassResult
from compress.errors import VerifyError
from compress.evaluation import baseline as baselines
from compress.evaluation import cost, decision, judging, latency, probe, soundness, stages
from compress.evaluation import forecast as predicted
from compress.evaluation.decision import Cost, Distributional, Evaluated, Metric, Paired
from compress.evaluation.figure import Figure
from compress.evaluation.response import sample
from compress.files import write_json, write_npz
from compress.models.denoiser import Denoiser
from compress.models.reference import BATCH, PYTORCH, Drawn, draw_kept, identity, kept_folder
from compress.runtime import Bundle
from compress.settings import File, Many

SHOWN = 40  # pairs of samples that are kept for pictures
AGAIN = 10  # images that the teacher draws once more, in the other runtime
NOT_FINITE = "not every sample of the student is finite"


class Gate(PassConfig):
    """A limit on a metric; at least one of min, max and margin."""

    min: float | None = Field(None, description="least acceptable value")
    max: float | None = Field(None, description="largest acceptable value")
    margin: float | None = Field(None, ge=0, description="how much worse than the teacher's own figure it may be")

    @model_validator(mode="after")
    def _some(self) -> "Gate":
        if self.min is None and self.max is None and self.margin is None:
            raise ValueError("give min, max or margin")
        return self


class Config(PassConfig):
    """Settings of `verify`."""

    gates: dict[Metric, Gate] = Field(
        {},
        description="limits, held against the far end of the 95% interval; params, macs and bytes are student ÷ "
        "teacher, speedups teacher ÷ student; distances between distributions are the worst of all feature spaces; "
        'without one on quality the verdict is "not judged"',
    )
    samples: int = Field(300, ge=10, description="images of the student, each beside the teacher's from the same noise")
    reference: int | None = Field(
        None, ge=10, description="images of the teacher from other noise, to hold both against; default: as `samples`"
    )
    features: Many[File] = Field(
        (), description="feature extractors of your own, TorchScript or ONNX, relative to the recipe"
    )
    guidance_scales: Many[float] = Field((), description="scales at which the guidance response is measured")
    few_steps: Many[int] = Field(
        (), description="numbers of steps at which the teacher itself is tried, as a baseline that needs no training"
    )
    rounds: int = Field(30, ge=10, description="rounds of timing; the teacher in PyTorch is in every third")
    threads: int = Field(1, ge=1, description="threads of either side; 1 measures work and not scheduling")
    batches: Many[int] = Field((8,), description="batch sizes to time beside 1")
    starts: int = Field(1, ge=0, description="fresh processes of each side, for cold start and peak memory")
    torch_compile: bool = Field(False, description="time the teacher under torch.compile as well; takes minutes")
    judge_accuracy: float = Field(
        0.9, ge=0, le=1, description="least accuracy on held-out images for a classifier to be believed"
    )

    @model_validator(mode="after")
    def _gates(self) -> "Config":
        alone = [name for name, gate in self.gates.items() if name in get_args(Cost) and gate.margin is not None]
        if alone:
            raise ValueError(f"a gate on {alone[0]} takes no margin; give min or max")
        asked = [name for name in self.gates if name in get_args(Distributional)]
        if asked and min(self.samples, self.reference or self.samples) < judging.LEAST:
            raise ValueError(f"a gate on {asked[0]} needs at least {judging.LEAST} samples and references")
        return self


def run(model: Bundle, config: Config, context: Context) -> PassResult[Bundle]:
    """Measure, decide, and write report.json and the samples."""
    bundle = Bundle(model.path, threads=config.threads)
    teacher = context.teacher()
    if tuple(bundle.sample_shape) != teacher.sample_shape or set(bundle.conditions) != set(teacher.conditions):
        raise VerifyError(f"{bundle.path}: has other inputs than the teacher; give the teacher that it was made from")
    baseline = baselines.kept(teacher, config.threads, context.progress, f"{context.name}: the baseline")
    engine = baseline.engine(context.log)
    drawn = draw_kept(
        teacher,
        config.samples + (config.reference or config.samples),
        context.seed,
        context.dataset,
        context.progress,
        f"{context.name}: teacher's samples",
        engine,
    )
    ours = sample(bundle, drawn[: config.samples], context.progress, f"{context.name}: student's samples")
    sound = {"finite_output": soundness.finite_output(ours)}
    finite = sound["finite_output"].value == 1  # else nothing about its images can be measured
    pairs, others = drawn[: len(ours)], drawn[config.samples :]
    judged = judging.Judging(
        context.dataset,
        context.data,
        config.features,
        config.judge_accuracy,
        context.progress,
        context.allow_pickle,
        engine,
    )
    quality: dict[str, Figure] = {}
    probed, student, spaces = None, None, judging.Spaces()
    if finite:
        quality, probed, student = _quality(bundle, baseline, pairs, others, ours, judged, context)
        spaces = judged.spaces(pairs, others, ours)
    costs = cost.measure(
        teacher,
        bundle,
        baseline,
        config.threads,
        config.rounds,
        config.batches,
        config.torch_compile,
        config.starts,
        context.progress,
    )
    blamed, loss = _passes(teacher, bundle, student, context)
    quality |= {"sampling_error": probe.sampling_error(bundle, teacher), **loss}
    sound["listed_files"] = soundness.listed_files(bundle)  # after all else: what was judged is what is there
    figures: dict[str, list[Figure]] = {name: [figure] for name, figure in (quality | costs.ratios | sound).items()}
    for figures_of_space in spaces.figures.values():
        for name, figure in figures_of_space.items():
            figures.setdefault(name, []).append(figure)
    decisions = _decide(figures, bundle, finite, judged, config, context)
    guidance = None
    if not finite:
        context.log(f"{context.name}: {NOT_FINITE}, so that its quality was not measured")
    elif config.guidance_scales and bundle.guidance["kind"] == "baked":
        context.log(
            f"{context.name}: no guidance response: the student knows the scale {bundle.guidance['scale']} alone"
        )
    elif config.guidance_scales and teacher.sampling.guidance.online and teacher.classes is not None:
        guidance = judged.guidance_response(teacher, bundle, config.guidance_scales, context.name, context.seed)
    report = {
        "format": 3,
        "recipe": context.recipe,
        "verdict": decision.verdict(decisions),
        "summary": _summary(costs.ratios, quality, spaces),
        "gates": decision.as_json(decisions),
        **costs.sides,
        "ratios": {name: figure.value for name, figure in costs.ratios.items()},
        "intervals": {name: figure.interval for name, figure in costs.ratios.items() if figure.interval},
        "latency": costs.rows,
        "process": costs.process,
        "quality": {name: figure.as_json() for name, figure in quality.items()} | judged.reasons(),
        "spaces": spaces.as_json(),
        "agreement": spaces.agreement(),
        "probe": probed,
        "guidance": guidance,
        "by_class": judged.by_class(pairs, ours) if finite else None,
        "few_steps": judged.few_steps(teacher, others, config.few_steps, costs, context.name, context.seed),
        **blamed,
        "reference": {
            "count": len(others.samples),
            "paired": len(ours),
            "identity": identity(teacher)[:24],
            "solver": teacher.sampling.solver,
            "steps": len(teacher.sampling.timesteps),
        },
        "samples": len(ours),
        "seed": context.seed,
        "commands": [f"compress apply {context.recipe}.yaml", "compress verify RESULT --teacher CHECKPOINT"],
        "environment": _environment(config.threads),
    }
    write_json(context.output / "report.json", report)
    shown = {"teacher": pairs.samples[:SHOWN].numpy(), "student": ours[:SHOWN]}
    if "class_labels" in pairs.conditions:
        shown["labels"] = pairs.conditions["class_labels"][:SHOWN].numpy()
    write_npz(context.output / "samples.npz", shown)
    values = {name: found[0].value for name, found in figures.items()}
    return PassResult(model, changed=False, notes={"verdict": report["verdict"], "values": values})


def forecast(model: Bundle, config: Config, context: Context) -> Forecast:
    """Drawing samples takes most of the time; those of the teacher that an earlier run has kept take none."""
    teacher = context.teacher()
    reference = config.reference or config.samples
    files = len(list(kept_folder(teacher, baselines.engine_name(teacher)).glob(f"{context.seed}-*.npz")))
    seconds = predicted.seconds(
        teacher,
        Bundle(model.path, threads=config.threads),
        max(0, config.samples + reference - files * BATCH),
        config.samples,
        reference,
        config.rounds,
        config.batches,
        context.stages,
        config.threads,
    )
    return Forecast(model, seconds)


def _quality(
    bundle: Bundle,
    baseline: baselines.OnnxTeacher,
    pairs: Drawn,
    others: Drawn,
    ours: np.ndarray,
    judged: judging.Judging,
    context: Context,
) -> tuple[dict[str, Figure], dict[str, Any] | None, probe.Answer]:
    """(figures from the probe and from pairs of samples, the curve of the probe where it means something, what the
    student says to the probe)."""
    teacher = baseline.teacher
    with context.progress(f"{context.name}: probe", 4) as task:
        frozen = probe.make(teacher, others, _asked(teacher, bundle), context.seed)
        task.advance()
        student = probe.answer(frozen, probe.of_bundle(bundle), bundle.threads)
        task.advance()
        rounding = probe.answer(frozen, baseline.evaluate, baseline.threads)
        task.advance()
        few, other = pairs[:AGAIN], baseline.draw if judged.engine is PYTORCH else PYTORCH.draw
        again = other(teacher, few.noise, few.conditions, lambda _: None).numpy()
        task.advance()
    error, low, high = student.curve()
    curve = {
        "timesteps": list(frozen.timesteps),
        "error": error.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "floor": rounding.curve()[0].tolist(),
    }
    figures = probe.figures(student, rounding) | judged.pairs(pairs, ours, again)
    if not bundle.manifest.get("paired", True):
        figures = {name: figure for name, figure in figures.items() if name not in get_args(Paired)}
    if distilled(bundle):
        return {name: figure for name, figure in figures.items() if name not in get_args(Evaluated)}, None, student
    return figures, curve, student


def _decide(
    figures: Mapping[str, Sequence[Figure]],
    bundle: Bundle,
    finite: bool,
    judged: judging.Judging,
    config: Config,
    context: Context,
) -> list[decision.Decision]:
    """The recipe's gates, and those that always hold, on what was measured. Raises VerifyError."""
    gates = {name: gate.model_dump() for name, gate in config.gates.items()}
    left_out: dict[str, str] = {}
    if not bundle.manifest.get("paired", True):
        left_out |= dict.fromkeys(get_args(Paired), judging.UNPAIRED)
    if distilled(bundle):
        left_out |= dict.fromkeys(get_args(Evaluated), judging.DISTILLED)
    if "kernel_loss" not in figures and ("kernel_loss" in gates or bundle.manifest["scheme"] != "float"):
        left_out["kernel_loss"] = "needs the model before export: a recipe that quantizes, run from its checkpoint"
    if not finite:
        left_out |= {name: NOT_FINITE for name in gates if name not in figures}
    unknown = [name for name in gates if name not in figures and name not in left_out]
    if unknown:
        raise VerifyError(f"{context.name}: {', '.join(unknown)} cannot be judged: {judged.why_not(unknown[0])}")
    return decision.decide(figures, decision.with_always(gates, {*figures, *left_out}), left_out)


def distilled(bundle: Bundle) -> bool:
    """Whether an evaluation of the student is none of the teacher's, because its steps were distilled."""
    return bool(bundle.manifest["sampling"].get("distilled", False))


def _asked(teacher: Denoiser, bundle: Bundle) -> tuple[float, ...]:
    """The timesteps of the probe: the teacher's where the student has as many, else the student's own."""
    asked = tuple(step.timestep for step in bundle.steps)
    own = teacher.sampling.timesteps
    return own if len(own) == len(asked) else asked


def _passes(
    teacher: Denoiser, bundle: Bundle, student: probe.Answer | None, context: Context
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """(what each pass of the recipe cost and gained, kernel_loss).

    student: the bundle's answer to the probe. Nothing where a bundle is verified on its own, or draws what is not
    finite.
    """
    if not context.stages or student is None:
        return {"stages": [], "quantization": None}, {}
    frozen = student.probe
    models = [stages.Measured("teacher", "teacher", teacher, probe.Answer(frozen, frozen.guided))]
    with context.progress(f"{context.name}: what each pass cost", len(context.stages)) as task:
        for stage in context.stages:
            if stage.kind == "export_onnx":
                models.append(stages.Measured(stage.name, stage.kind, bundle, student))
            else:
                model = stage.load()
                said = probe.answer(frozen, probe.of_model(model))
                models.append(stages.Measured(stage.name, stage.kind, model, said))
            task.advance()
        parity = stages.quantized(models)
    with latency.threads(bundle.threads or 1):
        rows = stages.table(models, context.progress)
    if parity is None:
        return {"stages": rows, "quantization": None}, {}
    return {"stages": rows, "quantization": parity[0]}, {"kernel_loss": parity[1]}


def _environment(threads: int) -> dict[str, Any]:
    return {
        "cpu": latency.processor(),
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "compress": __version__,
    }


def _summary(ratios: Mapping[str, Figure], quality: Mapping[str, Figure], spaces: judging.Spaces) -> str:
    text = (
        f"{ratios['call_speedup'].value:.1f}× faster a call than the teacher in PyTorch and "
        f"{ratios['call_speedup_over_onnxruntime'].value:.1f}× than the teacher in onnxruntime fp32, "
        f"{ratios['bytes'].value:.2f}× its bytes, {ratios['macs'].value:.2f}× its multiply-accumulates"
    )
    if "class_agreement" in quality:
        text += f"; {quality['class_agreement'].value:.1%} of images are named as the teacher's"
    told: Sequence[str] = spaces.resolved()
    if spaces.figures:
        text += f"; told apart from the teacher by {', '.join(told)}" if told else "; not told apart from the teacher"
    return f"{text}."
