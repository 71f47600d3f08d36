"""`python -m benchmarks.verifier_power`: what the verifier catches, and how often it cries wolf.

Good students: the committed bundle, and the teacher itself in onnxruntime. A trial draws the student's samples with
the runtime that ships and judges them by the gates on quality of recipes/digits-edge.yaml, as `verify` does. A clean
trial that fails is a false alarm; a faulty one that passes is missed. Clean trials of one student share no noise. The
first FRESH seeds of the faults served while the checks were written, and are not reported. Every trial is kept in
results/verifier_power.json as it ends, so that a stopped run goes on; --fresh starts over.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bars import finish
from benchmarks.faults import BLAME, OF_BUNDLE, OF_SAMPLES
from compress import terminal
from compress.contract import Context
from compress.data import read_npz
from compress.files import cache_folder, sha256, write_json, write_npz, write_text
from compress.judge import decision, metrics, probe, yardsticks
from compress.judge.baseline import Baseline, kept
from compress.judge.images import sample
from compress.model.reference import Drawn, Progress, draw_kept, silent
from compress.pipeline import checkpoint
from compress.recipe.identity import code_identity, digest
from compress.recipe.inputs import Inputs, Options
from compress.recipe.recipe import read
from compress.report.report import pooled
from compress.report.statistics import wilson
from compress.runtime import Bundle

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
QUANTIZED = ROOT / "outputs" / "digits-edge" / "passes" / "03-quantize" / "model"  # left by benchmarks.edge
RECIPE = ROOT / "recipes" / "digits-edge.yaml"
COUNT = 640  # images a trial
PLACES = 15  # trials that share no noise
OTHERS = 2400  # images of the teacher that they are held against
FRESH = 10  # the first seed of a fault that is reported
PROCESSES = 2


@dataclasses.dataclass(frozen=True)
class Trial:
    """student: which good one; fault: "" for none; number: of the trial, which gives its noise and the fault's seed."""

    student: str
    fault: str
    number: int

    @property
    def name(self) -> str:
        """Its key in the results."""
        return f"{self.student}/{self.fault or 'clean'}/{self.number}"


