"""Recipes for what no other recipe uses are run, at settings so small that only the road is tested."""

import dataclasses
from pathlib import Path

import pytest
import torch

from compress import engine
from compress.model.reference import silent
from compress.passes import export_onnx
from compress.recipe.inputs import Options
from compress.recipe.recipe import read
from compress.runtime import Bundle
from tests.conftest import read_json

RECIPES = Path(__file__).parents[1] / "recipes"
TINY = (
    "sampling.steps=2",
    "passes.verify.samples=10",
    "passes.verify.reference=20",
    "passes.verify.rounds=10",
    "passes.verify.starts=0",
)


def run(name: str, output: Path, *overrides: str) -> engine.Outcome:
    options = Options(torch.device("cpu"), silent, lambda _: None)
    return engine.apply(
        read(RECIPES / name, (*TINY, *overrides)), output, dataclasses.replace(options, allow_pickle=True)
    )


def test_adaptive_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_onnx, "CALIBRATION", 2)
    done = run("digits-adaptive.yaml", tmp_path / "out")
    table = Bundle(done.output / "onnx").manifest["sampling"]["adaptive"]
    assert (
        table[0]["evaluations"] <= 2
        and table == read_json(done.output / "onnx" / "bundle.json")["sampling"]["adaptive"]
    )


def test_guidance_by_a_classifier(tmp_path: Path) -> None:
    small = ("passes.distill_guidance.steps=2", "passes.distill_guidance.batch_size=4")
    done = run("digits-classifier.yaml", tmp_path / "out", *small)
    assert Bundle(done.output / "onnx").guidance["kind"] == "baked"
    assert read_json(done.output / "report.json")["verdict"] == "not judged"  # it has no gates yet
