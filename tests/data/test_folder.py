"""Pictures: what is read, and what is refused by name."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress import data
from tests.data.helpers import COLOUR, GREY, folder, png_chunk, refused, write_image


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
