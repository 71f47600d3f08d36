"""`python -m benchmarks.edge`: verifies the committed bundle anew, on this machine, and prints its bars."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.bars import finish
from compress import terminal
from compress.inputs import Options
from compress.judge import verify_bundle
from compress.recipe import read

ROOT = Path(__file__).parents[1]


def table(report: Mapping[str, Any]) -> str:
    """The README's table, from a report."""
    teacher, student, ratios, quality = report["teacher"], report["student"], report["ratios"], report["quality"]
    agreement = quality["class_agreement"]
    rows = [
        ("parameters", f"{teacher['params']:,}", f"{student['params']:,}", f"{ratios['params']:.2f}×"),
        ("multiply-accumulates a call", f"{teacher['macs']:,}", f"{student['macs']:,}", f"{ratios['macs']:.2f}×"),
        ("bytes", f"{teacher['bytes']:,}", f"{student['bytes']:,}", f"{ratios['bytes']:.2f}×"),
        (
            "ms a call, batch 1",
            f"{teacher['ms_per_call']:.2f}",
            f"{student['ms_per_call']:.2f}",
            f"**{ratios['call_speedup']:.1f}× faster**",
        ),
        (
            "ms a guided image",
            f"{teacher['ms_per_image']:.0f}",
            f"{student['ms_per_image']:.0f}",
            f"{ratios['image_speedup']:.1f}× faster",
        ),
        (
            "named as asked",
            f"{quality['teacher_class_accuracy']['value']:.1%}",
            f"{quality['class_accuracy']['value']:.1%}",
            f"same name for {agreement['value']:.1%} ({agreement['interval'][0]:.1%} … {agreement['interval'][1]:.1%})",
        ),
        ("same noise", "", f"PSNR {quality['psnr']['value']:.1f} dB", f"SSIM {quality['ssim']['value']:.3f}"),
        (
            "against the teacher in onnxruntime fp32, ms a call",
            f"{report['teacher_onnxruntime']['ms_per_call']:.2f}",
            f"{student['ms_per_call']:.2f}",
            f"{ratios['call_speedup_over_onnxruntime']:.1f}× faster",
        ),
    ]
    head = "| | teacher, PyTorch fp32 | student, onnxruntime int8 | |\n|---|---:|---:|---|\n"
    environment = report["environment"]
    where = f"{environment['cpu']}, threads: {environment['threads']}"
    foot = f"\n\n{report['samples']:,} pairs; {where}; interleaved in one run."
    return head + "\n".join(f"| {' | '.join(row)} |" for row in rows) + foot


def main() -> None:
    """Verify exported/digits-edge against its teacher with its recipe's settings."""
    recipe = read(ROOT / "recipes" / "digits-edge.yaml")
    options = Options(torch.device("cpu"), terminal.progress, terminal.log)
    teacher = str(ROOT / "benchmarks" / "teachers" / "digits")
    with tempfile.TemporaryDirectory() as folder:
        report = verify_bundle(ROOT / "exported" / "digits-edge", teacher, recipe, Path(folder), options)
    terminal.report(report)
    print(table(report))
    finish(
        {
            "edge_macs_ratio": report["ratios"]["macs"],
            "edge_bytes_ratio": report["ratios"]["bytes"],
            "edge_call_speedup": report["ratios"]["call_speedup"],
            "edge_class_agreement": report["quality"]["class_agreement"]["value"],
        }
    )


if __name__ == "__main__":
    main()
