"""Recipes that nothing else runs go their whole road here, with a tiny teacher and a few steps."""

from pathlib import Path

import pytest
import torch

from compress import engine
from compress.judge import leaps
from compress.model.reference import silent
from compress.pipeline import checkpoint
from compress.recipe.inputs import Options
from compress.recipe.recipe import read
from compress.runtime import Bundle
from tests.command import compress
from tests.conftest import CLASS_CONFIG, make_denoiser, read_json

ROOT = Path(__file__).parents[1]
TINY = (
    "data={source: teacher, count: 60}",
    "sampling.steps=3",
    "passes.distill.steps=2",
    "passes.distill.batch_size=4",
    "passes.quantize.samples=4",
    "passes.quantize.evaluations=12",
    "passes.verify.samples=10",
    "passes.verify.rounds=10",
    "passes.verify.gates={macs: {max: 0.9}, output_error: {max: 9}}",
)
UNJUDGED = (
    "sampling.steps=2",
    "passes.verify.samples=10",
    "passes.verify.reference=20",
    "passes.verify.rounds=10",
    "passes.verify.starts=0",
)


@pytest.mark.parametrize(
    ("name", "kind", "more"),
    [("digits-lowrank", "factorize", ["passes.factorize.batches=1"]), ("digits-student", "new_student", [])],
)
def test_recipe_goes_its_whole_road(name: str, kind: str, more: list[str], tmp_path: Path) -> None:
    checkpoint.save(make_denoiser({**CLASS_CONFIG, "layers_per_block": 2}), tmp_path / "teacher")
    words = [word for change in (*TINY, *more) for word in ("--set", change)]
    recipe = ROOT / "recipes" / f"{name}.yaml"
    done = compress("apply", recipe, "--checkpoint", "teacher", "--output", "out", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    changed = [step["pass"] for step in read_json(tmp_path / "out" / "record.json")["passes"] if step["changed"]]
    assert kind in changed and read_json(tmp_path / "out" / "report.json")["verdict"] == "pass"


def run(name: str, output: Path, *overrides: str) -> engine.Outcome:
    options = Options(torch.device("cpu"), silent, lambda _: None, allow_pickle=True)
    return engine.apply(read(ROOT / "recipes" / name, (*UNJUDGED, *overrides)), output, options)


def test_adaptive_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaps, "CALIBRATION", 2)
    done = run("digits-adaptive.yaml", tmp_path / "out")
    table = Bundle(done.output / "onnx").manifest["sampling"]["adaptive"]
    assert table[0]["evaluations"] <= 2


def test_guidance_by_a_classifier(tmp_path: Path) -> None:
    small = ("passes.distill_guidance.steps=2", "passes.distill_guidance.batch_size=4")
    done = run("digits-classifier.yaml", tmp_path / "out", *small)
    assert Bundle(done.output / "onnx").guidance["kind"] == "baked"
    assert read_json(done.output / "report.json")["verdict"] == "not judged"  # it has no gates yet
