"""`python -m benchmarks.edge`: verifies the committed bundle anew, on this machine, and prints its bars."""

import tempfile
from pathlib import Path

import torch

from benchmarks.bars import finish
from compress import terminal
from compress.inputs import Options
from compress.judge import verify_bundle
from compress.recipe import read

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Verify exported/digits-edge against its teacher with its recipe's settings."""
    recipe = read(ROOT / "recipes" / "digits-edge.yaml")
    options = Options(torch.device("cpu"), terminal.progress, terminal.log)
    teacher = str(ROOT / "benchmarks" / "teachers" / "digits")
    with tempfile.TemporaryDirectory() as folder:
        report = verify_bundle(ROOT / "exported" / "digits-edge", teacher, recipe, Path(folder), options)
    terminal.report(report)
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