def trials(clean: int, seeds: int) -> list[Trial]:
    """Every trial, the clean ones first; a quarter of the clean ones are of the teacher itself."""
    own = [Trial("digits-edge", "", number) for number in range(clean)]
    own += [Trial("teacher", "", number) for number in range(max(1, clean // 4))]
    return own + [Trial("digits-edge", fault, number) for number in range(FRESH, FRESH + seeds) for fault in BLAME]


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all trials share, made once in each process."""

    context: Context
    drawn: Drawn
    judged: yardsticks.Yardsticks
    bundle: Bundle
    baseline: Baseline
    frozen: probe.Probe
    whole: np.ndarray  # the float student's outputs on the probe
    simulated: np.ndarray  # those of simulated int8


def limits() -> dict[str, dict[str, float | None]]:
    """The recipe's gates on quality, and of those that always hold the one on the sampler's table."""
    step = read(RECIPE).steps[-1]
    gates: dict[str, Any] = step.config.gates  # type: ignore[attr-defined]
    own = {name: gate.model_dump() for name, gate in gates.items() if name not in decision.COSTS}
    return decision.with_always(own, ("sampling_error",))


@cache
def bench(progress: Progress = silent) -> Bench:
    """The bundle and its teacher's samples."""
    torch.set_num_threads(1)
    recipe = read(RECIPE)
    inputs = Inputs(recipe, Options(torch.device("cpu"), silent, lambda _: None))
    context = inputs.context(recipe.steps[-1], Path(), Path())
    judged = yardsticks.Yardsticks(inputs.dataset, recipe.head.data, (), 0.9, silent)
    bundle = Bundle(ROOT / "exported" / "digits-edge" / "onnx", threads=1)
    drawn = draw_pool(context, progress)
    frozen = probe.make(context.teacher(), drawn[PLACES * COUNT :], context.teacher().sampling.timesteps, context.seed)
    baseline = kept(context.teacher(), 1, progress, "the teacher in onnxruntime")
    model = checkpoint.load(QUANTIZED)
    whole, simulated = (probe.answer(frozen, probe.of_model(one)).guided for one in (model.in_float(), model))
    return Bench(context, drawn, judged, bundle, baseline, frozen, whole, simulated)


def draw_pool(context: Context, progress: Progress) -> Drawn:
    """The teacher's samples: those of the trials, then the others."""
    count = PLACES * COUNT + OTHERS
    return draw_kept(context.teacher(), count, context.seed, context.dataset, progress, "teacher's samples")


def follow() -> None:
    """In a worker: end when the process that started it is gone, even when that one was killed."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run(trial: Trial) -> dict[str, Any]:
    """One trial: {"verdict", "failed": figures whose gates are broken, "resolved": figures told apart}."""
    with tempfile.TemporaryDirectory() as folder:
        return _judge(trial, bench(), Path(folder))


def _judge(trial: Trial, given: Bench, folder: Path) -> dict[str, Any]:
    bundle, baseline = given.bundle, given.baseline
    others, start = given.drawn[PLACES * COUNT :], trial.number % PLACES * COUNT
    pairs = given.drawn[start : start + COUNT]
    if trial.fault in OF_BUNDLE:
        bundle = OF_BUNDLE[trial.fault](bundle, folder / "faulty", trial.number)
    conditions = {name: value.numpy() for name, value in pairs.conditions.items()}
    if trial.student == "teacher":
        ours, evaluate = baseline.guided.sample(pairs.noise.numpy(), **conditions), baseline.evaluate
    else:
        kept = cache_folder() / "power" / f"{sha256(bundle.path / bundle.manifest['model'])[:16]}-{start}.npz"
        clean = trial.fault not in OF_BUNDLE
        ours = read_npz(kept)["samples"] if clean and kept.is_file() else sample(bundle, pairs, silent, "")
        if clean and not kept.is_file():
            write_npz(kept, {"samples": ours})
        evaluate = probe.of_bundle(bundle)
    if trial.fault in OF_SAMPLES:
        training = given.judged.real["training"]
        ours = OF_SAMPLES[trial.fault](ours, conditions["class_labels"], training, trial.number)
    few = pairs[:30]
    again = baseline.guided.sample(few.noise.numpy(), **{n: value.numpy() for n, value in few.conditions.items()})
    answer = probe.answer(given.frozen, evaluate)
    quality = probe.figures(answer, probe.answer(given.frozen, baseline.evaluate))
    quality |= metrics.figures(given.judged.sets(pairs, ours, again))
    left_out = {}
    if trial.student == "teacher":
        left_out = dict.fromkeys(("kernel_loss", "sampling_error"), "is no bundle of the recipe")
    else:
        quality["kernel_loss"] = probe.kernel_loss(given.whole, given.simulated, answer.guided)
        quality["sampling_error"] = probe.sampling_error(bundle, given.context.teacher())
    spaces = given.judged.spaces(pairs, others, ours)
    figures = pooled(quality, spaces)
    decisions = decision.decide(figures, limits(), left_out)
    return {
        "verdict": decision.verdict(decisions),
        "failed": sorted({entry.name for entry in decisions if entry.passed is False}),
        "resolved": sorted(name for name, found in figures.items() if any(figure.resolved for figure in found)),
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: what was caught, what was blamed, what was falsely alarmed."""
    rows = []
    for student in ("digits-edge", "teacher"):
        found = [result for name, result in results.items() if name.startswith(f"{student}/clean/")]
        alarms = sum(result["verdict"] == "fail" for result in found)
        why = sorted({name for result in found for name in result["failed"]})
        who = "the teacher itself, in onnxruntime" if student == "teacher" else "exported/digits-edge"
        rows.append(f"| none: {who} | {len(found)} | {alarms} failed {_span(alarms, len(found))} | {', '.join(why)} |")
    for fault, wanted in BLAME.items():
        found = [result for name, result in results.items() if f"/{fault}/" in name]
        caught = sum(result["verdict"] == "fail" for result in found)
        right = sum(bool(set(wanted) & set(result["failed"])) for result in found)
        rows.append(
            f"| {fault.replace('_', ' ')} | {len(found)} | {caught} caught {_span(caught, len(found))} | "
            f"{right} blamed one of {', '.join(wanted)} |"
        )
    head = "| fault | trials | verdict | blame |\n|---|---:|---|---|\n"
    return head + "\n".join(rows) + f"\n\n{COUNT} images a trial, held against {OTHERS:,} others; 95% intervals.\n"


def _span(hits: int, count: int) -> str:
    low, high = wilson(hits, count) if count else (0.0, 1.0)
    return f"({low:.0%} … {high:.0%})"


def main() -> None:
    """Run what is missing, write the table, print the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verifier_power", description=__doc__)
    parser.add_argument(
        "--clean", type=int, default=PLACES, help="clean trials; a quarter as many of the teacher itself"
    )
    parser.add_argument("--seeds", type=int, default=8, help="trials of each fault")
    parser.add_argument("--fresh", action="store_true", help="forget earlier trials")
    asked = parser.parse_args()
    file = RESULTS / "verifier_power.json"
    if not QUANTIZED.is_dir():
        sys.exit(f"{QUANTIZED} is missing: run python -m benchmarks.edge first")
    made_of = bench(terminal.progress).bundle.manifest["files"]
    identity = digest([limits(), made_of, COUNT, OTHERS, code_identity("verify")])
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() and not asked.fresh else {}
    results: dict[str, dict[str, Any]] = kept.get("trials", {}) if kept.get("identity") == identity else {}
    missing = [trial for trial in trials(asked.clean, asked.seeds) if trial.name not in results]
    workers = concurrent.futures.ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn"), follow)
    with workers, terminal.progress("trials", len(missing)) as task:
        futures = {workers.submit(run, trial): trial for trial in missing}
        for future in concurrent.futures.as_completed(futures):
            results[futures[future].name] = future.result()
            write_json(file, {"identity": identity, "trials": dict(sorted(results.items()))})
            task.advance()
    write_text(file.with_suffix(".md"), table(results))
    print(table(results))
    faulty = [result for name, result in results.items() if "/clean/" not in name]
    clean = [result for name, result in results.items() if "/clean/" in name]
    blamed = [
        bool(set(BLAME[name.split("/")[1]]) & set(result["failed"]))
        for name, result in results.items()
        if "/clean/" not in name
    ]
    finish(
        {
            "power_caught": float(np.mean([result["verdict"] == "fail" for result in faulty])),
            "power_blamed": float(np.mean(blamed)),
            "power_false_alarms": float(np.mean([result["verdict"] == "fail" for result in clean])),
        }
    )


if __name__ == "__main__":
    main()
