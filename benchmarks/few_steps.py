"""`python -m benchmarks.few_steps`: images in few steps, without training and by distilling, and the flagship's speed.

Rows of the table draw with the same noise and are judged as those of `benchmarks.structure`; a row that is there is not
run again unless --fresh or its code changed. Then one student for any number of steps (`benchmarks.any_step`), and
recipes/digits-flagship.yaml, its one graph timed in one interleaved run with the teacher in PyTorch and in onnxruntime;
the bars are of guided images.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import any_step
from benchmarks.bars import finish, rewrite_between
from benchmarks.edge import publish
from benchmarks.structure import Judges, as_json, verified, worst_ratio
from compress import engine, passes, terminal
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.files import write_json, write_text
from compress.judge import baseline as baselines
from compress.judge import metrics
from compress.judge.images import sample
from compress.measure import latency
from compress.model.denoiser import Denoiser, example_inputs, guided
from compress.model.reference import draw_many, noise_like
from compress.pipeline import checkpoint
from compress.recipe.identity import code_identity, digest
from compress.recipe.inputs import Inputs, Options
from compress.recipe.recipe import Recipe, Step, read
from compress.runtime import Bundle

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FLAGSHIP = ROOT / "recipes" / "digits-flagship.yaml"
ROUNDS = 100
SLOW = (50, 1000)  # guided steps of the teacher in PyTorch
FAST = (10, 5)  # the same in onnxruntime, whatever the solver: 10 steps, and 10 evaluations of the net
TRAIN = {"batch_size": 64, "learning_rate": 1e-3}
STUDENT = "student, one graph"
EVALUATIONS = 40  # of the teacher's net for an image: 20 guided steps
BUDGET = 600  # optimizer steps of a distilled row
ORDER_BUDGET = 600  # optimizer steps of a row of orders, over all its passes
GUIDANCE = ("distill_guidance", {"steps": 400, **TRAIN})


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table. solver, steps: of the teacher as it is; else the passes that make the student.

    psnr: for steps that adapt, the quality asked for, in dB to all the steps.
    """

    kind: str
    steps: int
    solver: str = "ddim"
    passes: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    psnr: float | None = None

    def identity(self) -> str:
        """Changes with everything that the row's figures depend on."""
        return digest([dataclasses.asdict(self), [code_identity(kind) for kind, _ in self.passes]])


def chosen(steps: int, solver: str) -> Row:
    """Few of the teacher's timesteps, by dynamic programming."""
    return Row("no training", steps, solver, (("choose_timesteps", {"sampling_steps": steps, "solver": solver}),))


def distilled(steps: int, method: str) -> Row:
    """Guidance in one evaluation, then few steps."""
    settings: dict[str, Any] = {"method": method, "sampling_steps": [steps], "steps": BUDGET, **TRAIN}
    if method == "progressive":
        rounds = {4: 2, 2: 3, 1: 4}[steps]
        settings["steps"] = BUDGET // rounds
    return Row("distilled", steps, "ddim", (GUIDANCE, ("distill_steps", settings)))


def ordered(*names: str) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """Passes in an order, ORDER_BUDGET optimizer steps in all. A recovery learns from the model before pruning."""
    shares = {"guidance": 1, "recover": 1, "steps": 2, "guided steps": 3, "guided steps, no recovery": 4}
    unit = ORDER_BUDGET // sum(shares.get(name, 0) for name in names)
    found: list[tuple[str, Mapping[str, Any]]] = []
    for i, name in enumerate(names):
        train = {"steps": unit * shares.get(name, 0), **TRAIN, "batch_size": 32}
        if name == "guidance":
            found.append(("distill_guidance", train))
        elif name == "prune":
            found.append(("prune_channels", {"target": {"macs": 0.4}}))
        elif name == "recover":
            before = {} if i < 2 else {"teacher": found[-2][0]}
            after_steps = any(kind == "distill_steps" for kind, _ in found)
            found.append(("distill", {**train, **before, "states": "trajectory" if after_steps else "data"}))
        else:
            baked = {"bake_guidance": True} if "guided" in name else {}
            found.append(
                ("distill_steps", {"sampling_steps": [2], "trajectories": 4000, "teacher_steps": 12, **train, **baked})
            )
    return tuple(found)


