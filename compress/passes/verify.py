"""Judge the exported file, run by the runtime that ships, against the PyTorch teacher.

Both draw the same labels from the same noise with their own sampling; seeds are used for nothing else. Every figure
has its 95% interval and stands beside the teacher's own, so that a difference that could be noise is called "not
resolved". A gate is held against the far end of the interval, those that no recipe can lift as well; without one on
quality the verdict is "not judged". Latency is measured interleaved in one run, beside the strongest baselines at hand.
The reference samples are drawn once and kept.
"""

from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import AfterValidator, Field, model_validator

from compress import targets
from compress.contract import Context, Forecast, PassConfig, PassResult, Task, Unwritten
from compress.data import Dataset, read_prompts
from compress.data.prompts import SUFFIX
from compress.files import write_npz
from compress.judge import (
    alignment,
    attributes,
    cost,
    decision,
    images,
    limits,
    metrics,
    on_targets,
    probed,
    shares,
    yardsticks,
)
from compress.judge import baseline as baselines
from compress.judge import forecast as predicted
from compress.judge.features import LEAST
from compress.judge.probe import COUNT
from compress.judge.soundness import finite_output, listed_files
from compress.measure import fastest
from compress.model.reference import BATCH, Progress, kept_folder
from compress.pipeline.pipeline import encode
from compress.report.report import FORMAT, Report, pooled
from compress.runtime import Bundle
from compress.settings import Directory, File, Many

if TYPE_CHECKING:
    Metric = str
else:
    Metric = Literal[(*metrics.METRICS, "sampling_error", "kernel_loss", *decision.COSTS)]


