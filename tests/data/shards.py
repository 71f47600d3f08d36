"""Shards that tests read."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from compress.data import WebDataset


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def pixels(count: int, seed: int = 0) -> np.ndarray:
    """Pictures uint8 [n,8,8,3], each another."""
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def write_tar(file: Path, members: Mapping[str, bytes], mode: str = "w") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as opened:  # type: ignore[call-overload]
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            opened.addfile(about, io.BytesIO(content))
    return file


def samples(pictures: np.ndarray, start: int = 0) -> dict[str, bytes]:
    """Members of a shard: pictures with their numbers as classes, and captions."""
    found: dict[str, bytes] = {}
    for i, one in enumerate(pictures, start):
        found |= {f"{i:04d}.png": png(one), f"{i:04d}.cls": b"%d" % (i % 3), f"{i:04d}.txt": f"number {i} · é".encode()}
    return found


def webdataset(path: Path, resize: bool = False) -> WebDataset:
    return WebDataset(source="webdataset", path=path, resize=resize)
