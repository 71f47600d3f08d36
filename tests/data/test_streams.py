"""The same pictures from every source, in memory or read when a batch asks for them: the same batches, to the bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compress import data
from compress.data import Dataset, dataset
from compress.data.items import Decoded
from compress.errors import DataError
from compress.judge.classifier import train_classifier
from compress.judge.features import classifier_space
from tests.data.helpers import COLOUR, folder
from tests.data.shards import pixels, png, samples, webdataset, write_tar

COUNT = 60
PIXELS = pixels(COUNT)


def in_folder(path: Path) -> Any:
    for i, one in enumerate(PIXELS):
        (path / "abc"[i % 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(path / "abc"[i % 3] / f"{i:04d}.png")
    return folder(path)


def with_captions(path: Path) -> Any:
    path.mkdir()
    rows = []
    for i, one in enumerate(PIXELS):
        Image.fromarray(one).save(path / f"{i:04d}.png")
        rows.append(json.dumps({"file_name": f"{i:04d}.png", "text": f"number {i} · é"}))
    (path / "metadata.jsonl").write_text("\n".join(rows))
    return folder(path)


def in_shards(path: Path) -> Any:
    for start in range(0, COUNT, 25):
        write_tar(path / f"shard-{start:04d}.tar", samples(PIXELS[start : start + 25], start))
    return webdataset(path)


def _rows() -> dict[str, list[Any]]:
    return {
        "image": [{"bytes": png(one), "path": None} for one in PIXELS],
        "label": [i % 3 for i in range(COUNT)],
        "caption": [f"number {i} · é" for i in range(COUNT)],
    }


def _library() -> Any:
    return pytest.importorskip("datasets", reason="pip install 'compress-diffusion[data]'")


def saved(path: Path) -> Any:
    library = _library()
    library.Dataset.from_dict(_rows()).cast_column("image", library.Image()).save_to_disk(str(path))
    return data.Datasets(source="datasets", path=path)


def parquet(path: Path) -> Any:
    path.mkdir()
    rows = _library().Dataset.from_dict(_rows())
    for i, start in enumerate(range(0, COUNT, 25)):
        part = rows.select(range(start, min(start + 25, COUNT)))
        part.to_parquet(str(path / f"train-{i:05d}-of-00003.parquet"))
    return data.Datasets(source="datasets", path=path)


SOURCES: list[Callable[[Path], Any]] = [in_folder, in_shards, saved, parquet]


def loaded(config: Any, monkeypatch: pytest.MonkeyPatch, streamed: bool, classes: int | None = 3) -> Dataset:
    monkeypatch.setattr(dataset, "IN_MEMORY", 0 if streamed else 2**31)
    found = data.load(config, COLOUR, classes)
    assert isinstance(found.images, Decoded if streamed else torch.Tensor)
    monkeypatch.setattr(dataset, "IN_MEMORY", 2**31)
    return found


def same(one: data.Batch, other: data.Batch) -> bool:
    pairs = [(one.images, other.images), *((one.conditions[name], other.conditions[name]) for name in one.conditions)]
    return one.conditions.keys() == other.conditions.keys() and all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("streamed", [False, True])
def test_every_source_gives_the_pictures(
    source: Callable[[Path], Any], streamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = loaded(source(tmp_path / "data"), monkeypatch, streamed)
    assert len(found) == COUNT and found.labels is not None
    order = [i for label in range(3) for i in range(label, COUNT, 3)] if source is in_folder else list(range(COUNT))
    assert found.labels.tolist() == [i % 3 for i in order]
    wanted = torch.from_numpy(PIXELS[order].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    assert torch.equal(found.images[:], wanted)


@pytest.mark.parametrize("source", SOURCES)
def test_batches_and_parts_are_the_same_in_memory_and_streamed(
    source: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = source(tmp_path / "data")
    held, streamed = (loaded(config, monkeypatch, one) for one in (False, True))
    for step in range(5):
        assert same(held.batch(7, 3, step), streamed.batch(7, 3, step))
    for one, other in zip(held.split(), streamed.split(), strict=True):
        assert len(one) == len(other) < COUNT and same(one.batch(9, 0, 1), other.batch(9, 0, 1))
        assert same(one.take(torch.arange(len(one))), other.held())
        assert list(one.texts) == list(other.texts)


@pytest.mark.parametrize("source", [with_captions, in_shards, saved, parquet])
def test_captions_stay_with_their_pictures(
    source: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = loaded(source(tmp_path / "data"), monkeypatch, streamed=True, classes=None)
    train, _ = found.split()
    assert found.texts[-1] == f"number {COUNT - 1} · é" and found.texts[2:4] == ["number 2 · é", "number 3 · é"]
    for i in (0, 1, len(train) - 1):
        number = int(train.texts[i].split()[1])
        assert torch.equal(train.images[i : i + 1], found.images[number : number + 1])


def test_a_streamed_data_set_opened_again_gives_the_same_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = in_shards(tmp_path / "data")
    first = loaded(config, monkeypatch, streamed=True).split()[0].batch(16, 5, "step", 12)
    assert same(first, loaded(config, monkeypatch, streamed=True).split()[0].batch(16, 5, "step", 12))


def test_the_number_of_threads_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, before, batches = (
        loaded(in_shards(tmp_path / "data"), monkeypatch, streamed=True),
        torch.get_num_threads(),
        [],
    )
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            batches.append(found.batch(13, 0, 0))
    finally:
        torch.set_num_threads(before)
    assert all(same(batches[0], one) for one in batches[1:])
    assert found.images[torch.zeros(0, dtype=torch.int64)].shape == (0, *COLOUR)


@pytest.mark.parametrize("source", [in_folder, in_shards])
def test_loading_decodes_one_picture_and_a_batch_its_own(
    source: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, read = source(tmp_path / "data"), []
    found = loaded(config, monkeypatch, streamed=True)
    assert isinstance(found.images, Decoded)
    decode = found.images.read
    monkeypatch.setattr(found.images, "read", lambda i: read.append(i) or decode(i))
    train, held_out = found.split()
    assert read == []
    train.batch(4, 0, 0)
    held_out.take(torch.arange(3))
    assert len(read) == 7


def test_judges_of_a_streamed_data_set_are_those_of_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = in_shards(tmp_path / "data")
    held, streamed = (loaded(config, monkeypatch, one) for one in (False, True))
    assert train_classifier(held).accuracy == train_classifier(streamed).accuracy
    (one, before), (other, after) = classifier_space(held), classifier_space(streamed)
    images = held.images[:].numpy()
    assert before == after and np.array_equal(one(images), other(images))


def test_what_does_not_fit_into_memory_is_taken_from_all_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = loaded(in_folder(tmp_path / "data"), monkeypatch, streamed=True)
    monkeypatch.setattr(dataset, "IN_MEMORY", 9 * 4 * 3 * 8 * 8)
    assert found.held().conditions["class_labels"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(found.held(6).images) == 6 and len(found.spread(1000)) == COUNT


def test_a_picture_that_is_damaged_is_named_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = in_folder(tmp_path / "data")
    file = tmp_path / "data" / "b" / "0004.png"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError, match=r"0004.png"):
        loaded(config, monkeypatch, streamed=False)
    found = loaded(config, monkeypatch, streamed=True)
    with pytest.raises(DataError, match=r"0004.png: cannot be read as an image"):
        found.take(torch.arange(COUNT))


def test_a_picture_that_vanishes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = loaded(in_folder(tmp_path / "data"), monkeypatch, streamed=True)
    (tmp_path / "data" / "c" / "0002.png").unlink()
    with pytest.raises(DataError, match=r"0002.png: no such file"):
        found.take(torch.arange(COUNT))


def test_a_wrong_size_is_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "IN_MEMORY", 0)
    with pytest.raises(DataError, match="is 8×8; the model takes 8×9"):
        data.load(in_shards(tmp_path / "data"), (3, 8, 9), 3)
