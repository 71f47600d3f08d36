"""Images in .tar shards, as WebDataset has them."""

from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from compress.data.dataset import Dataset
from compress.data.pictures import decode, pictures
from compress.data.shards import NONE, Shards
from compress.data.texts import Texts
from compress.errors import DataError
from compress.files import raising, walk
from compress.settings import Existing, Frozen

_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")  # what is packed is refused by its name


class WebDataset(Frozen):
    """A .tar file, or a folder of them: 0001.png with its class in 0001.cls or its caption in 0001.txt, and so on.

    Where those are missing, `label`, `text` or `caption` of 0001.json are taken. Shards are read in the order of their
    names, and as they lie: packed ones (.tar.gz) are refused.
    """

    source: Literal["webdataset"]
    path: Existing
    resize: bool = Field(False, description="scale and centre-crop images that have another size than the model's")

    def read(self, shape: tuple[int, ...], conditions: Collection[str]) -> Dataset:
        """All images, one shard after the other, with labels where they are asked for, and captions."""
        shards = Shards(self._files())

        def read(i: int) -> np.ndarray:
            shard, row = shards.at(i)
            return decode(shard.image(row), f"{shard.file}: {shard.name(row)}", shape, self.resize)

        images, found = pictures(self.path, len(shards), shape, read), {}
        if "class_labels" in conditions:
            found["class_labels"] = torch.from_numpy(self._all(shards, 2, "label, a whole number", "cls"))
        captioned = shards.column(4) != NONE
        if not captioned.any():
            return Dataset(images, found)
        if "encoder_hidden_states" in conditions:
            self._all(shards, 4, "caption", "txt")
        return Dataset(images, found, Texts(len(shards), lambda i: self._text(shards, i)) if captioned.all() else ())

    def _files(self) -> list[Path]:
        if not self.path.is_dir():
            return [self.path]
        with raising(DataError, self.path):
            files = [Path(entry.path) for entry in walk(self.path) if entry.name.lower().endswith(_SUFFIXES)]
        if not files:
            raise DataError(f"{self.path}: holds no .tar files")
        return files

    def _all(self, shards: Shards, column: int, what: str, kind: str) -> np.ndarray:
        """A column that no sample lacks."""
        found = shards.column(column)
        if (lacking := np.flatnonzero(found == NONE)).size:
            where = shards.where(int(lacking[0]))
            raise DataError(f"{where}: has no {what}, as {lacking.size:,} of {len(found):,}; put a .{kind} beside it")
        return found

    @staticmethod
    def _text(shards: Shards, i: int) -> str:
        shard, row = shards.at(i)
        return shard.text(row) or ""
