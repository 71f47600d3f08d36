"""What the tests of data share."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compress import data
from compress.data import Dataset, Folder, Npz
from compress.errors import DataError

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


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def images(count: int = 3) -> np.ndarray:
    return np.zeros((count, 8, 8), dtype=np.float32)
