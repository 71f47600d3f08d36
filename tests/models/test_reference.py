"""Samples that are drawn once and kept."""

from pathlib import Path

import pytest
import torch

from compress.models import reference
from compress.models.denoiser import Denoiser, draw
from compress.models.reference import silent
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, dataset_for, make_denoiser


def kept(model: Denoiser, count: int, folder: Path, seed: int = 0) -> reference.Drawn:
    return reference.draw_kept(model, count, seed, lambda: dataset_for(model), folder, silent, "drawing")


def test_samples_are_those_of_the_noise_and_conditions(any_model: Denoiser, tmp_path: Path) -> None:
    drawn = kept(any_model, 7, tmp_path)
    assert drawn.samples.shape == drawn.noise.shape == (7, *any_model.sample_shape)
    torch.testing.assert_close(drawn.samples, draw(any_model, drawn.noise, drawn.conditions))


@pytest.mark.parametrize("config", [CLASS_CONFIG, TEXT_CONFIG], ids=["class", "text"])
def test_fewer_are_the_beginning_of_more(config: dict, tmp_path: Path) -> None:
    model = make_denoiser(config)
    few, many = kept(model, 30, tmp_path), kept(model, 130, tmp_path)
    assert torch.equal(many.noise[:30], few.noise)
    for name, value in few.conditions.items():
        assert torch.equal(many.conditions[name][:30], value)
    torch.testing.assert_close(many[:30].samples, few.samples)


def test_nothing_is_drawn_twice(class_model: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kept(class_model, 20, tmp_path)
    monkeypatch.setattr(reference, "draw", lambda *_: pytest.fail("drew again"))
    assert torch.equal(kept(class_model, 20, tmp_path).samples, first.samples)


def test_goes_on_where_it_was_stopped(class_model: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = kept(class_model, 220, tmp_path)
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 3
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:100])  # cut short by a full disk, say
    drawn = []
    monkeypatch.setattr(reference, "draw", lambda *given: drawn.append(len(given[1])) or draw(*given))
    again = kept(class_model, 220, tmp_path)
    assert drawn == [100, 20]
    assert torch.equal(again.samples, whole.samples)


def test_another_model_sampling_or_seed_is_drawn_anew(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    others = [make_denoiser(CLASS_CONFIG, seed=1), make_denoiser(CLASS_CONFIG, steps=5), make_denoiser(CLASS_CONFIG)]
    others[2].sampling.guidance.__dict__["scale"] = 3.0
    names = {reference.identity(found) for found in (model, *others)}
    assert len(names) == 4
    assert not torch.equal(kept(model, 5, tmp_path).noise, kept(model, 5, tmp_path, seed=1).noise)


def test_null_embedding_is_part_of_the_identity(text_model: Denoiser) -> None:
    before = reference.identity(text_model)
    assert text_model.null_embedding is not None
    text_model.null_embedding[0, 0] += 1
    assert reference.identity(text_model) != before
