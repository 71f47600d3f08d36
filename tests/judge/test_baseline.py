"""The teacher in onnxruntime: exported once, held to PyTorch, drawing on all cores."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from compress.judge import baseline
from compress.judge.images import at_scale
from compress.measure import workers
from compress.model import reference
from compress.model.denoiser import Denoiser, draw, guided, predict
from compress.model.reference import PYTORCH, silent
from compress.pipeline.pipeline import Parts
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, assert_close_db, inputs_for, make_denoiser
from tests.model.test_noise_classifier import steered


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


TRULY, GRAPHS = baseline.to_onnx, {}


@pytest.fixture(autouse=True)
def exports(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was exported in this test. An own cache for this file; a net that it has exported before takes no time."""
    called = []

    def once(module: torch.nn.Module, *given: Any, **more: Any) -> ir.Model:
        called.append(str([float(tensor.double().sum()) for tensor in module.state_dict().values()]))
        if called[-1] not in GRAPHS:
            GRAPHS[called[-1]] = TRULY(module, *given, **more)
        return GRAPHS[called[-1]].clone()

    monkeypatch.setenv("COMPRESS_CACHE", str(cache))
    monkeypatch.setattr(baseline, "to_onnx", once)
    return called


def kept(model: Denoiser) -> baseline.Baseline:
    return baseline.kept(model, 1, silent, "")


@pytest.mark.parametrize("config", [CLASS_CONFIG, TEXT_CONFIG], ids=["class", "text"])
def test_both_draw_the_same_samples_at_any_scale(config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_denoiser(config)
    noise, _, conditions = inputs_for(model, 2 * baseline.SHARE + 3)
    said: list[str] = []
    drawer = kept(model).drawer(said.append)
    assert drawer.name == "onnxruntime" and not said
    for asked in (model, at_scale(model, 3.0)):
        done: list[int] = []
        found = drawer.draw(asked, noise, conditions, done.append)
        assert_close_db(draw(asked, noise, conditions).numpy(), found.numpy(), baseline.EQUAL_DB)
        assert sum(done) == len(noise) * 4 and len(done) == 3
        monkeypatch.setattr(workers, "default_threads", lambda: 2)
        torch.testing.assert_close(drawer.draw(asked, noise, conditions, done.append), found, rtol=0, atol=0)


def test_a_net_is_exported_once_whatever_it_is_sampled_by(
    exports: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path))
    model, other = make_denoiser(CLASS_CONFIG), make_denoiser(CLASS_CONFIG)
    for same in (model, make_denoiser(CLASS_CONFIG, steps=7), at_scale(model, 1.5)):
        kept(same)
        assert len(exports) == 1
    other.net.conv_out.weight.mul_(1.01)
    kept(other)
    assert len(exports) == 2, "another net has a graph of its own"


@pytest.mark.parametrize("part", ["denoiser.onnx", "weights.bin", "bundle.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_file_is_made_anew(part: str, damage: str, cache: Path, exports: list[str]) -> None:
    model = make_denoiser(CLASS_CONFIG)
    sample, _, conditions = inputs_for(model)
    given = {name: value.numpy() for name, value in conditions.items()}
    wanted = kept(model).bundle.denoise(sample.numpy(), 500, given)
    file = cache / "teachers" / baseline._key(model, Parts()) / part
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[len(content) // 2] ^= 0x40
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    np.testing.assert_array_equal(kept(model).bundle.denoise(sample.numpy(), 500, given), wanted)
    kept(model)
    assert len(exports) <= 2, "once made anew, it is whole"


def test_where_runtimes_differ_pytorch_draws_and_it_is_said() -> None:
    model, other = make_denoiser(CLASS_CONFIG), make_denoiser(CLASS_CONFIG)
    other.net.conv_out.weight.mul_(1.01)
    said: list[str] = []
    wrong = dataclasses.replace(kept(model), teacher=other)
    assert wrong.drawer(said.append) is PYTORCH
    assert len(said) == 1 and "PyTorch" in said[0] and "40." in said[0]


def test_a_classifier_or_a_gpu_draws_in_pytorch() -> None:
    model = make_denoiser(CLASS_CONFIG)
    guidance = model.sampling.guidance.model_copy(update={"kind": "classifier"})
    by_classifier = dataclasses.replace(model, sampling=model.sampling.model_copy(update={"guidance": guidance}))
    elsewhere = dataclasses.replace(model, net=make_denoiser(CLASS_CONFIG).net.to("meta"))
    assert [baseline.drawer_name(found) for found in (model, by_classifier, elsewhere)] == [
        "onnxruntime",
        *["PyTorch"] * 2,
    ]


def test_samples_of_onnxruntime_are_kept_and_drawn_on_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_denoiser(CLASS_CONFIG)
    drawer = kept(model).drawer(pytest.fail)
    monkeypatch.setattr(reference, "draw", lambda *_: pytest.fail("PyTorch drew"))
    drawn = reference.draw_kept(model, 25, 0, lambda: pytest.fail("no data are needed"), silent, "", drawer)
    assert len(list(reference.kept_folder(model, "onnxruntime").iterdir())) == 1
    assert_close_db(draw(model, drawn.noise, drawn.conditions).numpy(), drawn.samples.numpy(), baseline.EQUAL_DB)


def test_a_classifiers_gradient_is_followed_beside_the_graph(tmp_path: Path) -> None:
    model = steered(tmp_path)
    sample, _, conditions = inputs_for(model)
    given = {name: value.numpy() for name, value in conditions.items()}
    found, when = kept(model), torch.full((len(sample),), 499)
    wanted = guided(model, sample, when, conditions)
    assert_close_db(wanted.numpy(), found.guided.guided(sample.numpy(), 499, given), 80)
    assert_close_db(wanted.numpy(), found.evaluate(sample.numpy(), 0, 499, given), 80)
    plain = found.bundle.guided(sample.numpy(), 499, given)
    assert_close_db(predict(model, sample, when, conditions).numpy(), plain, 80)
    samples = found.draw(model, sample, conditions, lambda _: None)
    assert_close_db(draw(model, sample, conditions).numpy(), samples.numpy(), baseline.EQUAL_DB)
