"""Images in a folder."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from compress.data.dataset import Dataset
from compress.data.prompts import json_lines
from compress.errors import DataError, short
from compress.files import check_regular, raising
from compress.settings import Directory, Frozen

PIXELS = 2**26  # of one image: what is decoded is held in memory
METADATA = "metadata.jsonl"
BYTES = 2**30  # of it
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class Folder(Frozen):
    """A folder of images with one subfolder a class (sorted by name), or flat for an unconditional model.

    For a text-conditional model captions lie beside them, as Hugging Face's ImageFolder has them: a `metadata.jsonl` of
    lines like {"file_name": "1.png", "text": "a red apple"}.
    """

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
        if os.path.lexists(self.path / METADATA):
            names, texts = zip(*self._captions(), strict=True)
            return Dataset(self._images([self.path / name for name in names], shape), {}, texts)
        folders = sorted(p for p in self.path.iterdir() if p.is_dir() and not p.name.startswith("."))
        if labelled and not folders:
            raise DataError(f"{self.path}: has no subfolders; a class-conditional model needs one subfolder a class")
        files = [(file, label) for label, folder in enumerate(folders) for file in sorted(folder.rglob("*"))]
        files += [(file, 0) for file in sorted(self.path.iterdir()) if not labelled]
        files = [(file, label) for file, label in files if file.suffix.lower() in _SUFFIXES]
        if not files:
            raise DataError(f"{self.path}: holds no images ({', '.join(sorted(_SUFFIXES))})")
        labels = torch.tensor([label for _, label in files])
        return Dataset(self._images([file for file, _ in files], shape), {"class_labels": labels})

    def _images(self, files: Sequence[Path], shape: tuple[int, ...]) -> torch.Tensor:
        images = torch.empty(len(files), *shape)
        for i, file in enumerate(files):
            images[i] = torch.from_numpy(read_image(file, shape, self.resize))
        return images

    def _captions(self) -> list[tuple[str, str]]:
        """(path within the folder, caption) of every image that METADATA names. Raises DataError."""
        file, found = self.path / METADATA, []
        for where, row in json_lines(file, BYTES):
            name, text = (row.get(key) if isinstance(row, dict) else None for key in ("file_name", "text"))
            if not isinstance(name, str) or not isinstance(text, str):
                raise DataError(f'{where}: should be like {{"file_name": "1.png", "text": "a red apple"}}')
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise DataError(f"{where}: {short(name)} leads out of the folder")
            found.append((name, text))
        if not found:
            raise DataError(f"{file}: names no images")
        return found


def read_image(file: Path, shape: tuple[int, ...], resize: bool | None = None) -> np.ndarray:
    """One image as float32 (c,h,w) in [-1, 1]. resize: None: nobody may ask for it. Raises DataError."""
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
            how = "scale it" if resize is None else "write `resize: true` under `data` to scale and crop"
            raise DataError(f"{file}: is {image.height}×{image.width}; the model takes {height}×{width} ({how})")
        scale = max(width / image.width, height / image.height)
        size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        image = image.resize(size, Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))
    pixels = np.asarray(image, dtype=np.float32) / 127.5 - 1
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
