"""`python -m benchmarks.edge`: makes exported/digits-edge and the README's table anew, and prints its bars.

Runs recipes/digits-edge.yaml; passes that are unchanged are used again. Only a verdict replaces what is committed.
"""

import shutil
from pathlib import Path

import torch

from benchmarks.bars import finish, rewrite_between
from compress import engine, terminal
from compress.errors import OutputError
from compress.files import write_atomically, write_json, write_text
from compress.folders import MARK
from compress.recipe.inputs import Options
from compress.recipe.recipe import read
from compress.report.parts import Figure
from compress.report.report import Report
from compress.report.report import read as read_report

ROOT = Path(__file__).parents[1]
NAME = "digits-edge"
PUBLISHED = ("README.md", "onnx", "record.json", "report.html", "report.json", "samples.png")


def table(report: Report) -> str:
    """The README's table, from a report; the last column names the row of exported/digits-edge/report.json."""
    teacher, student, ratios, quality = report.teacher, report.student, report.ratios, report.quality
    baseline = next(row for row in report.latency if row.side == "teacher" and row.engine == "onnxruntime")
    accuracy = quality["class_accuracy"]
    rows = [
        *(
            (
                label,
                f"{getattr(teacher, key):,}",
                f"{getattr(student, key):,}",
                f"{ratios[key].value:.2f}×",
                f"ratios.{key}",
            )
            for label, key in (("parameters", "params"), ("multiply-accumulates a call", "macs"), ("bytes", "bytes"))
        ),
        (
            "ms a call, batch 1",
            f"{teacher.ms_per_call:.2f}",
            f"{student.ms_per_call:.2f}",
            f"**{faster(ratios['call_speedup'])}**",
            "ratios.call_speedup",
        ),
        (
            "ms a guided image",
            f"{teacher.ms_per_image:.0f}",
            f"{student.ms_per_image:.0f}",
            faster(ratios["image_speedup"]),
            "ratios.image_speedup",
        ),
        (
            "ms a call, the teacher in onnxruntime fp32",
            f"{baseline.ms:.2f}",
            f"{student.ms_per_call:.2f}",
            faster(ratios["call_speedup_over_onnxruntime"]),
            "ratios.call_speedup_over_onnxruntime",
        ),
        *_fewer_steps(report),
        (
            "named as asked",
            f"{accuracy.teacher:.1%}",
            f"{accuracy.value:.1%}",
            f"same name for {with_interval(quality['class_agreement'], '.1%')}",
            "quality.class_agreement",
        ),
        ("same noise, PSNR", "", with_interval(quality["psnr"], ".1f") + " dB", "", "quality.psnr"),
        ("error of the output", "", with_interval(quality["output_error"], ".4f"), "", "quality.output_error"),
    ]
    for space, found in report.spaces.items():
        figure = found.metrics.get("frechet_ratio")
        if figure is not None:
            rows.append(
                (
                    f"Fréchet distance to real digits ({space})",
                    "1",
                    with_interval(figure, ".2f"),
                    "" if figure.resolved else "not resolved",
                    f"spaces.{space}",
                )
            )
    head = "| | teacher, PyTorch fp32 | student, onnxruntime int8 | | row |\n|---|---:|---:|---|---|\n"
    against = f"{report.reference.paired:,} pairs, held against {report.reference.count:,} other samples of the teacher"
    return head + "\n".join(f"| {' | '.join(row)} |" for row in rows) + foot(report, NAME, against)


def foot(report: Report, name: str, samples: str) -> str:
    """What stands below a table: the verdict, and where all of it is; links are the README's."""
    return (
        f"\n\nVerdict **{report.verdict}**, {len(report.gates)} gates; {samples}; {report.environment.cpu}, threads: "
        f"{report.environment.threads}; interleaved in one run; 95% intervals. All of it, with floors and baselines: "
        f"[report.html](exported/{name}/report.html), [report.json](exported/{name}/report.json)."
    )


def _fewer_steps(report: Report) -> list[tuple[str, ...]]:
    """The teacher with the fewest steps that were tried, which costs no training."""
    mine = report.student.ms_per_image
    tried = min(report.few_steps, key=lambda row: row.evaluations, default=None)
    if tried is None:
        return []
    factor = tried.ms_per_image / mine
    words = f"{factor:.2f}× faster" if factor > 1 else f"**{1 / factor:.2f}× slower**"
    if f"{factor:.2f}" == "1.00":
        words = "**no faster**"
    name = f"ms a guided image, teacher in {tried.engine}, {tried.solver}, {tried.evaluations} steps"
    return [(name, f"{tried.ms_per_image:.0f}", f"{mine:.0f}", words, "few_steps")]


def with_interval(figure: Figure, form: str) -> str:
    """A value and its interval."""
    low, high = figure.interval or (figure.value, figure.value)
    return f"{figure.value:{form}} ({low:{form}} … {high:{form}})"


def faster(ratio: Figure) -> str:
    """How many times faster."""
    low, high = ratio.interval or (ratio.value, ratio.value)
    return f"{ratio.value:.1f}× faster ({low:.1f} … {high:.1f})"


def publish(output: Path, exported: Path) -> None:
    """Put the result in `output` over the committed bundle. Raises OutputError for files there that are not of it."""
    files = [path for name in PUBLISHED for path in [output / name, *(output / name).rglob("*")] if path.is_file()]
    names = {path.relative_to(output) for path in files if path.name != MARK}
    for name in sorted(names):
        write_atomically(exported / name, lambda part, name=name: shutil.copyfile(output / name, part))  # type: ignore[misc]
    other = [path for path in exported.rglob("*") if path.is_file() and path.relative_to(exported) not in names]
    if other:
        raise OutputError(f"{other[0]}: is not of this result; delete it, or move it away")


def main() -> None:
    """Apply the recipe, publish the result, rewrite the README's table, print the bars."""
    output = ROOT / "outputs" / NAME
    options = Options(torch.device("cpu"), terminal.progress, terminal.log)
    engine.apply(read(ROOT / "recipes" / f"{NAME}.yaml"), output, options)
    report = read_report(output)
    publish(output, ROOT / "exported" / NAME)
    rewrite_between(ROOT / "README.md", "edge", table(report))
    results = ROOT / "benchmarks" / "results"
    write_text(results / "edge.md", table(report).replace("(exported/", "(../../exported/") + "\n")
    kept = {"verdict", "ratios", "gates", "environment"}
    write_json(results / "edge.json", report.model_dump(mode="json", include=kept))
    terminal.report(report)
    bounds = {gate.name: float("nan") if gate.bound is None else gate.bound for gate in report.gates}
    finish(
        {
            "edge_macs_ratio": report.ratios["macs"].value,
            "edge_bytes_ratio": report.ratios["bytes"].value,
            "edge_call_speedup": bounds["call_speedup"],
            "edge_class_agreement": bounds["class_agreement"],
            "edge_gates_held": float(report.verdict == "pass"),
        }
    )


if __name__ == "__main__":
    main()
