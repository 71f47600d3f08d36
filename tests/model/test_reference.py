"""Samples that are drawn once and kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from compress.data import Dataset, FromTeacher
from compress.model import reference
from compress.model.denoiser import Denoiser, draw
from compress.model.reference import silent
from compress.randomness import Draw
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, dataset_for, make_denoiser


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path))


def kept(model: Denoiser, count: int, seed: int = 0, drawer: reference.Drawer = reference.PYTORCH) -> reference.Drawn:
    return reference.draw_kept(model, count, seed, lambda: dataset_for(model), silent, "drawing", drawer)


def test_samples_are_those_of_the_noise_and_conditions(any_model: Denoiser) -> None:
    drawn = kept(any_model, 7)
    assert drawn.samples.shape == drawn.noise.shape == (7, *any_model.sample_shape)
    torch.testing.assert_close(drawn.samples, draw(any_model, drawn.noise, drawn.conditions))


@pytest.mark.parametrize("config", [CLASS_CONFIG, TEXT_CONFIG], ids=["class", "text"])
def test_fewer_are_the_beginning_of_more(config: dict) -> None:
    model = make_denoiser(config)
    few, many = kept(model, 30), kept(model, 130)
    assert torch.equal(many.noise[:30], few.noise)
    for name, value in few.conditions.items():
        assert torch.equal(many.conditions[name][:30], value)
    torch.testing.assert_close(many[:30].samples, few.samples)


def test_nothing_is_drawn_twice(class_model: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kept(class_model, 20)
    monkeypatch.setattr(reference, "draw", lambda *_: pytest.fail("drew again"))
    assert torch.equal(kept(class_model, 20).samples, first.samples)


def test_what_one_drawer_drew_is_not_taken_for_what_another_would(class_model: Denoiser) -> None:
    first = kept(class_model, 5)
    other = reference.Drawer("zeros", lambda model, noise, conditions, advance: torch.zeros_like(noise))
    assert not kept(class_model, 5, drawer=other).samples.any()
    assert torch.equal(kept(class_model, 5).samples, first.samples)


def test_goes_on_where_it_was_stopped(class_model: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = kept(class_model, 220)
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 3
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:100])  # cut short by a full disk, say
    drawn = []
    monkeypatch.setattr(reference, "draw", lambda *given: drawn.append(len(given[1])) or draw(*given))
    again = kept(class_model, 220)
    assert drawn == [100, 20]
    assert torch.equal(again.samples, whole.samples)


def test_progress_counts_every_evaluation_of_every_image(class_model: Denoiser) -> None:
    seen: list[int] = []

    class Task:
        def advance(self, count: int = 1, **shown: float) -> None:
            seen.append(count)

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Task]:
        seen.append(-total)
        yield Task()

    for _ in range(2):  # drawn, then kept
        reference.draw_kept(class_model, 130, 0, lambda: dataset_for(class_model), progress, "drawing")
    assert seen == [-520, *[100] * 4, *[30] * 4, -520, 400, 120]


def test_another_model_sampling_or_seed_is_drawn_anew() -> None:
    model = make_denoiser(CLASS_CONFIG)
    others = [make_denoiser(CLASS_CONFIG, seed=1), make_denoiser(CLASS_CONFIG, steps=5), make_denoiser(CLASS_CONFIG)]
    others[2].sampling.guidance.__dict__["scale"] = 3.0
    names = {reference.identity(found) for found in (model, *others)}
    assert len(names) == 4
    assert not torch.equal(kept(model, 5).noise, kept(model, 5, seed=1).noise)


def test_null_embedding_is_part_of_the_identity(text_model: Denoiser) -> None:
    before = reference.identity(text_model)
    text_model.null["encoder_hidden_states"][0, 0] += 1
    assert reference.identity(text_model) != before


def test_a_data_set_goes_on_where_it_was_stopped(class_model: Denoiser, tmp_path: Path) -> None:
    def drawn(count: int) -> Dataset:
        config = FromTeacher(source="teacher", count=count)
        return reference.draw_dataset(class_model, config, 0, silent, lambda _: pytest.fail("no texts"))

    whole = drawn(120)
    noise = reference.noise_like(class_model, 120, 0, Draw.DATASET)
    torch.testing.assert_close(
        whole.images[100:], draw(class_model, noise[100:], {"class_labels": torch.arange(100, 120) % 10})
    )
    _, last = sorted(tmp_path.rglob("*.npz"))
    last.unlink()
    with pytest.MonkeyPatch.context() as patch:
        sizes: list[int] = []
        patch.setattr(reference, "draw", lambda *given: sizes.append(len(given[1])) or draw(*given))
        assert torch.equal(drawn(120).images, whole.images)
        assert torch.equal(drawn(120).images, whole.images)
    assert sizes == [20]
