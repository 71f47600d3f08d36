"""Judges a denoiser's ONNX file that another tool made, beside the PyTorch teacher."""

import dataclasses
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
from compress.runtime.engines import ONNXRUNTIME, OnnxRuntime
from compress.runtime.foreign import SAMPLE, TIMESTEP, Foreign, Ours, match

ITEMS, PLACES = 12, 6  # of the probe: samples, and timesteps from the whole sampling
FEW = 3  # timesteps at which what takes longer is looked at
LARGEST = 1.0  # dB that kernels may be less exact than the graph
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
        inputs = Inputs(recipe, options, Path(work))
        model = inputs.teacher()
        if model.sampling.guidance.kind == "classifier":  # which is no matter of the file
            model = dataclasses.replace(model, sampling=model.sampling.model_copy(update={"guidance": Guidance()}))
        foreign = match(graph, _ours(model), named, file)
        drawn = _drawn(inputs, model, Path(work))
    known = model.sampling.timesteps
    timesteps = tuple(known[i] for i in sorted({*np.linspace(0, len(known) - 1, PLACES).round().astype(int).tolist()}))
    made = probes.make(model, drawn, timesteps, recipe.head.seed)
    found = _Answers(model, made, foreign, file, options)
    verify: Any = next((step.config for step in recipe.steps if step.kind == "verify"), None)
    findings = [*found.findings()]
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
        findings=tuple(findings),
        inputs={one.name: one.ours for one in foreign.inputs},
    )
    if output is not None:
        write_json(output / "candidate.json", report.model_dump(mode="json"))
    return report


class _Answers:
    """The file's answers on a probe, and what follows from them."""

    def __init__(self, teacher: Denoiser, probe: probes.Probe, foreign: Foreign, file: Path, options: Options) -> None:
        self.teacher, self.probe, self.foreign, self.file = teacher, probe, foreign, file
        self.told = told(teacher, probe.timesteps)
        self.left: dict[str, Figure] = {}
        self.timesteps: tuple[Asked, ...] = ()
        self.few = sorted({*np.linspace(0, len(self.told) - 1, FEW).round().astype(int).tolist()})
        asked = {"": (self.told, probe.conditions)}
        asked |= {name: (self.told, given) for name, given in without(teacher, probe.conditions).items()}
        if len(self.told) > 1:
            asked[TIMESTEP] = self.told[::-1], probe.conditions
        self.own: dict[str, np.ndarray] = {"": probe.conditional}
        self.found: dict[str, np.ndarray] = {}
        with options.progress("asking teacher and file", 2 * len(asked)) as task:
            for name, (numbers, given) in asked.items():
                self.found[name] = self._ask(foreign, numbers, given)
                task.advance()
                self.own[name] = answers(teacher, probe.samples, numbers, given) if name else probe.conditional
                task.advance()

    def _ask(self, foreign: Foreign, numbers: Sequence[float], given: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.stack([foreign(*asked, given) for asked in zip(self.probe.samples, numbers, strict=True)])

    def findings(self) -> Iterator[Finding]:
        """All that is wrong, the causes before what follows from them; fills figures, `left` and `timesteps`."""
        probe, found = self.probe, self.found[""]
        whole = np.stack(list(self.found.values()))
        self.figures = {"finite_output": finite_output(whole.reshape(-1, *whole.shape[3:]))}
        finite = np.isfinite(whole).all(axis=(0, *range(3, whole.ndim)))
        if wrong := candidate.not_finite(finite, probe.timesteps):
            yield wrong
            return
        for name, own in self.own.items():
            share = candidate.share_left(self.own[""] - own, found - self.found[name]) if name else None
            self.left |= {name: share} if share else {}
        guided = found
        if self.teacher.sampling.guidance.kind == "cfg":
            dropped = self.teacher.dropped
            unconditional = self.found["guidance" if len(dropped) > 1 else dropped[0]]
            guided = unconditional + probe.scale * (found - unconditional)
        self.figures |= probes.figures(probes.Answer(probe, guided), probes.Answer(probe, probe.guided))
        self.timesteps = tuple(
            Asked(timestep=t, output_error=candidate.relative_error(own, one), sqnr_db=sqnr(own, one))
            for t, own, one in zip(probe.timesteps, probe.guided, guided, strict=True)
        )
        error = candidate.relative_error(self.own[""], found)
        at, explained = self.few, None
        if error > candidate.EXACT:
            guessed = guesses(self.teacher, probe, at)
            explained = candidate.explained(self.own[""][at], found[at], guessed)
        given = [self.foreign.feeds(*one) for one in self._few_items()]
        causes = [explained, candidate.saturated(cuts(self.file, given), error), self._kernels(error)]
        yield from (one for one in causes if one is not None)
        if explained is None:  # else all that depends on it is another's too
            yield from candidate.lost(self.left)

    def _few_items(self) -> Iterator[tuple[np.ndarray, float, dict[str, np.ndarray]]]:
        """As many items as the file takes at once, at few timesteps."""
        index = np.arange(self.foreign.batch or 2) % self.probe.samples.shape[1]
        for i in self.few:
            given = {name: value[index] for name, value in self.probe.conditions.items()}
            yield self.probe.samples[i][index], self.told[i], given

    def _kernels(self, error: float) -> Finding | None:
        """Kernels that compute something else than the graph says. error: relative, of the outputs."""
        if error < SEEN:
            return None
        plain = dataclasses.replace(self.foreign, graph=OnnxRuntime(optimized=False).open(self.file))
        given = self.probe.conditions
        slow = np.stack([plain(self.probe.samples[i], self.told[i], given) for i in self.few])
        loss = probes.kernel_loss(self.own[""][self.few], slow, self.found[""][self.few])
        self.figures["kernel_loss"] = loss
        assert loss.interval is not None
        if loss.interval[0] <= LARGEST:
            return None
        said = (
            f"onnxruntime's optimized kernels are {loss.value:.1f} dB less exact than the graph node by node: sums of "
            "products of bytes saturate on this processor; quantize weights to 7 bits (reduce_range)"
        )
        return Finding(name="kernel_loss", value=loss.value, certain=True, said=said)


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
