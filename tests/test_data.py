"""Images and labels: what is read, what is drawn in a step, and what is refused by name."""

import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compress import data
from compress.data import Dataset, Digits, Folder, Npz
from compress.errors import DataError
from compress.randomness import generator

GREY = (1, 8, 8)
COLOUR = (3, 8, 8)


def numbered(count: int, classes: int | None = 10) -> Dataset:
    """Images that hold their own number."""
    images = torch.arange(count).float()[:, None, None, None].expand(count, 1, 2, 2).contiguous()
    return Dataset(images, {} if classes is None else {"class_labels": torch.arange(count) % classes})


def numbers(batch: data.Batch) -> list[int]:
    return [int(value) for value in batch.images[:, 0, 0, 0]]


def write_image(path: Path, colour: Any = 255, mode: str = "L", size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def write_npz(path: Path, **arrays: Any) -> Npz:
    np.savez(path, **arrays)
    return Npz(source="npz", path=path)


def folder(path: Path, **settings: Any) -> Folder:
    return Folder(source="folder", path=path, **settings)


def refused(config: Any, shape: tuple[int, int, int], classes: int | None, *mentions: str | Path) -> None:
    with pytest.raises(DataError) as caught:
        data.load(config, shape, classes)
    for mention in mentions:
        assert str(mention) in str(caught.value)


# Randomness.


@given(seed=st.integers(0, 2**31 - 1), step=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_batch_is_a_function_of_seed_and_step(seed: int, step: int) -> None:
    dataset = numbered(1000)
    first = dataset.batch(32, seed, step)
    torch.rand(3)
    dataset.batch(7, seed + 1, step)
    again = numbered(1000).batch(32, seed, step)
    assert numbers(first) == numbers(again)


def test_batch_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    wanted = torch.rand(2)
    torch.manual_seed(0)
    numbered(1000).batch(32, 5, 5)
    assert torch.equal(torch.rand(2), wanted)


def test_different_steps_and_seeds_give_different_batches() -> None:
    dataset = numbered(1000)
    batches = {tuple(numbers(dataset.batch(16, seed, step))) for seed in range(10) for step in range(10)}
    assert len(batches) == 100


def test_batches_over_many_steps_use_all_images() -> None:
    dataset = numbered(50)
    seen = {number for step in range(40) for number in numbers(dataset.batch(16, 0, step))}
    assert seen == set(range(50))


def test_batch_keeps_images_and_conditions_together() -> None:
    batch = numbered(100).batch(64, 0, 0)
    assert [number % 10 for number in numbers(batch)] == batch.conditions["class_labels"].tolist()


def test_batch_may_be_larger_than_the_data() -> None:
    assert len(numbers(numbered(3).batch(64, 0, 0))) == 64


def test_generators_of_close_keys_are_unrelated() -> None:
    keys = [(0,), (1,), (0, 0), (0, 1), (1, 0), (10,), (0, 0, 0)]
    drawn = torch.stack([torch.randn(2000, generator=generator(*key)) for key in keys])
    correlation = torch.corrcoef(drawn) - torch.eye(len(keys))
    assert correlation.abs().max() < 0.1


# The split.


@pytest.mark.parametrize("classes", [None, 10])
def test_split_is_disjoint_and_complete(classes: int | None) -> None:
    train, held_out = (numbers(part) for part in numbered(200, classes).split())
    assert sorted(train + held_out) == list(range(200))
    assert len(held_out) == 40


def test_split_is_always_the_same() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = [numbers(part) for part in numbered(200).split()]
    torch.manual_seed(2)
    np.random.seed(2)
    assert [numbers(part) for part in numbered(200).split()] == first


def test_split_is_stratified() -> None:
    labels = torch.tensor([0] * 150 + [1] * 40 + [2] * 10)
    dataset = Dataset(torch.zeros(200, 1, 2, 2), {"class_labels": labels})
    train, held_out = dataset.split()
    assert torch.bincount(held_out.conditions["class_labels"]).tolist() == [30, 8, 2]
    assert torch.bincount(train.conditions["class_labels"]).tolist() == [120, 32, 8]


def test_split_keeps_images_and_labels_together() -> None:
    for part in numbered(200).split():
        assert [number % 10 for number in numbers(part)] == part.conditions["class_labels"].tolist()


@pytest.mark.parametrize(("count", "classes"), [(1, None), (2, None), (3, 3), (20, 10), (12, 5), (5, None)])
def test_split_of_few_images_leaves_none_empty(count: int, classes: int | None) -> None:
    train, held_out = numbered(count, classes).split()
    assert len(train) and len(held_out)


def test_split_with_a_label_that_appears_once() -> None:
    labels = torch.tensor([0] * 30 + [1] * 19 + [7])
    train, held_out = Dataset(torch.zeros(50, 1, 2, 2), {"class_labels": labels}).split()
    assert (len(train), len(held_out)) == (40, 10)


# Digits.


def test_digits() -> None:
    dataset = data.load(Digits(source="digits"), (1, 16, 16), 10)
    assert dataset.images.shape == (1797, 1, 16, 16)
    assert dataset.images.dtype == torch.float32
    assert dataset.images.min() == -1 and 0.9 < dataset.images.max() <= 1
    assert sorted(set(dataset.conditions["class_labels"].tolist())) == list(range(10))


def test_digits_for_an_unconditional_model_carry_no_labels() -> None:
    assert data.load(Digits(source="digits"), (1, 16, 16), None).conditions == {}


def test_digits_of_a_wrong_size() -> None:
    refused(Digits(source="digits"), (1, 32, 32), 10, "digits", "1×16×16", "1×32×32")


# Folders.


def test_subfolders_are_labels_in_sorted_order(tmp_path: Path) -> None:
    for name, value in (("pear", 255), ("apple", 0), ("fig", 128)):
        write_image(tmp_path / name / "1.png", value)
    write_image(tmp_path / "apple" / "2.png", 0)
    dataset = data.load(folder(tmp_path), GREY, 3)
    assert dataset.conditions["class_labels"].tolist() == [0, 0, 1, 2]
    expected = [-1.0, -1.0, 128 / 127.5 - 1, 1.0]
    torch.testing.assert_close(dataset.images[:, 0, 0, 0], torch.tensor(expected))


def test_flat_folder_for_an_unconditional_model(tmp_path: Path) -> None:
    for name, value in (("b.png", 255), ("a.png", 0)):
        write_image(tmp_path / name, value)
    dataset = data.load(folder(tmp_path), GREY, None)
    assert dataset.conditions == {}
    assert dataset.images[:, 0, 0, 0].tolist() == [-1, 1]


def test_other_files_and_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.PNG", 0)
    write_image(tmp_path / ".cache" / "1.png", 255)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    dataset = data.load(folder(tmp_path), GREY, 1)
    assert len(dataset) == 1


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_image_formats(tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / "a" / f"1.{suffix}", (255, 0, 0), "RGB")
    pixel = data.load(folder(tmp_path), COLOUR, 1).images[0, :, 4, 4]
    torch.testing.assert_close(pixel, torch.tensor([1.0, -1.0, -1.0]), atol=0.03, rtol=0)


def test_colour_image_for_a_grey_model_and_the_reverse(tmp_path: Path) -> None:
    write_image(tmp_path / "rgb" / "a" / "1.png", (255, 255, 255), "RGB")
    write_image(tmp_path / "grey" / "a" / "1.png", 0, "L")
    assert data.load(folder(tmp_path / "rgb"), GREY, 1).images.unique().tolist() == [1]
    grey = data.load(folder(tmp_path / "grey"), COLOUR, 1).images
    assert grey.shape == (1, *COLOUR) and grey.unique().tolist() == [-1]


def test_sixteen_bit_image_keeps_its_brightness(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((8, 8), 32768, dtype=np.uint16)).save(tmp_path / "a" / "1.png")
    pixel = data.load(folder(tmp_path), GREY, 1).images.mean()
    assert abs(float(pixel)) < 0.05


def test_channels_and_rows_are_not_mixed_up(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    image[1, 2] = (255, 0, 0)
    (tmp_path / "a").mkdir()
    Image.fromarray(image).save(tmp_path / "a" / "1.png")
    loaded = data.load(folder(tmp_path), COLOUR, 1).images[0]
    assert (loaded == 1).nonzero().tolist() == [[0, 1, 2]]


def test_resize_scales_and_crops_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((16, 64), dtype=np.uint8)
    pixels[:, 24:40] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "1.png")
    images = data.load(folder(tmp_path, resize=True), GREY, 1).images
    assert images.shape == (1, *GREY)
    assert images[0, 0, :, 1:7].min() > 0.9


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (8, 9), (4, 3), (3, 4), (1, 1), (100, 3), (7, 200)])
def test_resize_from_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    write_image(tmp_path / "a" / "1.png", 255, size=size)
    images = data.load(folder(tmp_path, resize=True), (1, 8, 12), 1).images
    assert images.shape == (1, 1, 8, 12)
    assert images.unique().tolist() == [1]


