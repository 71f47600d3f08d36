"""`python -m benchmarks.emoji_edge`: makes exported/emoji-edge and the README's table anew, and prints its bars.

Runs recipes/emoji-edge.yaml; passes that are unchanged are used again. Only a verdict replaces what is committed.
"""

import torch

from benchmarks.bars import finish, rewrite_between
from benchmarks.edge import ROOT, faster, foot, publish, with_interval
from compress import engine, terminal
from compress.recipe.inputs import Options
from compress.recipe.recipe import read
from compress.report.parts import Figure
from compress.report.report import Report
from compress.report.report import read as read_report

NAME = "emoji-edge"
HEAD = "| | teacher, a pipeline in PyTorch fp32 | student, onnxruntime int8 | |\n|---|---:|---:|---|\n"


def table(report: Report) -> str:
    """The README's table, from a report."""
    teacher, student, ratios, quality = report.teacher, report.student, report.ratios, report.quality
    in_onnxruntime = student.ms_per_image * ratios["image_speedup_over_onnxruntime"].value
    rows = [
        ("bytes", f"{teacher.bytes:,}", f"{student.bytes:,}", f"{ratios['bytes'].value:.2f}×"),
        (
            "ms from prompt to pixels",
            f"{teacher.ms_per_image:.0f}",
            f"{student.ms_per_image:.0f}",
            f"**{faster(ratios['image_speedup'])}**",
        ),
        (
            "the same, the teacher in onnxruntime fp32",
            f"{in_onnxruntime:.0f}",
            f"{student.ms_per_image:.0f}",
            faster(ratios["image_speedup_over_onnxruntime"]),
        ),
        *(
            (f"show the {name} that was asked for", *_shares(found.metrics["attribute_accuracy"]))
            for name, found in report.attributes.items()
        ),
        (
            "similarity of picture and prompt",
            f"{quality['alignment'].teacher:.3f}",
            f"{quality['alignment'].value:.3f}",
            _change(quality["alignment"], 1, ""),
        ),
        ("same noise, PSNR", "", with_interval(quality["psnr"], ".1f") + " dB", ""),
    ]
    samples = f"{report.reference.paired:,} pairs on prompts that the teacher never saw"
    return HEAD + "\n".join(f"| {' | '.join(row)} |" for row in rows) + foot(report, NAME, samples)


def _shares(figure: Figure) -> tuple[str, str, str]:
    return f"{figure.teacher:.1%}", f"{figure.value:.1%}", _change(figure, 100, " points")


def _change(figure: Figure, factor: float, unit: str) -> str:
    """How much better or worse than the teacher, and whether that is more than noise."""
    assert figure.excess is not None and figure.excess_interval is not None
    digits = 1 if factor > 1 else 3
    low, high = (factor * end for end in figure.excess_interval)
    said = f"{factor * figure.excess:+.{digits}f} ({low:+.{digits}f} … {high:+.{digits}f}){unit}"
    return said if figure.resolved else f"{said}, not resolved"


def main() -> None:
    """Apply the recipe, publish the result, rewrite the README's table, print the bars."""
    output = ROOT / "outputs" / NAME
    options = Options(torch.device("cpu"), terminal.progress, terminal.log)
    engine.apply(read(ROOT / "recipes" / f"{NAME}.yaml"), output, options)
    report = read_report(output)
    publish(output, ROOT / "exported" / NAME)
    rewrite_between(ROOT / "README.md", NAME, table(report))
    terminal.report(report)
    finish(
        {
            "emoji_edge_bytes": report.ratios["bytes"].value,
            "emoji_edge_image_speedup": report.ratios["image_speedup"].value,
            "emoji_edge_image_speedup_over_onnxruntime": report.ratios["image_speedup_over_onnxruntime"].value,
            "emoji_edge_accuracy_lost": max(
                -(found.metrics["attribute_accuracy"].excess or 0.0) for found in report.attributes.values()
            ),
            "emoji_edge_alignment_lost": -(report.quality["alignment"].excess or 0.0),
        }
    )


if __name__ == "__main__":
    main()
