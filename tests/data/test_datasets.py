"""Hugging Face's data sets on disk: what is read of them, and what is refused by name."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress import data
from compress.data import Datasets
from compress.errors import DataError
from tests.data.helpers import COLOUR, refused
from tests.data.shards import pixels, png

PICTURES = [png(one) for one in pixels(3)]


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("datasets", reason="pip install 'compress-diffusion[data]'")


def config(path: Path, **settings: Any) -> Datasets:
    return Datasets(source="datasets", path=path, **settings)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(config(tmp_path), COLOUR, None, "pip install 'compress-diffusion[data]'")


def test_columns_by_name_and_bytes_without_a_feature(library: Any, tmp_path: Path) -> None:
    rows = {"picture": PICTURES, "kind": [2, 0, 1], "said": ["a", "b", "c"], "text": ["x"] * 3}
    library.Dataset.from_dict(rows).to_parquet(str(tmp_path / "a.parquet"))
    named = config(tmp_path / "a.parquet", image="picture", label="kind", text="said")
    found = data.load(named, COLOUR, 3)
    assert found.labels is not None and found.labels.tolist() == [2, 0, 1] and list(found.texts) == ["a", "b", "c"]
    assert found.images.shape == (3, *COLOUR)
    refused(config(tmp_path / "a.parquet"), COLOUR, 3, tmp_path / "a.parquet", "has no column `image`")
    refused(config(tmp_path / "a.parquet", image="picture"), COLOUR, 3, "has no column `label`", "kind")
    refused(config(tmp_path / "a.parquet", image="picture", text="none"), COLOUR, None, "has no column `none`")


def test_names_of_classes_are_their_numbers(library: Any, tmp_path: Path) -> None:
    rows = library.Dataset.from_dict({"image": PICTURES, "label": [1, 1, 0]})
    rows.cast_column("label", library.ClassLabel(names=["cat", "dog"])).save_to_disk(str(tmp_path / "d"))
    labels = data.load(config(tmp_path / "d"), COLOUR, 2).labels
    assert labels is not None and labels.tolist() == [1, 1, 0]


def test_splits(library: Any, tmp_path: Path) -> None:
    parts = {name: library.Dataset.from_dict({"image": PICTURES[:n]}) for name, n in (("train", 3), ("test", 2))}
    library.DatasetDict(parts).save_to_disk(str(tmp_path / "d"))
    assert len(data.load(config(tmp_path / "d", split="test"), COLOUR, None)) == 2
    refused(config(tmp_path / "d"), COLOUR, None, tmp_path / "d", "train, test", "`split`")
    refused(config(tmp_path / "d", split="x"), COLOUR, None, "train, test")
    library.DatasetDict({"all": parts["train"]}).save_to_disk(str(tmp_path / "one"))
    assert len(data.load(config(tmp_path / "one"), COLOUR, None)) == 3
    for name, part in parts.items():
        (tmp_path / "p").mkdir(exist_ok=True)
        part.to_parquet(str(tmp_path / "p" / f"{name}-0.parquet"))
    assert len(data.load(config(tmp_path / "p"), COLOUR, None)) == 5
    assert len(data.load(config(tmp_path / "p", split="test"), COLOUR, None)) == 2
    refused(config(tmp_path / "p", split="x"), COLOUR, None, "no .parquet files whose names begin with x")


def test_parquet_that_was_written_again_is_read_again(library: Any, tmp_path: Path) -> None:
    for count in (3, 2):
        library.Dataset.from_dict({"image": PICTURES[:count]}).to_parquet(str(tmp_path / "a.parquet"))
        assert len(data.load(config(tmp_path), COLOUR, None)) == count


ROWS: list[tuple[dict[str, Any], int | None, str]] = [
    ({"image": ["a.png", "b.png", "c.png"]}, None, "should be the bytes of a picture; got 'a.png'"),
    ({"image": [{"bytes": None, "path": "/etc/passwd"}] * 3}, None, "should be the bytes of a picture"),
    ({"image": [b"a", b"b", b"c"]}, None, "`image` 0: cannot be read as an image"),
    ({"image": [1, 2, 3]}, None, "should be the bytes of a picture; got 1"),
    ({"image": PICTURES, "label": [0, None, 1]}, 3, "`label` should be a whole number for each image"),
    ({"image": PICTURES, "label": [0.5, 1.0, 1.0]}, 3, "got double"),
    ({"image": PICTURES, "label": ["a", "b", "c"]}, 3, "got string"),
    ({"image": PICTURES, "label": [0, 1, 7]}, 3, "labels run from 0 to 7"),
    ({"image": PICTURES, "text": ["a", None, "c"]}, None, "`text` should be a text for each image"),
    ({"image": PICTURES, "text": [1, 2, 3]}, None, "`text` should be a text for each image; got int64"),
]


@pytest.mark.parametrize(("rows", "classes", "words"), ROWS, ids=[words for *_, words in ROWS])
def test_rows_that_are_refused(
    library: Any, tmp_path: Path, rows: dict[str, Any], classes: int | None, words: str
) -> None:
    library.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "d"))
    refused(config(tmp_path / "d"), COLOUR, classes, tmp_path / "d", words)


def damaged(change: Callable[[bytes], bytes]) -> Callable[[Any, Path], Path]:
    def make(library: Any, path: Path) -> Path:
        library.Dataset.from_dict({"image": PICTURES}).to_parquet(str(path / "a.parquet"))
        (path / "a.parquet").write_bytes(change((path / "a.parquet").read_bytes()))
        return path / "a.parquet"

    return make


def empty(library: Any, path: Path) -> Path:
    library.Dataset.from_dict({"image": []}).save_to_disk(str(path / "d"))
    return path / "d"


def cut_arrow(library: Any, path: Path) -> Path:
    library.Dataset.from_dict({"image": PICTURES}).save_to_disk(str(path / "d"))
    (file,) = (path / "d").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:200])
    return path / "d"


@pytest.mark.parametrize(
    "make",
    [damaged(lambda c: c[:100]), damaged(lambda c: b""), damaged(lambda c: c[:8] + bytes(len(c) - 16) + c[-8:]),
     cut_arrow, empty, lambda _library, path: path],
    ids=["cut", "empty", "zeros", "cut Arrow", "no rows", "an empty folder"],
)  # fmt: skip
def test_files_that_cannot_be_read(library: Any, tmp_path: Path, make: Callable[[Any, Path], Path]) -> None:
    path = make(library, tmp_path)
    with pytest.raises(DataError, match=r"cannot be read as a data set|holds no images") as caught:
        data.load(config(path), COLOUR, None)
    assert str(path) in str(caught.value) and len(caught.value.messages[0]) <= 1000
