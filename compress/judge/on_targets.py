"""What a bundle's files for other engines draw, each by its own engine, held against the same teacher and limits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from compress.errors import BundleError
from compress.judge import decision, images
from compress.judge.soundness import finite_output, listed_files
from compress.measure import latency
from compress.model.reference import Progress
from compress.report.parts import Decision, Figure
from compress.report.report import pooled
from compress.report.targets import Target
from compress.runtime import Bundle
from compress.runtime.engine import Engine
from compress.runtime.schemes import SCHEMES

OF_THE_BUNDLE = "is judged of the bundle itself"
Decide = Callable[[Mapping[str, list[Figure]], Mapping[str, str]], tuple[Decision, ...]]  # figures, what is left out


@dataclass(frozen=True)
class Judge:
    """draw: the figures of a bundle's samples. decide: by the recipe's limits. wanted: figures that those name.
    teacher_bytes, rounds, threads: of what costs are measured by."""

    draw: Callable[[Bundle], images.Images]
    decide: Decide
    wanted: tuple[str, ...]
    teacher_bytes: int
    rounds: int
    threads: int
    progress: Progress

    def target(self, folder: Path, engine: Engine) -> Target:
        """Of the bundle in a folder; where its engine is not at hand, or cannot run it, the reason."""
        unopened = Bundle(folder)
        found = Target(
            engine=engine.name, scheme=unopened.manifest["scheme"], bytes=unopened.size_bytes, verdict="not judged"
        )
        try:
            bundle = Bundle(folder, self.threads, engine=engine)
            drawn = self.draw(bundle)
            ms = None if SCHEMES[found.scheme].whole_graph else self._ms_per_call(bundle)
        except BundleError as error:
            return found.model_copy(update={"reason": f"converted, not run: {error}"})
        sound = {"finite_output": finite_output(drawn.sets.student), "listed_files": listed_files(bundle)}
        sizes = {"bytes": Figure(value=found.bytes / self.teacher_bytes, better="less")}
        figures = pooled(drawn.quality | sizes | sound, drawn.spaces, drawn.attributes)
        left_out = drawn.left_out | {name: OF_THE_BUNDLE for name in self.wanted if name not in figures}
        gates = self.decide(figures, left_out)
        judged = {"verdict": decision.verdict(gates), "gates": gates, "quality": drawn.quality, "ms_per_call": ms}
        return found.model_copy(update=judged)

    def _ms_per_call(self, bundle: Bundle) -> float:
        _, given = bundle.example(bundle.batch or 1)
        noise = np.random.default_rng(0).standard_normal((bundle.batch or 1, *bundle.sample_shape), np.float32)
        call = partial(bundle.guided, noise, bundle.steps[len(bundle.steps) // 2].timestep, given)
        taken = latency.interleaved({"call": call}, self.rounds, self.progress, f"timing {bundle.engine.name}")
        return latency.summary(taken["call"]).median
