"""What `compress plan` says is what `compress apply` gives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress import engine
from compress.errors import DataError
from compress.model.reference import silent
from compress.pipeline import checkpoint
from compress.plan import plan
from compress.recipe.inputs import Options
from compress.recipe.recipe import read
from compress.runtime import Bundle
from compress.training import config as training_config
from tests.conftest import CLASS_CONFIG, make_denoiser, write_recipe

TRAIN = {"distill": {"steps": 2, "batch_size": 4}}
ROADS: dict[str, list[dict[str, Any]]] = {
    "macs": [{"prune_channels": {"target": {"macs": 0.6}, "importance": "l1", "ranking": "global"}}, TRAIN],
    "params, taylor": [{"prune_channels": {"target": {"params": 0.5}, "batches": 1}}, TRAIN],
    "blocks": [{"prune_blocks": {"layout": "bk-small"}}, TRAIN],
    "low rank": [{"factorize": {"target": {"params": 0.7}}}, TRAIN],
    "an earlier pass as teacher": [TRAIN | {"as": "first"}, {"distill": {**TRAIN["distill"], "teacher": "first"}}],
}


@pytest.mark.parametrize(("road", "scheme"), zip(ROADS, ["int8", None, "fp16", "int8", None], strict=True))
def test_sizes_are_those_of_the_outcome(road: str, scheme: str | None, tmp_path: Path) -> None:
    teacher = make_denoiser(CLASS_CONFIG | {"layers_per_block": 2 if road == "blocks" else 1})
    for parameter in teacher.net.parameters():
        parameter.add_(0.01 * torch.randn_like(parameter))  # equal values, as at initialisation, are written once
    checkpoint.save(teacher, tmp_path / "teacher")
    small = {"samples": 4, "evaluations": 8}
    last: list[dict[str, Any]] = [] if scheme is None else [{"quantize": {"scheme": scheme, **small}}]
    head = {
        "name": "road",
        "checkpoint": "teacher",
        "data": {"source": "teacher", "count": 20},
        "guidance": {"scale": 2.0, "null_class": CLASS_CONFIG["num_class_embeds"] - 1},
        "sampling": {"steps": 2},
    }
    batch = 1 if scheme == "int8" else None  # which takes half the time to export
    export = {"export_onnx": {"timesteps": "own" if scheme == "fp16" else "any", "batch": batch}}
    text = json.dumps({**head, "passes": [*ROADS[road], *last, export]})  # JSON is YAML
    recipe = read(write_recipe(tmp_path, text))
    options = Options(torch.device("cpu"), silent, lambda _: None)
    rows = {row.name: row for row in plan(recipe, options)}
    engine.apply(recipe, tmp_path / "out", options)
    bundle = Bundle(tmp_path / "out" / "onnx")
    done = rows["export_onnx"]
    assert (done.params, done.macs) == (bundle.manifest["params"], bundle.manifest["macs"])
    # equal constants are written once, and training decides which of the scales and zero points of int8 are equal
    assert done.bytes == pytest.approx(bundle.size_bytes, rel=1e-3 if scheme == "int8" else 0, abs=0)
    assert all(row.seconds > 0 for name, row in rows.items() if name != "checkpoint")


def planned(folder: Path, data: str, **settings: object) -> list[str]:
    """What is logged while a recipe that trains is planned."""
    checkpoint.save(make_denoiser(CLASS_CONFIG), folder / "teacher")
    text = (
        f"name: road\ncheckpoint: teacher\n{data}\npasses:\n- distill: {json.dumps({**TRAIN['distill'], **settings})}\n"
    )
    said: list[str] = []
    list(plan(read(write_recipe(folder, text)), Options(torch.device("cpu"), silent, said.append)))
    return said


def test_data_that_apply_would_refuse_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=np.zeros((4, 8, 8)))
    with pytest.raises(DataError, match="has no labels"):
        planned(tmp_path, "data: {source: npz, path: d.npz}")
    with pytest.raises(DataError, match="a pass needs images"):
        planned(tmp_path, "seed: 1")


def test_slow_arithmetic_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_config, "_processor_flags", lambda: {"avx2"})
    said = planned(tmp_path, "data: {source: teacher, count: 20}", precision="bf16")
    assert len(said) == 1 and said[0].startswith("distill: precision: bf16 is tens of times slower")