ORDERS = {
    "guidance, steps, prune, recover": ordered("guidance", "steps", "prune", "recover"),
    "guidance, prune, recover, steps": ordered("guidance", "prune", "recover", "steps"),
    "prune, recover, guidance, steps": ordered("prune", "recover", "guidance", "steps"),
    "guided steps, prune, recover": ordered("guided steps", "prune", "recover"),
    "prune, recover, guided steps": ordered("prune", "recover", "guided steps"),
    "prune, guided steps": ordered("prune", "guided steps, no recovery"),
}
ADAPTIVE: tuple[tuple[str, Mapping[str, Any]], ...] = (("export_onnx", {"batch": 1, "adaptive": True}),)
INT8: tuple[tuple[str, Mapping[str, Any]], ...] = (("quantize", {}), ("export_onnx", {"batch": 1}))

ROWS = {
    **{f"{solver}, {n} steps": Row("no training", n, solver) for n in (10, 4, 2) for solver in ("ddim", "dpmpp_2m")},
    **{f"dpmpp_2m, {n} steps": Row("no training", n, "dpmpp_2m") for n in (14, 12, 8, 6)},
    **{f"adaptive, {psnr} dB": Row("adaptive", 20, "dpmpp_2m", ADAPTIVE, psnr) for psnr in (45, 40, 35, 30, 25)},
    **{f"chosen, {solver}, {n} steps": chosen(n, solver) for n in (10, 4, 2) for solver in ("ddim", "dpmpp_2m")},
    **{f"chosen, dpmpp_2m, {n} steps": chosen(n, "dpmpp_2m") for n in (8, 6)},
    **{f"{method}, {n} steps": distilled(n, method) for n in (4, 2) for method in ("trajectory", "progressive")},
    "consistency, 2 steps": distilled(2, "consistency"),
    **{
        f"{name}{ending}": Row("order of passes", 2, "ddim", (*chain, *last))
        for name, chain in ORDERS.items()
        for ending, last in (("", ()), (", int8", INT8))
    },
}


def student(judges: Judges, row: Row) -> Denoiser | Bundle:
    """What the row draws with: the file where it was exported."""
    if not row.passes:
        sampling = from_scheduler_config(
            judges.teacher.scheduler, SamplingOptions.model_validate({"solver": row.solver, "steps": row.steps})
        )
        sampling = sampling.model_copy(update={"guidance": judges.teacher.sampling.guidance})
        return dataclasses.replace(judges.teacher, sampling=sampling)
    chain = [Step(kind, kind, passes.module(kind).Config.model_validate(settings)) for kind, settings in row.passes]
    head = judges.recipe.head.model_copy(update={"name": "few_steps"})
    output = ROOT / "outputs" / "few_steps" / row.kind.replace(" ", "_")  # shared: what rows begin with is kept
    options = Options(torch.device("cpu"), terminal.progress, terminal.log)
    engine.apply(Recipe(head, chain, FLAGSHIP), output, options)
    if chain[-1].kind == "export_onnx":
        return Bundle(output / "onnx")
    model = checkpoint.load(output / "passes" / f"{len(chain):02d}-{chain[-1].name}" / "model")
    assert isinstance(model, Denoiser)
    return model


