"""Samples that are numbers, and files that are those of the list."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from compress.files import sha256
from compress.judge.soundness import finite_output, listed_files
from compress.runtime import Bundle
from tests.conftest import read_json

FLAGSHIP = Path(__file__).parents[2] / "exported" / "digits-flagship" / "onnx"


@pytest.mark.parametrize(("bad", "share"), [([], 1.0), ([np.nan], 0.75), ([np.inf, -np.inf], 0.5)])
def test_share_of_finite_samples(bad, share):
    samples = np.zeros((4, 2, 3, 3), np.float32)
    for place, value in enumerate(bad):
        samples[place, 1, 2, 0] = value
    found = finite_output(samples)
    assert (found.value, found.better, found.count) == (share, "more", 4)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle with two graphs, opened, in a folder that the test may damage."""
    shutil.copytree(FLAGSHIP, tmp_path / "onnx")
    return Bundle(tmp_path / "onnx", threads=1)


def write(bundle: Bundle, **changes: object) -> None:
    (bundle.path / "bundle.json").write_text(json.dumps({**read_json(bundle.path / "bundle.json"), **changes}))


def test_listed_files_are_those_that_are_there(bundle):
    found = listed_files(bundle)
    assert (found.value, found.count) == (1.0, 3)
    bundle.manifest["sampler"] = None
    assert listed_files(bundle).value == 1


@pytest.mark.parametrize("name", ["denoiser.onnx", "sampler.onnx", "bundle.json", "sample.py"])
@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_file_that_changed_while_it_was_judged_is_found(bundle, name, how):
    if how == "gone":
        (bundle.path / name).unlink()
    else:
        (bundle.path / name).write_text("{}")
    assert listed_files(bundle).value == 0


def test_a_file_and_its_hash_changed_together_are_found(bundle):
    file = bundle.path / "denoiser.onnx"
    file.write_bytes((bundle.path / "sampler.onnx").read_bytes())
    entry = {"sha256": sha256(file), "bytes": file.stat().st_size}
    write(bundle, files={**bundle.manifest["files"], file.name: entry})
    assert listed_files(bundle).value == 0


@pytest.mark.parametrize("name", ["denoiser.onnx", "sampler.onnx"])
def test_a_model_that_is_not_listed_is_found(bundle, name):
    del bundle.manifest["files"][name]
    write(bundle, files=bundle.manifest["files"])
    assert listed_files(bundle).value == 0
