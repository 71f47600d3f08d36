"""`python -m benchmarks.structure`: what to prune, how to rank it, and what to distill back, by measurement.

First a table of importance × granularity × losses, and published methods: every row prunes the digits teacher to the
same multiply-accumulates and distills for the same number of steps on the same batches. Rows are judged by samples of
noise that nothing else sees, and a row that is there is not run again unless --fresh or its code changed. Then the two
recipes of the README, judged by `verify`, whose figures are the bars.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.bars import finish
from compress import engine, passes, terminal
from compress.files import write_json, write_text
from compress.judge import metrics, probe, yardsticks
from compress.measure import counts
from compress.model.denoiser import Denoiser
from compress.model.reference import draw_kept, draw_many, silent
from compress.pipeline import checkpoint
from compress.recipe.identity import code_identity, digest
from compress.recipe.inputs import Inputs, Options
from compress.recipe.recipe import Recipe, Step, read
from compress.report.parts import Part
from compress.report.report import read as read_report

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TEMPLATE = ROOT / "recipes" / "digits-structure.yaml"
SLIM = ROOT / "recipes" / "digits-slim.yaml"
PAPERS = ROOT / "recipes" / "papers"
STEPS = 375  # an eighth of the teacher's 3,000
BATCH = 64
RATE = 2e-3  # chosen on other noise and another seed: 4e-4 leaves 1.7 times the error, 3.2e-3 is no better
WARMUP = 0.1
MACS = 0.55
SEED = 101  # of the noise that rows are judged by; `verify` uses the recipes' own
PAIRS = 640
OTHERS = 1280

PRUNE = {"target": {"macs": MACS}, "importance": "taylor", "ranking": "global"}
LOSSES = {"output": 1.0, "feature": 1.0}


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table. varied: what it differs in from the base; passes: (kind, settings) in order."""

    varied: str
    passes: list[tuple[str, dict[str, Any]]]
    seed: int = 0

    def identity(self) -> str:
        """Changes with everything that the row's figures depend on."""
        code = [code_identity(kind) for kind, _ in self.passes]
        return digest([self.passes, self.seed, SEED, PAIRS, OTHERS, code])


def distilled(**more: Any) -> tuple[str, dict[str, Any]]:
    """The recovery of every row, but for `more`."""
    equal = {"steps": STEPS, "batch_size": BATCH, "learning_rate": RATE, "warmup": WARMUP, "losses": LOSSES}
    return "distill", equal | more


def pruned(**more: Any) -> tuple[str, dict[str, Any]]:
    """The pruning of the base, but for `more`."""
    return "prune_channels", PRUNE | more


def losses(**more: float) -> list[tuple[str, dict[str, Any]]]:
    """The base with other weights of losses."""
    return [pruned(), distilled(losses=LOSSES | more)]


def published(name: str) -> Row:
    """The passes of a recipe in recipes/papers."""
    steps = read(PAPERS / f"{name}.yaml").steps
    kept = [step for step in steps if step.kind not in ("export_onnx", "verify")]
    return Row("papers", [(step.kind, step.config.model_dump(exclude_unset=True)) for step in kept])