class Config(PassConfig):
    """Settings of `verify`."""

    gates: dict[Metric, decision.Gate] = Field(
        {},
        description="limits, held against the far end of the 95% interval; params, macs and bytes are student ÷ "
        "teacher, speedups teacher ÷ student; distances between distributions are the worst of all feature spaces, "
        "shares of attributes those of the worst attribute; "
        'without one on quality the verdict is "not judged"',
    )
    samples: int = Field(300, ge=10, description="images of the student, each beside the teacher's from the same noise")
    reference: int | None = Field(
        None,
        ge=10,
        description="images of the teacher from other noise, to hold both against; default: as `samples`, or as few as "
        "the probe takes where those are too few to compare distributions",
    )
    engine: Annotated[str, AfterValidator(fastest.engine_name)] = Field(
        "onnxruntime",
        description="what runs the student: onnxruntime, onnxruntime:PROVIDER, openvino, openvino:bf16, qnn; or "
        "fastest, the one of those installed that takes the least time here",
    )
    features: Many[File] = Field(
        (), description="feature extractors of your own, TorchScript or ONNX, relative to the recipe"
    )
    prompts: File | None = Field(
        None,
        description="text file, a prompt a line, to draw for; or .jsonl, with the attributes that are asked for: "
        '{"text": "flat, red apple", "style": "flat"}; default: conditions of the data',
    )
    attributes: File | None = Field(
        None, description="ONNX classifier of your own that names attributes of pictures, such as style or colour"
    )
    alignment: Directory | None = Field(
        None,
        description="folder of a CLIPModel of your own, with tokenizer and processor, as transformers saves them: it "
        "says how well pictures fit their prompts",
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
        alone = [name for name, gate in self.gates.items() if name in decision.COSTS and gate.margin is not None]
        if alone:
            raise ValueError(f"a gate on {alone[0]} takes no margin; give min or max")
        asked = [name for name in self.gates if name in metrics.lacking("others")]
        if asked and min(self.samples, self.references) < LEAST:
            raise ValueError(f"a gate on {asked[0]} needs at least {LEAST} samples and references")
        unnamed = [name for name in self.gates if name in metrics.lacking("attributes")]
        if unnamed and self.attributes is None:
            raise ValueError(f"a gate on {unnamed[0]} needs `attributes`, a classifier")
        if "alignment" in self.gates and self.alignment is None:
            raise ValueError("a gate on alignment needs `alignment`, a model of texts and images")
        if self.alignment is not None and self.prompts is None:
            raise ValueError("alignment needs `prompts`")
        if "attribute_accuracy" in unnamed and (self.prompts is None or self.prompts.suffix.lower() != SUFFIX):
            raise ValueError("a gate on attribute_accuracy needs `prompts` that say what they ask for, a .jsonl")
        return self

    @property
    def references(self) -> int:
        """Images of the teacher from other noise; where no distributions are compared, the probe alone reads them."""
        compared = self.samples >= LEAST or self.features or self.few_steps
        return self.reference or (self.samples if compared else min(self.samples, COUNT))

    @property
    def clock(self) -> cost.Clock:
        """How costs are measured."""
        return cost.Clock(self.rounds, self.batches, self.torch_compile, self.starts)


def run(model: Bundle, config: Config, context: Context) -> PassResult[Bundle]:
    """Measure, decide, and write report.json and the samples."""

    def progress(title: str, total: int) -> AbstractContextManager[Task]:
        return context.progress(f"{context.name}: {title}", total)

    engine, engines = fastest.chosen(config.engine, model.path, config.threads, progress, anew=True)
    bundle, teacher = Bundle(model.path, config.threads, engine=engine), context.teacher()
    images.check_comparable(bundle, teacher, context.name)
    if config.guidance_scales and bundle.guidance["kind"] == "baked":
        context.log(f"{context.name}: no guidance response: it knows the scale {bundle.guidance['scale']} alone")
    baseline = baselines.kept(teacher, config.threads, progress, "the baseline", context.around())
    measured_with = _yardsticks(config, context, bundle, baseline, progress)
    drawn = images.measure(measured_with, bundle, baseline, config.samples, config.references, config.guidance_scales)
    if not drawn.finite:
        context.log(f"{context.name}: {limits.NOT_FINITE}, so that its quality was not measured")
    answers = probed.measure(bundle, baseline, drawn.others, drawn.finite, context.finished, context.seed, progress)
    costs = cost.measure(bundle, baseline, config.clock, progress)
    pipeline = shares.measure(measured_with, bundle, baseline, drawn, costs)
    judge = _judge(config, context, bundle, measured_with, baseline, costs.teacher.bytes, progress)
    elsewhere = {name: judge.target(folder, engine) for name, folder, engine in targets.beside(bundle)}
    # after all else: what was judged is what is there
    sound = {"finite_output": finite_output(drawn.sets.student), "listed_files": listed_files(bundle)}
    figures = pooled(answers.quality | drawn.quality | costs.ratios | sound, drawn.spaces, drawn.attributes)
    lacking = limits.not_at_hand(config.gates, figures, drawn.finite, bundle.manifest["scheme"])
    left_out = drawn.left_out | answers.left_out | lacking
    gates = limits.decide(figures, left_out, config.gates, measured_with, context.name)
    report = Report(
        format=FORMAT,
        recipe=context.recipe,
        verdict=decision.verdict(gates),
        gates=gates,
        **dict(costs),
        quality=answers.quality | drawn.quality,
        unmeasured=measured_with.reasons() | left_out,
        spaces=drawn.spaces,
        probe=answers.curve,
        guidance=drawn.guidance,
        by_class=drawn.by_class,
        few_steps=measured_with.few_steps(teacher, drawn.others, config.few_steps, costs),
        stages=answers.stages,
        quantization=answers.quantization,
        reference=drawn.reference,
        seed=context.seed,
        attributes=drawn.attributes,
        pipeline=pipeline,
        engines=engines,
        targets=elsewhere,
    )
    report.write(context.output)
    write_npz(context.output / "samples.npz", drawn.shown())
    measured = {name: found[0].value for name, found in figures.items()}
    return PassResult(model, changed=False, notes={"verdict": report.verdict, "values": measured})


def _judge(
    config: Config,
    context: Context,
    bundle: Bundle,
    measured_with: yardsticks.Yardsticks,
    baseline: baselines.Baseline,
    teacher_bytes: int,
    progress: Progress,
) -> on_targets.Judge:
    """Of the files for other engines."""
    decide = partial(limits.decide, gates=config.gates, measured_with=measured_with, name=context.name)

    def draw(other: Bundle) -> images.Images:
        return images.measure(measured_with, other, baseline, config.samples, config.references, ())

    return on_targets.Judge(bundle, draw, decide, tuple(config.gates), teacher_bytes, config.rounds, progress)


def _yardsticks(
    config: Config, context: Context, bundle: Bundle, baseline: baselines.Baseline, progress: Progress
) -> yardsticks.Yardsticks:
    """What samples are measured with."""
    return yardsticks.Yardsticks(
        context.pictures or context.dataset,
        context.data,
        config.features,
        config.judge_accuracy,
        progress,
        context.allow_pickle,
        baseline.drawer(context.log),
        context.seed,
        baseline.bundle,
        cache(partial(_prompted, config.prompts, context, progress)) if config.prompts else None,
        attributes.named(config.attributes, attributes.picture_shape(bundle), config.judge_accuracy, config.prompts),
        alignment.load(config.alignment),
    )


def _prompted(file: Path, context: Context, progress: Progress) -> Dataset:
    """The prompts of a file, as a data set of which the conditions alone are read."""
    texts = read_prompts(file)
    return Dataset(torch.zeros(len(texts), 1), encode(context.around(), texts, progress, context.log), texts)


def forecast(model: Bundle | Unwritten, config: Config, context: Context) -> Forecast:
    """Drawing samples takes most of the time; those of the teacher that an earlier run has kept take none."""
    teacher, wanted = context.teacher(), config.samples + config.references
    engine = fastest.foreseen(config.engine)
    files = len(list(kept_folder(teacher, baselines.drawer_name(teacher)).glob(f"{context.seed}-*.npz")))
    if isinstance(model, Unwritten):
        student = predicted.of_model(model.denoiser, context.parts(), model.batch, config.threads)
        shape = context.parts().picture_shape(model.denoiser.sample_shape)
    else:
        bundle = Bundle(model.path, config.threads, engine=engine)
        student, shape = predicted.of_bundle(bundle), attributes.picture_shape(bundle)
    attributes.named(config.attributes, shape, config.judge_accuracy, config.prompts)  # what is wrong is told here
    alignment.load(config.alignment)
    asked = predicted.Wanted(config.samples, config.references, max(0, wanted - files * BATCH))
    passes = len(context.finished)
    return Forecast(model, predicted.seconds(teacher, context.around(), student, asked, config.clock, passes))
