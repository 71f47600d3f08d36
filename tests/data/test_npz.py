"""Images in arrays: what is read, and what is refused by name."""

from pathlib import Path

import numpy as np
import pytest
import torch

from compress import data
from compress.data import Npz
from tests.data.helpers import COLOUR, GREY, images, refused, write_npz


def test_npz_layouts_agree(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    layouts = {"nhw": pixels, "nhwc": pixels[..., None], "nchw": pixels[:, None]}
    labels = np.arange(5)
    wanted = torch.from_numpy(pixels[:, None].astype(np.float32) / 127.5 - 1)
    for name, layout in layouts.items():
        dataset = data.load(write_npz(tmp_path / f"{name}.npz", images=layout, labels=labels), GREY, 5)
        torch.testing.assert_close(dataset.images, wanted)
        assert dataset.conditions["class_labels"].tolist() == [0, 1, 2, 3, 4]
        assert dataset.conditions["class_labels"].dtype == torch.int64


def test_npz_colour_layouts_agree(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    last = data.load(write_npz(tmp_path / "last.npz", images=pixels), COLOUR, None)
    first = data.load(write_npz(tmp_path / "first.npz", images=pixels.transpose(0, 3, 1, 2)), COLOUR, None)
    assert torch.equal(last.images, first.images)
    assert torch.equal(last.images[0, :, 1, 2], torch.from_numpy(pixels[0, 1, 2].astype(np.float32) / 127.5 - 1))


@pytest.mark.parametrize("size", [1, 3])
def test_npz_of_images_as_wide_as_they_have_channels(tmp_path: Path, size: int) -> None:
    pixels = np.random.default_rng(0).random((4, size, 2, size), dtype=np.float32)
    dataset = data.load(write_npz(tmp_path / "d.npz", images=pixels), (size, 2, size), None)
    assert torch.equal(dataset.images, torch.from_numpy(pixels))


def test_npz_range_of_uint8(tmp_path: Path) -> None:
    images = np.array([0, 255], dtype=np.uint8)[:, None, None] * np.ones((2, 8, 8), dtype=np.uint8)
    dataset = data.load(write_npz(tmp_path / "d.npz", images=images), GREY, None)
    assert dataset.images[:, 0, 0, 0].tolist() == [-1, 1]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_npz_floats_are_taken_as_they_are(tmp_path: Path, dtype: type) -> None:
    images = np.full((3, 4, 8, 8), 2.5, dtype=dtype)
    dataset = data.load(write_npz(tmp_path / "d.npz", images=images), (4, 8, 8), None)
    assert dataset.images.dtype == torch.float32
    assert dataset.images.unique().tolist() == [2.5]


def test_npz_embeddings_become_conditions(tmp_path: Path) -> None:
    embeddings = np.random.default_rng(0).random((3, 5, 12))
    config = write_npz(tmp_path / "d.npz", images=np.zeros((3, 8, 8), np.float32), embeddings=embeddings)
    conditions = data.load(config, GREY, None).conditions
    assert set(conditions) == {"encoder_hidden_states"}
    torch.testing.assert_close(conditions["encoder_hidden_states"], torch.from_numpy(embeddings).float())


def test_npz_labels_are_left_out_for_a_model_without_classes(tmp_path: Path) -> None:
    config = write_npz(tmp_path / "d.npz", images=np.zeros((3, 8, 8), np.float32), labels=np.arange(3))
    assert data.load(config, GREY, None).conditions == {}


@pytest.mark.parametrize(
    ("arrays", "classes", "mention"),
    [
        ({}, None, "images"),
        ({"pictures": images()}, None, "pictures"),
        ({"images": images()[0]}, None, "[8, 8]"),
        ({"images": np.float32(3)}, None, "[]"),
        ({"images": images(0)}, None, "[0, 8, 8"),
        ({"images": np.zeros((2, 2, 1, 8, 8), np.float32)}, None, "[2, 2, 1, 8, 8]"),
        ({"images": np.zeros((2, 16, 8), np.float32)}, None, "1×16×8"),
        ({"images": np.zeros((2, 8, 8, 4), np.float32)}, None, "8×8×4"),
        ({"images": images().astype(np.int32)}, None, "int32"),
        ({"images": images().astype(bool)}, None, "bool"),
        ({"images": images().astype(complex)}, None, "complex"),
        ({"images": images().astype(str)}, None, "<U"),
        ({"images": images() + np.nan}, None, "NaN"),
        ({"images": images() - np.inf}, None, "infinity"),
        ({"images": images()}, 3, "no labels"),
        ({"images": images(), "labels": np.arange(4)}, 4, "3 images but 4 labels"),
        ({"images": images(), "labels": np.arange(3)}, 2, "0 to 2"),
        ({"images": images(), "labels": np.arange(3) - 1}, 3, "-1 to 1"),
        ({"images": images(), "labels": np.arange(3.0)}, 3, "float64"),
        ({"images": images(), "labels": np.array(["a", "b", "c"])}, 3, "`labels` holds <U1"),
        ({"images": images(), "labels": np.zeros((3, 1), int)}, 3, "(3, 1)"),
        ({"images": images(), "labels": np.int64(1)}, 3, "labels"),
        ({"images": images(), "embeddings": np.zeros((2, 5, 12))}, None, "3 images but 2 embeddings"),
        ({"images": images(), "embeddings": np.array(["a", "b", "c"])}, None, "embeddings"),
        ({"images": images(), "embeddings": np.zeros((3, 5, 12)) + np.nan}, None, "embeddings"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_npz_that_does_not_fit(tmp_path: Path, arrays: dict, classes: int | None, mention: str) -> None:
    config = write_npz(tmp_path / "d.npz", **arrays)
    refused(config, GREY, classes, tmp_path / "d.npz", mention)


def test_missing_npz(tmp_path: Path) -> None:
    refused(Npz(source="npz", path=tmp_path / "absent.npz"), GREY, None, tmp_path / "absent.npz")


def test_a_folder_is_no_npz(tmp_path: Path) -> None:
    refused(Npz(source="npz", path=tmp_path), GREY, None, tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"garbage" * 100, b"\x93NUMPY"])
def test_file_that_is_no_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    refused(Npz(source="npz", path=tmp_path / "d.npz"), GREY, None, tmp_path / "d.npz")


def test_npy_in_place_of_npz(tmp_path: Path) -> None:
    with (tmp_path / "d.npz").open("wb") as stream:
        np.save(stream, images())
    refused(Npz(source="npz", path=tmp_path / "d.npz"), GREY, None, tmp_path / "d.npz")


class Malicious:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.mkdir, (self.file,)


@pytest.mark.parametrize("key", ["images", "labels"])
def test_pickled_objects_in_npz_are_refused_and_not_run(tmp_path: Path, key: str) -> None:
    arrays = {"images": images(1), "labels": np.zeros(1, int)}
    arrays[key] = np.array([Malicious(tmp_path / "owned")], dtype=object)
    refused(write_npz(tmp_path / "d.npz", **arrays), GREY, 1, tmp_path / "d.npz")
    assert not (tmp_path / "owned").exists()


def test_npz_of_samples_that_are_no_pictures(tmp_path: Path) -> None:
    sounds = np.random.default_rng(0).random((4, 2, 16), dtype=np.float32)
    dataset = data.load(write_npz(tmp_path / "d.npz", images=sounds), (2, 16), None)
    assert torch.equal(dataset.images, torch.from_numpy(sounds))