def test_image_of_another_size_is_refused_without_resize(tmp_path: Path) -> None:
    file = write_image(tmp_path / "a" / "1.png", size=(10, 9))
    refused(folder(tmp_path), GREY, 1, file, "9×10", "8×8", "resize: true")


def test_missing_folder(tmp_path: Path) -> None:
    refused(folder(tmp_path / "absent"), GREY, 1, tmp_path / "absent")


@pytest.mark.parametrize("classes", [None, 2])
def test_empty_folder(tmp_path: Path, classes: int | None) -> None:
    refused(folder(tmp_path), GREY, classes, tmp_path)


def test_subfolders_without_images(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    refused(folder(tmp_path), GREY, 1, tmp_path, "holds no images")


def test_flat_folder_for_a_class_model(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png")
    refused(folder(tmp_path), GREY, 1, tmp_path, "subfolder")


def test_more_subfolders_than_classes(tmp_path: Path) -> None:
    for name in "abc":
        write_image(tmp_path / name / "1.png")
    refused(folder(tmp_path), GREY, 2, tmp_path, "0 to 2", "0…1")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_unreadable_image(tmp_path: Path, content: bytes) -> None:
    write_image(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "2.png").write_bytes(content)
    refused(folder(tmp_path), GREY, 1, tmp_path / "a" / "2.png")


def test_truncated_image(tmp_path: Path) -> None:
    file = tmp_path / "a" / "1.png"
    file.parent.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:2000])
    refused(folder(tmp_path, resize=True), COLOUR, 1, file)


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def test_image_damaged_in_the_middle(tmp_path: Path) -> None:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    pixels = zlib.compress(b"\0" * 72)
    middle = png_chunk(b"IDAT", pixels[:5]) + png_chunk(b"\x01\x02\x03\x04", pixels[5:])
    file = tmp_path / "a" / "1.png"
    file.parent.mkdir()
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + header + middle + png_chunk(b"IEND", b""))
    refused(folder(tmp_path), GREY, 1, file)


