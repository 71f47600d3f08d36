"""Judges a denoiser's ONNX file that another tool made, beside the PyTorch teacher."""

import dataclasses
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.data import FromTeacher
from compress.diffusion.sampling import Guidance
from compress.errors import BundleError, RecipeError
from compress.files import write_json
from compress.judge import candidate, decision
from compress.judge import probe as probes
from compress.judge.asked_otherwise import answers, guesses, told, without
from compress.judge.quality import sqnr
from compress.judge.soundness import finite_output
from compress.model.denoiser import Denoiser
from compress.model.reference import Drawn, draw_dataset
from compress.onnx_graph.quantizers import cuts
from compress.pipeline.pipeline import encode
from compress.recipe.head import Head
from compress.recipe.inputs import Inputs, Options
from compress.recipe.recipe import Recipe
from compress.report.candidate import Asked, Candidate, Finding
from compress.report.parts import Figure
from compress.runtime.engine import Feeds
from compress.runtime.engines import ONNXRUNTIME, OnnxRuntime
from compress.runtime.foreign import SAMPLE, TIMESTEP, Foreign, Ours, match
from compress.runtime.sampling import classifier_free_guidance

ITEMS, PLACES = 12, 6  # of the probe: samples, and timesteps from the whole sampling
FEW = 3  # timesteps at which what takes longer is looked at
SEEN = 1e-4  # relative error from which it is asked whether that is the kernels'
PROMPTS = (  # where a teacher with a text encoder comes without a recipe
    "a red apple", "a photo of a dog", "a blue car in the street", "a portrait of an old man", "a house by the sea",
    "a bowl of soup", "mountains under snow", "a yellow bird", "a robot", "a city at night", "a white flower", "a cat",
)  # fmt: skip


def verify_candidate(
    file: Path, teacher: str, recipe: Recipe | None, said: Sequence[str], options: Options, output: Path | None
) -> Candidate:
    """What is wrong with a file, by the answers that it gives on noised samples of its teacher.

    recipe: whose data, guidance, sampling and gates on output error to use; None: the teacher's own, and no gates.
    said: inputs that cannot be told by name or shape, each as theirs=ours. output: folder for candidate.json.
    Raises a CompressError.
    """
    graph, named = ONNXRUNTIME.open(file), _named(said)
    recipe = recipe or Recipe(Head(name="candidate", checkpoint=teacher), [], file)
    with tempfile.TemporaryDirectory() as work:
        inputs = Inputs(recipe, options)
        model = inputs.teacher()
        if model.sampling.guidance.kind == "classifier":  # which is no matter of the file
            model = dataclasses.replace(model, sampling=model.sampling.model_copy(update={"guidance": Guidance()}))
        foreign = match(graph, _ours(model), named, file)
        drawn = _drawn(inputs, model, Path(work))
    known = model.sampling.timesteps
    made = probes.make(model, drawn, tuple(known[i] for i in _spread(len(known), PLACES)), recipe.head.seed)
    found = _Answers(model, made, foreign, file, options)
    verify: Any = next((step.config for step in recipe.steps if step.kind == "verify"), None)
    findings = tuple(one for one in found.findings() if one is not None)
    figures, gates = found.figures, {} if verify is None else verify.model_dump()["gates"]
    left_out = {name: "not measured of the answers of a file" for name in gates if name not in figures}
    limits = decision.with_always(gates, ["finite_output"])
    held = decision.decide({name: [figure] for name, figure in figures.items()}, limits, left_out)
    report = Candidate(
        file=str(file),
        verdict="fail" if any(one.certain for one in findings) else decision.verdict(held),
        gates=held,
        figures=figures,
        left=found.left,
        timesteps=found.timesteps,
        findings=findings,
        inputs={one.name: one.ours for one in foreign.inputs},
    )
    if output is not None:
        write_json(output / "candidate.json", report.model_dump(mode="json"))
    return report


