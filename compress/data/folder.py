"""Images in a folder."""

import os
from array import array
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from compress.data.dataset import Dataset
from compress.data.pictures import SUFFIXES, check_shape, pictures, read_image
from compress.data.prompts import json_lines
from compress.data.texts import Packed
from compress.errors import DataError, short
from compress.files import raising, walk
from compress.settings import Directory, Frozen

METADATA = "metadata.jsonl"
BYTES = 2**32  # of it


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
        if not self.path.is_dir():
            raise DataError(f"{self.path}: no such folder of images")
        check_shape(self.path, shape)  # before a million files are listed
        files, texts, labels = Packed(), Packed(), array("q")
        captioned = os.path.lexists(self.path / METADATA)
        with raising(DataError, self.path):
            if captioned:
                for name, text in self._captions():
                    files.add(name)
                    texts.add(text)
            else:
                for name, label in self._files("class_labels" in conditions):
                    files.add(name)
                    labels.append(label)
        if not files:
            none = f"holds no images ({', '.join(sorted(SUFFIXES))})"
            raise DataError(f"{self.path / METADATA}: names no images" if captioned else f"{self.path}: {none}")
        images = pictures(self.path, len(files), shape, lambda i: read_image(self.path / files[i], shape, self.resize))
        if captioned:
            return Dataset(images, {}, texts)
        return Dataset(images, {"class_labels": torch.from_numpy(np.array(labels, np.int64))})

    def _files(self, labelled: bool) -> Iterator[tuple[str, int]]:
        """(path within the folder, number of its subfolder) of every image. Raises DataError."""
        folders = sorted(p for p in self.path.iterdir() if p.is_dir() and not p.name.startswith("."))
        if labelled and not folders:
            raise DataError(f"{self.path}: has no subfolders; a class-conditional model needs one subfolder a class")
        for label, folder in enumerate(folders):
            for entry in walk(folder):
                if Path(entry.name).suffix.lower() in SUFFIXES:
                    yield os.path.relpath(entry.path, self.path), label
        if not labelled:
            yield from ((p.name, 0) for p in sorted(self.path.iterdir()) if p.suffix.lower() in SUFFIXES)

    def _captions(self) -> Iterator[tuple[str, str]]:
        """(path within the folder, caption) of every image that METADATA names. Raises DataError."""
        file = self.path / METADATA
        for where, row in json_lines(file, BYTES):
            name, text = (row.get(key) if isinstance(row, dict) else None for key in ("file_name", "text"))
            if not isinstance(name, str) or not isinstance(text, str):
                raise DataError(f'{where}: should be like {{"file_name": "1.png", "text": "a red apple"}}')
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise DataError(f"{where}: {short(name)} leads out of the folder")
            yield name, text
