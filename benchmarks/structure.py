"""`python -m benchmarks.structure`: what to prune, how to rank it, and what to distill back, by measurement.

First a table of importance × granularity × losses, and published methods: every row prunes the digits teacher to the
same multiply-accumulates and distills for the same number of steps on the same batches. Rows are judged by samples of
noise that nothing else sees, and a row that is there is not run again unless --fresh or its code changed. Then the two
recipes of the README, judged by `verify`, whose figures are the bars.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.bars import finish
from compress import engine, passes, terminal
from compress.engine import code_identity
from compress.evaluation import judging, probe
from compress.files import cache_folder, write_json, write_text
from compress.inputs import Inputs, Options, digest
from compress.models import checkpoint, counts
from compress.models.denoiser import Denoiser
from compress.models.reference import draw_kept, draw_many
from compress.recipe import Recipe, Step, read

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TEMPLATE = ROOT / "recipes" / "digits-structure.yaml"
SLIM = ROOT / "recipes" / "digits-slim.yaml"
STEPS = 375  # an eighth of the teacher's 3,000
BATCH = 64
MACS = 0.55
SEED = 101  # of the noise that rows are judged by; `verify` uses the recipes' own
PAIRS = 640
OTHERS = 1280

PRUNE = {"target": {"macs": MACS}, "importance": "taylor", "ranking": "global"}
LOSSES = {"output": 1.0, "feature": 1.0}


def _row(
    kind: str = "prune_channels", settings: Mapping[str, Any] = PRUNE, losses: Mapping[str, float] = LOSSES, **more: Any
) -> list[tuple[str, dict[str, Any]]]:
    return [(kind, dict(settings)), ("distill", {"steps": STEPS, "batch_size": BATCH, "losses": dict(losses), **more})]


# name: (what is varied, the passes)
ROWS: dict[str, tuple[str, list[tuple[str, dict[str, Any]]]]] = {
    "taylor, global, output + feature": ("base", _row()),
    "importance: l1": ("importance", _row(settings={**PRUNE, "importance": "l1"})),
    "importance: diffusion_taylor": (
        "importance",
        _row(settings={**PRUNE, "importance": "diffusion_taylor", "batches": 50}),
    ),
    "importance: random": ("importance", _row(settings={**PRUNE, "importance": "random"})),
    "ranking: per_layer": ("granularity", _row(settings={**PRUNE, "ranking": "per_layer"})),
    "ranking: per_cost": ("granularity", _row(settings={**PRUNE, "ranking": "per_cost"})),
    "widths: stock": (
        "granularity",
        _row(settings={"target": {"macs": MACS}, "importance": "taylor", "widths": "stock"}),
    ),
    "blocks, by recovery": ("granularity", _row("prune_blocks", {"target": {"macs": MACS}})),
    "blocks, by loss": ("granularity", _row("prune_blocks", {"target": {"macs": MACS}, "ranking": "loss"})),
    "low rank": ("granularity", _row("factorize", {"target": {"macs": MACS}})),
    "losses: output": ("losses", _row(losses={"output": 1.0, "feature": 0.0})),
    "losses: task": ("losses", _row(losses={"output": 0.0, "feature": 0.0, "task": 1.0})),
    "losses: output + feature + task": ("losses", _row(losses={**LOSSES, "task": 1.0})),
    "losses: output + feature + attention": ("losses", _row(losses={**LOSSES, "attention": 1.0})),
    "losses: guided + output + feature": ("losses", _row(losses={**LOSSES, "guided": 1.0})),
    "states: trajectory": ("losses", _row(states="trajectory")),
    "states: trajectory, guided": ("losses", _row(losses={**LOSSES, "guided": 1.0}, states="trajectory")),
}


class Judges:
    """What all rows share: the teacher's samples, the classifier, the feature spaces."""

    def __init__(self) -> None:
        self.recipe = read(TEMPLATE)
        inputs = Inputs(self.recipe, Options(torch.device("cpu"), terminal.progress, terminal.log), Path())
        self.teacher = inputs.teacher()
        self.judged = judging.Judging(inputs.dataset, self.recipe.head.data, (), 0.9, terminal.silent)
        folder = cache_folder() / "samples"
        drawn = draw_kept(
            self.teacher, PAIRS + OTHERS, SEED, inputs.dataset, folder, terminal.progress, "teacher's samples"
        )
        self.pairs, self.others = drawn[:PAIRS], drawn[PAIRS:]
        self.frozen = probe.make(self.teacher, self.others, self.teacher.sampling.timesteps, SEED)
        self.rounding = probe.answer(self.frozen, probe.of_model(self.teacher))

    def judge(self, student: Denoiser) -> dict[str, Any]:
        """Size and figures of a student, each as in report.json."""
        ours = draw_many(student, self.pairs.noise, self.pairs.conditions, terminal.progress, "samples").numpy()
        figures = probe.figures(probe.answer(self.frozen, probe.of_model(student)), self.rounding)
        figures = {"output_error": figures["output_error"]}
        figures |= self.judged.pairs(self.pairs, ours, self.pairs.samples.numpy()[:30])
        found = {name: figure.as_json() for name, figure in figures.items()}
        spaces = self.judged.spaces(self.pairs, self.others, ours)
        return {
            "macs": counts.macs(student) / counts.macs(self.teacher),
            "params": counts.parameters(student) / counts.parameters(self.teacher),
            "quality": found,
            "spaces": spaces.as_json(),
        }