ROWS = {
    "taylor, global, output + feature": Row("base", [pruned(), distilled()]),
    "another seed": Row("noise", [pruned(), distilled()], seed=1),
    "importance: l1": Row("importance", [pruned(importance="l1"), distilled()]),
    "importance: diffusion_taylor": Row("importance", [pruned(importance="diffusion_taylor", batches=50), distilled()]),
    "importance: random": Row("importance", [pruned(importance="random"), distilled()]),
    "ranking: per_layer": Row("granularity", [pruned(ranking="per_layer"), distilled()]),
    "ranking: per_cost": Row("granularity", [pruned(ranking="per_cost"), distilled()]),
    "widths: stock": Row("granularity", [pruned(ranking="per_layer", widths="stock"), distilled()]),
    "blocks, by recovery": Row("granularity", [("prune_blocks", {"target": {"macs": MACS}}), distilled()]),
    "blocks, by loss": Row(
        "granularity", [("prune_blocks", {"target": {"macs": MACS}, "ranking": "loss"}), distilled()]
    ),
    "low rank": Row("granularity", [("factorize", {"target": {"macs": MACS}}), distilled()]),
    "two rounds": Row(
        "rounds",
        [
            pruned(target={"macs": 0.75}),
            distilled(steps=STEPS // 3),
            pruned(target={"macs": MACS / 0.75}),
            distilled(steps=STEPS - STEPS // 3),
        ],
    ),
    "losses: output": Row("losses", losses(feature=0.0)),
    "losses: task": Row("losses", losses(output=0.0, feature=0.0, task=1.0)),
    "losses: output + feature + task": Row("losses", losses(task=1.0)),
    "losses: output + feature + attention": Row("losses", losses(attention=1.0)),
    "losses: guided + output + feature": Row("losses", losses(guided=1.0)),
    "states: trajectory": Row("losses", [pruned(), distilled(states="trajectory")]),
    "batches of 128": Row("training", [pruned(), distilled(batch_size=2 * BATCH)]),
    "learning rate: 4e-4": Row("training", [pruned(), distilled(learning_rate=4e-4)]),
    "Diff-Pruning (Fang et al. 2023)": published("diff-pruning"),
    "BK-SDM (Kim et al. 2023)": published("bk-sdm"),
    "LAPTOP-Diff (Zhang et al. 2024)": published("laptop-diff"),
}


KEPT = {"verdict", "ratios", "gates", "quality", "spaces", "reference", "environment"}  # of a report


class Judges:
    """What all rows share: the teacher's samples, the classifier, the feature spaces."""

    def __init__(self) -> None:
        self.recipe = read(TEMPLATE)
        inputs = Inputs(self.recipe, Options(torch.device("cpu"), terminal.progress, terminal.log))
        self.teacher = inputs.teacher()
        self.judged = yardsticks.Yardsticks(inputs.dataset, self.recipe.head.data, (), 0.9, silent)
        drawn = draw_kept(self.teacher, PAIRS + OTHERS, SEED, inputs.dataset, terminal.progress, "teacher's samples")
        self.pairs, self.others = drawn[:PAIRS], drawn[PAIRS:]
        self.frozen = probe.make(self.teacher, self.others, self.teacher.sampling.timesteps, SEED)
        self.rounding = probe.answer(self.frozen, probe.of_model(self.teacher))

    def judge(self, student: Denoiser) -> dict[str, Any]:
        """Size and figures of a student, each as in report.json."""
        ours = draw_many(student, self.pairs.noise, self.pairs.conditions, terminal.progress, "samples").numpy()
        figures = probe.figures(probe.answer(self.frozen, probe.of_model(student)), self.rounding)
        figures = {"output_error": figures["output_error"]}
        figures |= metrics.figures(self.judged.sets(self.pairs, ours, self.pairs.samples.numpy()[:30]))
        spaces = self.judged.spaces(self.pairs, self.others, ours)
        return {
            "macs": counts.macs(student) / counts.macs(self.teacher),
            "params": counts.parameters(student) / counts.parameters(self.teacher),
            "quality": as_json(figures),
            "spaces": as_json(spaces),
        }


def as_json(parts: Mapping[str, Part]) -> dict[str, Any]:
    """Parts of a report, as they stand in it."""
    return {name: part.model_dump(mode="json") for name, part in parts.items()}


def train(judges: Judges, row: Row, output: Path) -> tuple[Denoiser, float]:
    """(the student that the passes give, seconds that they took)."""
    chain = [
        Step(f"{kind}-{i}", kind, passes.module(kind).Config.model_validate(settings))
        for i, (kind, settings) in enumerate(row.passes)
    ]
    head = judges.recipe.head.model_copy(update={"name": "structure", "seed": row.seed})
    recipe = Recipe(head, chain, TEMPLATE)
    options = Options(torch.device("cpu"), terminal.progress, terminal.log, fresh=True)
    outcome = engine.apply(recipe, output, options)
    stored = output / "passes" / f"{len(chain):02d}-{chain[-1].name}" / "model"
    model = checkpoint.load(stored)
    assert isinstance(model, Denoiser)
    return model, sum(record["seconds"] for record in outcome.records)


def figures(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The figures of a row that the table shows; Fréchet distances in the classifier's features."""
    found = {name: row["quality"][name] for name in ("output_error", "ssim", "psnr", "class_accuracy")}
    frechet = row["spaces"]["classifier"]["metrics"]["frechet_real"]
    return found | {"frechet": {"value": frechet["excess"], "interval": frechet["excess_interval"]}}


def worst_ratio(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The Fréchet ratio in that feature space of a report where it is largest."""
    ratios = [space["metrics"].get("frechet_ratio") for space in report["spaces"].values()]
    found: Mapping[str, Any] = max((ratio for ratio in ratios if ratio is not None), key=lambda ratio: ratio["value"])
    return found


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, best first in each group; `against the base` holds the intervals of the output's error apart."""
    head = (
        "| varied | row | MACs | params | error of the output | SSIM | PSNR, dB | Fréchet distance to the data, above "
        "the teacher's | named as asked | against the base | seconds |\n"
        "|---|---|---:|---:|---|---|---|---|---:|---|---:|\n"
    )
    base = next(iter(ROWS))
    order = list(dict.fromkeys(row.varied for row in ROWS.values()))
    known = [name for name in ROWS if name in rows]
    lines = []
    for name in sorted(known, key=lambda n: (order.index(ROWS[n].varied), figures(rows[n])["output_error"]["value"])):
        row, found = rows[name], figures(rows[name])
        against = _against(found, figures(rows[base])) if base in rows and name != base else ""
        cells = [
            ROWS[name].varied,
            name,
            f"{row['macs']:.3f}",
            f"{row['params']:.3f}",
            _shown(found["output_error"], ".4f"),
            _shown(found["ssim"], ".3f"),
            _shown(found["psnr"], ".1f"),
            _shown(found["frechet"], "+.2f"),
            f"{found['class_accuracy']['value']:.1%}",
            against,
            f"{row['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    foot = (
        f"\n\nEvery row: {STEPS} steps of {BATCH} images, {MACS}× the teacher's multiply-accumulates or the next legal "
        f"net under it; {PAIRS} pairs of samples from the same noise, held against {OTHERS:,} others; 95% intervals. "
        "One run a row: an interval holds the noise of judging; `another seed` shows that of training. Rows with a "
        "guided loss evaluate every image twice, as those with batches of 128 do twice as many. Seconds: two rows at a "
        f"time, one thread each. {len(known)} of {len(ROWS)} rows have been run.\n"
    )
    return head + "\n".join(lines) + foot


def _shown(figure: Mapping[str, Any], form: str) -> str:
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
    return read_report(output).model_dump(mode="json", include=KEPT)


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"rows": {}}
    return found


def main() -> None:
    """Run the rows that are missing, then the recipes; write the tables; print the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structure", description=__doc__)
    parser.add_argument("--rows", nargs="*", metavar="ROW", help="only these rows of the table, and no recipe")
    parser.add_argument("--recipes", action="store_true", help="only the two recipes, and no row of the table")
    parser.add_argument("--fresh", action="store_true", help="run again what is there")
    asked = parser.parse_args()
    unknown = [name for name in asked.rows or () if name not in ROWS]
    if unknown:
        parser.error(f"no row is called {unknown[0]!r}; there are: {'; '.join(ROWS)}")
    file = RESULTS / "structure.json"
    kept = _read(file)
    judges = functools.cache(Judges)
    for name, row in ROWS.items():
        if asked.recipes or (asked.rows is not None and name not in asked.rows):
            continue
        identity = row.identity()
        if kept["rows"].get(name, {}).get("identity") == identity and not asked.fresh:
            continue
        terminal.log(name)
        student, seconds = train(judges(), row, ROOT / "outputs" / "structure" / identity[:12])
        done = {"identity": identity, "seconds": seconds, **judges().judge(student)}
        kept = _read(file)  # another process may have run other rows
        kept["rows"][name] = done
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
        name, report = recipe.stem.replace("-", "_"), kept[recipe.stem]
        bars[f"{name}_{size}"] = report["ratios"][size]["value"]
        bars[f"{name}_frechet_ratio"] = worst_ratio(report)["value"]
    bars["digits_structure_ssim"] = kept[TEMPLATE.stem]["quality"]["ssim"]["value"]
    finish(bars)


if __name__ == "__main__":
    main()