def judge(judges: Judges, row: Row, model: Denoiser | Bundle) -> dict[str, Any]:
    """Figures of the samples, each as in report.json."""
    pairs = judges.pairs
    steps: float
    if isinstance(model, Bundle):
        guidance = model.guidance["kind"]
        if row.psnr is None:
            ours, steps = sample(model, pairs, terminal.progress, "samples"), len(model.steps)
        else:
            given: Any = {name: value.numpy() for name, value in pairs.conditions.items()}
            ours, taken = model.sample_adaptively(pairs.noise.numpy(), psnr=row.psnr, **given)
            steps = float(taken.mean())
    else:
        ours = draw_many(model, pairs.noise, pairs.conditions, terminal.progress, "samples").numpy()
        steps, guidance = len(model.sampling.timesteps), model.sampling.guidance.kind
    figures = metrics.figures(judges.judged.sets(judges.pairs, ours, judges.pairs.samples.numpy()[:30]))
    return {
        "quality": as_json(figures),
        "spaces": as_json(judges.judged.spaces(judges.pairs, judges.others, ours)),
        "evaluations": steps * (2 if guidance == "cfg" else 1),
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, in the order of the rows."""
    head = (
        "| | row | evaluations of the net | SSIM | PSNR, dB | Fréchet distance to the data, above the teacher's | "
        "named as asked |\n|---|---|---:|---|---|---|---:|\n"
    )
    lines = []
    for name in (name for name in ROWS if name in rows):
        quality = rows[name]["quality"]
        frechet = rows[name]["spaces"]["classifier"]["metrics"]["frechet_real"]
        low, high = frechet["excess_interval"]
        cells = [ROWS[name].kind, name, f"{rows[name]['evaluations']:.3g}"]
        cells += [f"{quality['ssim']['value']:.3f}", f"{quality['psnr']['value']:.1f}"]
        cells += [f"{frechet['excess']:+.2f} ({low:+.2f} … {high:+.2f})", f"{quality['class_accuracy']['value']:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return (
        head
        + "\n".join(lines)
        + "\n\nThe digits teacher with 20 steps of dpmpp_2m, two evaluations a step, is what all are held against: 640 "
        f"pairs from the same noise. Distilled rows: {GUIDANCE[1]['steps']} optimizer steps for guidance, {BUDGET} for "
        f"steps, batches of {TRAIN['batch_size']}, the net as large as the teacher's. Orders of passes: {ORDER_BUDGET} "
        "optimizer steps of 32 images over all passes, 0.4 of the teacher's multiply-accumulates. 95% intervals of "
        f"judging; one run a row. {len(lines)} of {len(ROWS)} rows have been run.\n"
    )


def saving(rows: Mapping[str, Mapping[str, Any]], kind: str) -> tuple[float, str]:
    """(share of the teacher's evaluations saved, by which row) by the cheapest row of dpmpp_2m that is as good.

    As good: in no feature space is its Fréchet distance to the data told from the teacher's.
    """
    found = [(0.0, "none")]
    for name, row in rows.items():
        if name in ROWS and ROWS[name].kind == kind and ROWS[name].solver == "dpmpp_2m":
            known = [space["metrics"].get("frechet_real") for space in row["spaces"].values()]
            if all(figure["excess_interval"][0] <= 0 for figure in known if figure):
                found.append((1 - row["evaluations"] / EVALUATIONS, name))
    return max(found)


def speeds(bundle: Bundle, teacher: Denoiser) -> dict[str, Any]:
    """Milliseconds of one guided image, all in one interleaved run, one thread, batch 1."""
    _, when, *values = example_inputs(teacher, 1)
    given = dict(zip(teacher.inputs, values, strict=True))
    arrays = {name: value.numpy() for name, value in given.items()}
    noise = noise_like(teacher, 1, 5)
    baseline = baselines.kept(teacher, 1, terminal.progress, "the teacher in onnxruntime")
    with latency.threads(1), torch.no_grad():
        whole = Bundle(bundle.path, threads=1)
        calls: dict[str, Callable[[], object]] = {
            "teacher, PyTorch": functools.partial(guided, teacher, noise, when + 500, given),
            "teacher, onnxruntime fp32": functools.partial(baseline.guided.guided, noise.numpy(), 500, arrays),
            STUDENT: functools.partial(whole.sample_at_once, noise.numpy(), **arrays),
        }
        taken = latency.interleaved(calls, ROUNDS, terminal.progress)
    images = {f"teacher, PyTorch, {n} steps": taken["teacher, PyTorch"] * n for n in SLOW}
    images |= {f"teacher, onnxruntime fp32, {n} steps": taken["teacher, onnxruntime fp32"] * n for n in FAST}
    images[STUDENT] = taken[STUDENT]
    found = {}
    for name, each in images.items():
        ratio, ends = latency.speedup(each, images[STUDENT])
        found[name] = {"ms": float(np.median(each)), "student_faster": ratio, "interval": ends}
    return found


def speed_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown of `speeds`."""
    head = "| a guided image | ms | the flagship is faster |\n|---|---:|---|\n"
    lines = []
    for name, row in found.items():
        low, high = row["interval"]
        faster = f"{row['student_faster']:,.0f}× ({low:,.0f} … {high:,.0f})" if name != STUDENT else ""
        lines.append(f"| {name} | {row['ms']:,.2f} | {faster} |")
    return head + "\n".join(lines) + f"\n\n{latency.processor()}, one thread, batch 1, interleaved in one run.\n"


def judged(report: Mapping[str, Any]) -> str:
    """What the flagship's report says of its images, in one sentence."""
    psnr, accuracy, ratio = report["quality"]["psnr"], report["quality"]["class_accuracy"], worst_ratio(report)
    low, high = ratio["interval"]
    ratios = report["ratios"]
    return (
        f"{accuracy['value']:.1%} of the images are named as asked (the teacher's: {accuracy['teacher']:.1%}); PSNR "
        f"{psnr['value']:.1f} dB to the teacher's of the same noise; Fréchet distance to real digits "
        f"{ratio['value']:.2f} times the teacher's ({low:.2f} … {high:.2f}) in the feature space where it is largest. "
        f"{ratios['params']['value']:.2f}× the parameters, {ratios['bytes']['value']:.2f}× the bytes. "
        f"Verdict: **{report['verdict']}**."
    )


def main() -> None:
    """Run what is missing, write the tables, print the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.few_steps", description=__doc__)
    parser.add_argument("--only", choices=("rows", "any-step", "flagship"), help="only this part")
    parser.add_argument("--rows", nargs="*", metavar="ROW", help="only these rows of the table")
    parser.add_argument("--fresh", action="store_true", help="run again what is there")
    asked = parser.parse_args()
    unknown = [name for name in asked.rows or () if name not in ROWS]
    if unknown:
        parser.error(f"no row is called {unknown[0]!r}; there are: {'; '.join(ROWS)}")
    parts = ("rows", "any-step", "flagship") if asked.only is None else (asked.only,)
    parts = parts if asked.rows is None else ("rows",)
    file = RESULTS / "few_steps.json"
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"rows": {}}
    judges = functools.cache(Judges)
    for name in asked.rows or ROWS if "rows" in parts else ():
        identity = ROWS[name].identity()
        if asked.fresh or kept["rows"].get(name, {}).get("identity") != identity:
            terminal.log(name)
            found = judge(judges(), ROWS[name], student(judges(), ROWS[name]))
            kept["rows"][name] = {"identity": identity, **found}
            _write(file, kept)
    if "any-step" in parts and (asked.fresh or kept.get("any_step", {}).get("identity") != any_step.identity()):
        kept["any_step"] = any_step.measure(judges())
        _write(file, kept)
    if "flagship" in parts:
        kept |= _flagship()
        _write(file, kept)
    print(file.with_suffix(".md").read_text(encoding="utf-8"))
    finish(_bars(kept, parts))


def _flagship() -> dict[str, Any]:
    """Run the recipe, time its graph, publish the bundle and its table."""
    output = ROOT / "outputs" / FLAGSHIP.stem
    recipe = read(FLAGSHIP)
    options = Options(torch.device("cpu"), terminal.progress, terminal.log)
    report = verified(FLAGSHIP)
    found = speeds(Bundle(output / "onnx"), Inputs(recipe, options).teacher())
    publish(output, ROOT / "exported" / FLAGSHIP.stem)
    rewrite_between(ROOT / "README.md", "flagship", f"{speed_table(found)}\n{judged(report)}")
    return {"flagship": report, "speeds": found}


def _bars(kept: Mapping[str, Any], parts: Sequence[str]) -> dict[str, float]:
    """The figures that have bars, of the parts that were asked for."""
    found = {}
    if "rows" in parts:
        found["adaptive_evaluations_saved"] = saving(kept["rows"], "adaptive")[0]
    if "any-step" in parts:
        found |= any_step.bars(kept["any_step"])
    if "flagship" in parts:
        accuracy = kept["flagship"]["quality"]["class_accuracy"]
        faster = {name: row["student_faster"] for name, row in kept["speeds"].items()}
        found |= {f"flagship_over_pytorch_{n}": faster[f"teacher, PyTorch, {n} steps"] for n in SLOW}
        found["flagship_over_onnxruntime"] = faster[f"teacher, onnxruntime fp32, {FAST[0]} steps"]
        found["flagship_frechet_ratio"] = worst_ratio(kept["flagship"])["value"]
        found["flagship_accuracy_lost"] = accuracy["teacher"] - accuracy["value"]
    return found


def _write(file: Path, kept: Mapping[str, Any]) -> None:
    write_json(file, kept)
    text = table(kept["rows"])
    shares = [saving(kept["rows"], kind) for kind in ("adaptive", "no training")]
    text += "\nSaved of the teacher's evaluations at a Fréchet distance that no feature space tells from its own: "
    text += f"{shares[0][0]:.0%} by adaptive steps ({shares[0][1]}), {shares[1][0]:.0%} by fewer ({shares[1][1]}).\n"
    if "any_step" in kept:
        text += f"\n{any_step.table(kept['any_step'])}"
    if "speeds" in kept:
        text += f"\n{speed_table(kept['speeds'])}\nThe flagship: {judged(kept['flagship'])}\n"
    write_text(file.with_suffix(".md"), text)


if __name__ == "__main__":
    main()