def test_folder_for_a_latent_model(tmp_path: Path) -> None:
    file = write_image(tmp_path / "1.png")
    refused(folder(tmp_path), (4, 8, 8), None, file, "4 channels", ".npz")


# Arrays.


def test_npz_layouts_agree(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    layouts = {"nhw": pixels, "nhwc": pixels[..., None], "nchw": pixels[:, None]}
    labels = np.arange(5)
    wanted = torch.from_numpy(pixels[:, None].astype(np.float32) / 127.5 - 1)
    for name, images in layouts.items():
        dataset = data.load(write_npz(tmp_path / f"{name}.npz", images=images, labels=labels), GREY, 5)
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


def images(count: int = 3) -> np.ndarray:
    return np.zeros((count, 8, 8), dtype=np.float32)


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


# Files made to break their reader.


@pytest.mark.parametrize("resize", [False, True])
def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path: Path, resize: bool) -> None:
    for name, side in (("a.png", 12_000), ("b.png", 30_000)):
        start = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        content = (
            b"\x89PNG\r\n\x1a\n" + start + png_chunk(b"IDAT", zlib.compress(b"\0" * 10**6)) + png_chunk(b"IEND", b"")
        )
        (tmp_path / name).write_bytes(content)
        refused(folder(tmp_path, resize=resize), GREY, None, tmp_path / name, "more than 67,108,864 pixels")
        (tmp_path / name).unlink()


