"""Images in a folder."""

from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from compress.data.dataset import Dataset
from compress.errors import DataError
from compress.files import check_regular, raising
from compress.settings import Directory, Frozen

PIXELS = 2**26  # of one image: what is decoded is held in memory
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class Folder(Frozen):
    """A folder of images with one subfolder a class (sorted by name), or flat for an unconditional model."""

    source: Literal["folder"]
    path: Directory
    resize: bool = Field(False, description="scale and centre-crop images that have another size than the model's")

    def read(self, shape: tuple[int, ...], conditions: Collection[str]) -> Dataset:
        """All images, one after the other, and the numbers of their subfolders."""
        labelled = "class_labels" in conditions
        if not self.path.is_dir():
            raise DataError(f"{self.path}: no such folder of images")
        if len(shape) != 3:
            raise DataError(f"data: {self.path}: holds pictures; samples of the model are {list(shape)}: give an .npz")
        folders = sorted(p for p in self.path.iterdir() if p.is_dir() and not p.name.startswith("."))
        if labelled and not folders:
            raise DataError(f"{self.path}: has no subfolders; a class-conditional model needs one subfolder a class")
        files = [(file, label) for label, folder in enumerate(folders) for file in sorted(folder.rglob("*"))]
        files += [(file, 0) for file in sorted(self.path.iterdir()) if not labelled]
        files = [(file, label) for file, label in files if file.suffix.lower() in _SUFFIXES]
        if not files:
            raise DataError(f"{self.path}: holds no images ({', '.join(sorted(_SUFFIXES))})")
        images = torch.empty(len(files), *shape)
        for i, (file, _) in enumerate(files):
            images[i] = torch.from_numpy(_image(file, shape, self.resize))
        return Dataset(images, {"class_labels": torch.tensor([label for _, label in files])})


def _image(file: Path, shape: tuple[int, ...], resize: bool) -> np.ndarray:
    """One image as float32 (c,h,w) in [-1, 1]."""
    if shape[0] not in (1, 3):
        raise DataError(f"{file}: the model takes {shape[0]} channels (latents?); give it an .npz of `images` instead")
    channels, height, width = shape
    with raising(DataError, file):
        check_regular(file)
    try:
        with Image.open(file, formats=_FORMATS) as opened:
            if opened.width * opened.height > PIXELS:
                raise Image.DecompressionBombError
            deep = opened.mode.startswith("I;16")  # convert() would clip 16 bits, not scale them
            image = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8)) if deep else opened
            image = image.convert("L" if channels == 1 else "RGB")
    except Image.DecompressionBombError:
        raise DataError(f"{file}: holds more than {PIXELS:,} pixels, the most that are read; scale it down") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as an image: {error}") from None
    if image.size != (width, height):
        if not resize:
            raise DataError(
                f"{file}: is {image.height}×{image.width}; the model takes {height}×{width} "
                "(write `resize: true` under `data` to scale and crop)"
            )
        scale = max(width / image.width, height / image.height)
        size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        image = image.resize(size, Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))
    pixels = np.asarray(image, dtype=np.float32) / 127.5 - 1
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
