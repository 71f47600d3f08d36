"""The result folder holds every large file once, and neither of its two names depends on the other."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

from compress import engine, files
from compress.model.reference import silent
from compress.pipeline import checkpoint
from compress.recipe.inputs import Options
from compress.recipe.recipe import read
from compress.runtime import Bundle
from tests.conftest import SHALLOW_CONFIG, make_denoiser, write_recipe

RECIPE = """
name: once
checkpoint: teacher
sampling: {steps: 2}
passes:
- prune_channels: {target: {params: 0.8}, importance: l2}
- export_onnx: {batch: 1}
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files are copied there")
def test_large_files_of_a_result_are_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGE", 50_000)
    checkpoint.save(make_denoiser(SHALLOW_CONFIG, scale=None), tmp_path / "teacher")
    recipe, out, said = read(write_recipe(tmp_path, RECIPE)), tmp_path / "out", list[str]()

    def apply() -> None:
        engine.apply(recipe, out, Options(torch.device("cpu"), silent, said.append))

    apply()
    pairs = {out / "student": out / "passes/01-prune_channels/model", out / "onnx": out / "passes/02-export_onnx/onnx"}
    large = [file for folder in pairs for file in folder.rglob("*") if file.is_file() and file.stat().st_size >= 50_000]
    assert {file.suffix for file in large} == {".safetensors", ".onnx"}
    for shown, kept in pairs.items():
        for file in shown.rglob("*"):
            if file.is_file() and file.name != ".compress":
                assert file.samefile(kept / file.relative_to(shown)) is (file in large)
    assert not any(file.stat().st_mode & 0o222 for file in large)
    whole = (out / "onnx" / "denoiser.onnx").read_bytes()
    shutil.rmtree(out / "passes" / "02-export_onnx")
    assert (out / "onnx" / "denoiser.onnx").read_bytes() == whole
    Bundle(out / "onnx")
    file = out / "student" / "unet" / next(file.name for file in large if file.suffix == ".safetensors")
    file.unlink()
    file.write_bytes(b"changed")
    apply()
    assert said == ["prune_channels: unchanged, used again"]  # and the export is made of what it had kept
    assert (out / "onnx" / "denoiser.onnx").read_bytes() == whole
    checkpoint.load(out / "student")
