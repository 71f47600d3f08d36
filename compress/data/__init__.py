"""Images and their conditions: one file a source, its settings and how it is read; `DataConfig` lists them.

A batch is a pure function of (seed, step), so training can be resumed. Imports `settings`, `randomness`, files and
errors. Start reading with `dataset.py`.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from compress.data.arrays import KEYS, read_embeddings, read_npy, read_npz
from compress.data.dataset import HELD_OUT, Batch, Dataset, fitting
from compress.data.digits import Digits
from compress.data.folder import Folder
from compress.data.npz import Npz
from compress.data.teacher import FromTeacher

__all__ = [
    "HELD_OUT", "KEYS", "Batch", "DataConfig", "Dataset", "Digits", "Folder", "FromTeacher", "Npz", "load",
    "read_embeddings", "read_npy", "read_npz",
]  # fmt: skip

Source = Digits | Folder | Npz
DataConfig = Annotated[Source | FromTeacher, Field(discriminator="source")]


def load(
    config: Source,
    shape: tuple[int, ...],
    classes: int | None,
    embeddings: Mapping[str, tuple[int, ...]] | None = None,
) -> Dataset:
    """Read a source for a model of sample shape (c,h,w) with `classes` labels (None: takes no label).

    embeddings: the conditions of real numbers that the model takes, with the shape of one; None: whatever there is.

    Raises DataError if something is missing, unreadable, of the wrong shape or out of range.
    """
    found = config.read(shape, labelled=classes is not None)
    return fitting(found, shape, classes, embeddings, f"data: {getattr(config, 'path', config.source)}")