def test_a_pipe_or_a_folder_for_a_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    refused(folder(tmp_path), GREY, None, tmp_path / "a.png", "is a pipe")
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.png").mkdir()
    refused(folder(tmp_path), GREY, None, tmp_path / "a.png", "is a folder")


def test_a_picture_of_another_format_is_not_opened(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    refused(folder(tmp_path), GREY, None, tmp_path / "a.png", "cannot be read as an image")


def header(shape: str, kind: str = "'<f4'", version: bytes = b"\x01\x00") -> bytes:
    """The head of an .npy file, whatever it declares."""
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text


ARRAYS = [
    (header("(999999999, 999)"), "holds 999999999×999 numbers; at most 1,073,741,824 are read"),
    (header("(-1, 5)"), "numbers; at most"),
    (header("(3,)", "'|O'"), "holds object; only plain numbers are read"),
    (header("(3,)", "'<c8'"), "holds complex64; only plain numbers are read"),
    (header("(3,)", "'<M8[s]'"), "only plain numbers are read"),
    (header("(3,)", version=b"\x02\x00"), "something else than plain numbers"),
    (header("(1000000,)"), "cannot be read"),
    (header("(3,)")[:40], "cannot be read"),
    (b"", "cannot be read"),
]


@pytest.mark.parametrize(("content", "words"), ARRAYS, ids=[words for _, words in ARRAYS])
def test_an_array_that_is_not_read(tmp_path: Path, content: bytes, words: str) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as opened:
        opened.writestr("images.npy", content)
    refused(Npz(source="npz", path=tmp_path / "d.npz"), GREY, None, tmp_path / "d.npz", words)
    (tmp_path / "null.npy").write_bytes(content)
    with pytest.raises(DataError, match=f"null.npy: .*{words}"):
        data.read_npy(tmp_path / "null.npy")


def test_arrays_that_are_too_large_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "NUMBERS", 3 * 64 + 2)
    refused(write_npz(tmp_path / "d.npz", images=images(), labels=np.arange(3)), GREY, 3, "`labels` holds 3 numbers")


def test_a_compression_that_is_slow_to_undo(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_BZIP2) as opened:
        opened.writestr("images.npy", b"")
    refused(Npz(source="npz", path=tmp_path / "d.npz"), GREY, None, "compressed in a way that numpy does not write")


def test_a_pipe_for_arrays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(Npz(source="npz", path=tmp_path / "pipe"), GREY, None, tmp_path / "pipe", "is a pipe")
    with pytest.raises(DataError, match="is a pipe"):
        data.read_npy(tmp_path / "pipe")


@pytest.mark.parametrize("array", [np.array([1e300]), np.array([np.nan]), np.array([True]), np.zeros((0, 3))])
def test_numbers_that_float32_does_not_hold(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "null.npy", array)
    np.savez(tmp_path / "e.npz", embeddings=array)
    if array.size:
        with pytest.raises(DataError, match="should be finite floats"):
            data.read_npy(tmp_path / "null.npy")
    with pytest.raises(DataError, match="`embeddings`"):
        data.read_embeddings(tmp_path / "e.npz", "encoder_hidden_states")


def test_numbers_of_an_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "null.npy", np.arange(6.0).reshape(2, 3))
    found = data.read_npy(tmp_path / "null.npy")
    assert found.dtype == np.float32 and found.tolist() == [[0, 1, 2], [3, 4, 5]]
