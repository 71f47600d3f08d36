"""Samples that are numbers, and files that are those of the list."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from compress.evaluation.soundness import finite_output, listed_files
from compress.runtime.bundle import FORMAT, sha256


@pytest.mark.parametrize(("bad", "share"), [([], 1.0), ([np.nan], 0.75), ([np.inf, -np.inf], 0.5)])
def test_share_of_finite_samples(bad, share):
    samples = np.zeros((4, 2, 3, 3), np.float32)
    for place, value in enumerate(bad):
        samples[place, 1, 2, 0] = value
    found = finite_output(samples)
    assert (found.value, found.better, found.count) == (share, "more", 4)


@pytest.fixture
def bundle(tmp_path: Path) -> SimpleNamespace:
    """What is looked at of an opened bundle."""
    for name in ("denoiser.onnx", "sampler.onnx", "weights.bin"):
        (tmp_path / name).write_text(name)
    files = {file.name: {"sha256": sha256(file), "bytes": 1} for file in tmp_path.iterdir()}
    manifest = {"format": FORMAT, "model": "denoiser.onnx", "sampler": "sampler.onnx", "files": files}
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    return SimpleNamespace(path=tmp_path, manifest=manifest)


def test_listed_files_are_those_that_are_there(bundle):
    found = listed_files(bundle)
    assert (found.value, found.count) == (1.0, 3)
    bundle.manifest["sampler"] = None
    assert listed_files(bundle).value == 1


@pytest.mark.parametrize("name", ["denoiser.onnx", "sampler.onnx", "weights.bin", "bundle.json"])
@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_file_that_changed_while_it_was_judged_is_found(bundle, name, how):
    if how == "gone":
        (bundle.path / name).unlink()
    else:
        (bundle.path / name).write_text("{}")
    assert listed_files(bundle).value == 0


def test_a_file_and_its_hash_changed_together_are_found(bundle):
    file = bundle.path / "denoiser.onnx"
    file.write_text("another model")
    files = {**bundle.manifest["files"], file.name: {"sha256": sha256(file), "bytes": 1}}
    (bundle.path / "bundle.json").write_text(json.dumps({**bundle.manifest, "files": files}))
    assert listed_files(bundle).value == 0


@pytest.mark.parametrize("name", ["denoiser.onnx", "sampler.onnx"])
def test_a_model_that_is_not_listed_is_found(bundle, name):
    del bundle.manifest["files"][name]
    (bundle.path / "bundle.json").write_text(json.dumps(bundle.manifest))
    assert listed_files(bundle).value == 0
