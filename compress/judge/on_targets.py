"""What a bundle's files for other engines draw, each by its own engine, held against the same teacher and limits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import BundleError
from compress.judge import decision, images, limits
from compress.judge.soundness import finite_output, listed_files
from compress.measure import latency
from compress.measure.fastest import guided_call
from compress.model.reference import Progress
from compress.report.parts import Decision, Figure
from compress.report.report import pooled
from compress.report.targets import Target
from compress.runtime import Bundle
from compress.runtime.engine import Engine
from compress.runtime.schemes import SCHEMES

LEAST_ALIKE = 10.0  # dB, of a simulator's numbers to those that were judged
OF_THE_BUNDLE = "is judged of the bundle itself"
Decide = Callable[[Mapping[str, list[Figure]], Mapping[str, str]], tuple[Decision, ...]]  # figures, what is left out


@dataclass(frozen=True)
class Judge:
    """own: the bundle itself. draw: the figures of a bundle's samples. decide: by the recipe's limits. wanted: figures
    that those name. teacher_bytes, rounds: of what costs are measured by."""

    own: Bundle
    draw: Callable[[Bundle], images.Images]
    decide: Decide
    wanted: tuple[str, ...]
    teacher_bytes: int
    rounds: int
    progress: Progress

    def target(self, folder: Path, engine: Engine) -> Target:
        """Of the bundle in a folder; where its engine is not at hand, or cannot run it, the reason."""
        unopened = Bundle(folder)
        found = Target(
            engine=engine.name, scheme=unopened.manifest["scheme"], bytes=unopened.size_bytes, verdict="not judged"
        )
        try:
            bundle = Bundle(folder, self.own.threads, engine=engine)
            drawn = self.draw(bundle)
            times = {} if SCHEMES[found.scheme].whole_graph else self._times(bundle)
        except BundleError as error:
            return found.model_copy(update={"reason": f"converted, not run: {error}"})
        sound = {"finite_output": finite_output(drawn.sets.student), "listed_files": listed_files(bundle)}
        sizes = {"bytes": Figure(value=found.bytes / self.teacher_bytes, better="less")}
        figures = pooled(drawn.quality | sizes | sound, drawn.spaces, drawn.attributes)
        why = OF_THE_BUNDLE if drawn.finite else limits.NOT_FINITE
        left_out = {name: why for name in self.wanted if name not in figures} | drawn.left_out
        gates = self.decide(figures, left_out)
        judged: dict[str, Any] = {"verdict": decision.verdict(gates), "gates": gates, "quality": drawn.quality}
        simulator = unopened.manifest.get("simulator")
        if simulator and simulator["qnn_sqnr_db"] < LEAST_ALIKE:
            said = f"{simulator['engine']} computes otherwise: {simulator['qnn_sqnr_db']} dB to {engine.name}"
            judged |= {"verdict": "fail", "reason": said}
        return found.model_copy(update=judged | times)

    def _times(self, bundle: Bundle) -> dict[str, Any]:
        calls = {"own": guided_call(self.own), "target": guided_call(bundle)}
        taken = latency.interleaved(calls, self.rounds, self.progress, f"timing {bundle.engine.name}")
        ratio, ends = latency.speedup(taken["own"], taken["target"])
        speedup = Figure(value=ratio, better="more", interval=ends)
        return {"ms_per_call": latency.summary(taken["target"]).median, "speedup": speedup}