class _Answers:
    """The answers of a file and its teacher on a probe, and what follows from them.

    own, found: the teacher's and the file's [timesteps,b,…], by what was asked otherwise; "": nothing.
    """

    def __init__(self, teacher: Denoiser, probe: probes.Probe, foreign: Foreign, file: Path, options: Options) -> None:
        self.teacher, self.probe, self.foreign, self.file = teacher, probe, foreign, file
        self.told = told(teacher, probe.timesteps)
        asked = {name: (self.told, given) for name, given in without(teacher, probe.conditions).items()}
        if len(self.told) > 1:
            asked[TIMESTEP] = self.told[::-1], dict(probe.conditions)
        self.own, self.found = {"": probe.conditional}, dict[str, np.ndarray]()
        with options.progress("asking teacher and file", 1 + 2 * len(asked)) as task:
            self.found[""] = self._ask(foreign, self.told, probe.conditions)
            task.advance()
            for name, (numbers, given) in asked.items():
                self.found[name] = self._ask(foreign, numbers, given)
                task.advance()
                self.own[name] = answers(teacher, probe.samples, numbers, given)
                task.advance()
        self.few = _spread(len(self.told), FEW)
        whole = np.stack([*self.found.values()])
        self.finite = np.isfinite(whole).all(axis=(0, *range(3, whole.ndim)))
        self.figures = {"finite_output": finite_output(whole.reshape(math.prod(whole.shape[:3]), -1, 1, 1))}
        self.left: dict[str, Figure] = {}
        self.timesteps: tuple[Asked, ...] = ()
        self.error = candidate.relative_error(self.own[""], self.found[""])
        if self.finite.all():
            self._measure()

    def _ask(self, foreign: Foreign, numbers: Sequence[float], given: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.stack([foreign(*asked, given) for asked in zip(self.probe.samples, numbers, strict=True)])

    def _measure(self) -> None:
        """Fill in the figures of answers that are finite."""
        probe, own, found = self.probe, self.own[""], self.found[""]
        for name in (name for name in self.own if name):
            share = candidate.share_left(own - self.own[name], found - self.found[name])
            self.left |= {name: share} if share else {}
        guided = found
        if self.teacher.sampling.guidance.kind == "cfg":
            dropped = self.teacher.dropped
            unconditional = self.found["guidance" if len(dropped) > 1 else dropped[0]]
            guided = classifier_free_guidance(found, unconditional, probe.scale)
        self.figures |= probes.figures(probes.Answer(probe, guided), probes.Answer(probe, probe.guided))
        self.timesteps = tuple(
            Asked(timestep=t, output_error=candidate.relative_error(wanted, one), sqnr_db=sqnr(wanted, one))
            for t, wanted, one in zip(probe.timesteps, probe.guided, guided, strict=True)
        )
        if self.error > SEEN:
            plain = dataclasses.replace(self.foreign, graph=OnnxRuntime(optimized=False).open(self.file))
            slow = np.stack([plain(probe.samples[i], self.told[i], probe.conditions) for i in self.few])
            self.figures["kernel_loss"] = probes.kernel_loss(own[self.few], slow, found[self.few])

    def findings(self) -> Iterator[Finding | None]:
        """All that is wrong, the causes before what follows from them."""
        yield candidate.not_finite(self.finite, self.probe.timesteps)
        if not self.finite.all():
            return
        few, explained = self.few, None
        if self.error > candidate.EXACT:
            guessed = guesses(self.teacher, self.probe, few)
            explained = candidate.explained(self.own[""][few], self.found[""][few], guessed)
        yield explained
        yield candidate.saturated(cuts(self.file, [*self._few_items()]), self.error)
        yield candidate.inexact_kernels(self.figures.get("kernel_loss"))
        if explained is None:  # else all that depends on it is another's too
            yield from candidate.lost(self.left)

    def _few_items(self) -> Iterator[Feeds]:
        """As many items as the file takes at once, at few timesteps."""
        index = np.arange(self.foreign.batch or 2) % self.probe.samples.shape[1]
        given = {name: value[index] for name, value in self.probe.conditions.items()}
        for i in self.few:
            yield self.foreign.feeds(self.probe.samples[i][index], self.told[i], given)


def _spread(count: int, wanted: int) -> list[int]:
    """Places among `count`, evenly from the first to the last."""
    return sorted({*np.linspace(0, count - 1, wanted).round().astype(int).tolist()})


def _named(said: Sequence[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in said]
    for theirs, _, ours in pairs:
        if not theirs or not ours:
            raise BundleError(f"--inputs {theirs or '='}: should be theirs=ours, e.g. --inputs latent=sample")
    return {theirs: ours for theirs, _, ours in pairs}


def _ours(model: Denoiser) -> dict[str, Ours]:
    """What the net takes; the number of tokens is open."""
    found = {SAMPLE: Ours(model.sample_shape), TIMESTEP: Ours((), whole=model.sampling.dtype == torch.int64)}
    for name, one in model.family.conditions(model.net, 1).items():
        longer = model.family.conditions(model.net, 2)[name].shape
        shape = tuple(size if size == more else None for size, more in zip(one.shape, longer, strict=True))
        found[name] = Ours(shape, not one.dtype.is_floating_point, one.concatenated)
    return found


def _drawn(inputs: Inputs, model: Denoiser, work: Path) -> Drawn:
    """Clean samples with their conditions: of the recipe's data, or drawn by the teacher. Raises CompressError."""
    head, options = inputs.recipe.head, inputs.options
    config = head.data or FromTeacher(source="teacher")
    if isinstance(config, FromTeacher):
        if head.data is None and set(model.conditions) - {"class_labels"}:
            if inputs.parts().rule is None or inputs.parts().text is None:
                needed = " and ".join(name for name in model.conditions if name != "class_labels")
                raise RecipeError(
                    f"{head.checkpoint}: takes {needed}; name a recipe with --recipe whose data hold them"
                )
            (work / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
            config = config.model_copy(update={"prompts": work / "prompts.txt"})

        def encoded(texts: Sequence[str]) -> Any:
            return encode(inputs.parts(), texts, options.progress, options.log)

        few = config.model_copy(update={"count": ITEMS})
        data = draw_dataset(model, few, head.seed, options.progress, encoded)
    else:
        data = inputs.dataset()
    batch = data.take(torch.linspace(0, len(data) - 1, ITEMS).long())
    return Drawn(batch.images, dict(batch.conditions), batch.images)  # of which noise nobody asks