def train(judges: Judges, steps: list[tuple[str, dict[str, Any]]], output: Path) -> tuple[Denoiser, float]:
    """(the student that the passes give, seconds that they took)."""
    chain = [Step(kind, kind, passes.module(kind).Config.model_validate(settings)) for kind, settings in steps]
    head = judges.recipe.head.model_copy(update={"name": "structure"})
    recipe = Recipe(head, chain, TEMPLATE)
    options = Options(torch.device("cpu"), terminal.progress, terminal.log, fresh=True)
    outcome = engine.apply(recipe, output, options)
    stored = output / "passes" / f"{len(chain):02d}-{chain[-1].name}" / "model"
    model = checkpoint.load(stored)
    assert isinstance(model, Denoiser)
    return model, sum(record["seconds"] for record in outcome.records)


def figures(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The figures that the table shows; of several feature spaces the one in which the student is worst."""
    found = {name: row["quality"][name] for name in ("output_error", "ssim", "psnr", "class_accuracy")}
    ratios = [space["metrics"].get("frechet_ratio") for space in row["spaces"].values()]
    known = [ratio for ratio in ratios if ratio is not None]
    if known:
        found["frechet_ratio"] = max(known, key=lambda ratio: ratio["value"])
    return found


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, best first in each group; `resolved` says whether the output's error differs from the base's."""
    head = (
        "| varied | row | MACs | params | error of the output | SSIM | PSNR, dB | Fréchet ratio, worst space | "
        "named as asked | against the base | seconds |\n|---|---|---:|---:|---|---|---|---|---:|---|---:|\n"
    )
    base = next(iter(ROWS))
    order = list(dict.fromkeys(group for group, _ in ROWS.values()))
    known = [name for name in ROWS if name in rows]
    lines = []
    for name in sorted(known, key=lambda n: (order.index(ROWS[n][0]), figures(rows[n])["output_error"]["value"])):
        row, found = rows[name], figures(rows[name])
        against = _against(found, figures(rows[base])) if base in rows and name != base else ""
        cells = [
            ROWS[name][0],
            name,
            f"{row['macs']:.3f}",
            f"{row['params']:.3f}",
            _shown(found["output_error"], ".4f"),
            _shown(found["ssim"], ".3f"),
            _shown(found["psnr"], ".1f"),
            _shown(found.get("frechet_ratio"), ".2f"),
            f"{found['class_accuracy']['value']:.1%}",
            against,
            f"{row['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    foot = (
        f"\n\nEvery row: {STEPS} steps of {BATCH} images, {MACS}× the teacher's multiply-accumulates or the next legal "
        f"net under it; {PAIRS} pairs of samples from the same noise, held against {OTHERS:,} others; 95% intervals. "
        "One run a row: an interval holds the noise of judging, not that of training. Rows with a guided loss evaluate "
        f"every image twice. {len(known)} of {len(ROWS)} rows have been run.\n"
    )
    return head + "\n".join(lines) + foot


def _shown(figure: Mapping[str, Any] | None, form: str) -> str:
    if figure is None:
        return "not measured"
    low, high = figure["interval"]
    return f"{figure['value']:{form}} ({low:{form}} … {high:{form}})"


def _against(found: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    (low, high), (base_low, base_high) = found["output_error"]["interval"], base["output_error"]["interval"]
    if low > base_high:
        return "worse"
    return "better" if high < base_low else "not resolved"


def verified(recipe: Path) -> dict[str, Any]:
    """The report of a recipe; passes that are unchanged are used again."""
    output = ROOT / "outputs" / recipe.stem
    options = Options(torch.device("cpu"), terminal.progress, terminal.log)
    engine.apply(read(recipe), output, options)
    report: dict[str, Any] = json.loads((output / "report.json").read_text(encoding="utf-8"))
    kept = ("verdict", "summary", "ratios", "intervals", "gates", "quality", "spaces", "samples", "environment")
    return {name: report[name] for name in kept}


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"rows": {}}
    return found


def main() -> None:
    """Run the rows that are missing, then the recipes; write the tables; print the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structure", description=__doc__)
    parser.add_argument("--rows", nargs="*", metavar="ROW", help="only these rows of the table, and no recipe")
    parser.add_argument("--fresh", action="store_true", help="run again what is there")
    asked = parser.parse_args()
    unknown = [name for name in asked.rows or () if name not in ROWS]
    if unknown:
        parser.error(f"no row is called {unknown[0]!r}; there are: {'; '.join(ROWS)}")
    file = RESULTS / "structure.json"
    kept = _read(file)
    judges = Judges()
    for name, (_, steps) in ROWS.items():
        if asked.rows is not None and name not in asked.rows:
            continue
        identity = digest([steps, SEED, PAIRS, OTHERS, [code_identity(kind) for kind, _ in steps]])
        if kept["rows"].get(name, {}).get("identity") == identity and not asked.fresh:
            continue
        terminal.log(name)
        student, seconds = train(judges, steps, ROOT / "outputs" / "structure" / identity[:12])
        row = {"identity": identity, "seconds": seconds, **judges.judge(student)}
        kept = _read(file)  # another process may have run other rows
        kept["rows"][name] = row
        write_json(file, kept)
        write_text(file.with_suffix(".md"), table(kept["rows"]))
    if asked.rows is not None:
        return
    for recipe in (TEMPLATE, SLIM):
        kept[recipe.stem] = verified(recipe)
        write_json(file, kept)
    print(table(kept["rows"]))
    bars = {}
    for recipe, size in ((TEMPLATE, "macs"), (SLIM, "params")):
        name, found = recipe.stem.replace("-", "_"), figures(kept[recipe.stem])
        bars[f"{name}_{size}"] = kept[recipe.stem]["ratios"][size]
        bars[f"{name}_frechet_ratio"] = found["frechet_ratio"]["value"]
        bars[f"{name}_ssim"] = found["ssim"]["value"]
    del bars["digits_slim_ssim"]
    finish(bars)


if __name__ == "__main__":
    main()
