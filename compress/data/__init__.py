"""Images and their conditions: one file a source, its settings and how it is read; `DataConfig` lists them.

A batch is a pure function of (seed, step), so training can be resumed. What does not fit into memory is read when a
batch asks for it. Imports `settings`, `randomness`, folders, files and errors. Start reading here, then with
`dataset.py` and `items.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field

from compress.data.ahead import ahead
from compress.data.arrays import KEYS, finite, key, read_embeddings, read_npy, read_npz
from compress.data.dataset import HELD_OUT, Batch, Dataset, fitting
from compress.data.datasets import Datasets
from compress.data.digits import Digits
from compress.data.folder import Folder
from compress.data.items import Items, chosen
from compress.data.kept import kept
from compress.data.npz import Npz
from compress.data.prompts import read_asked, read_prompts
from compress.data.teacher import FromTeacher
from compress.data.webdataset import WebDataset
from compress.errors import DataError

__all__ = [
    "HELD_OUT", "PICTURES", "Batch", "DataConfig", "Dataset", "Datasets", "Digits", "Folder", "FromTeacher", "Items",
    "Npz", "WebDataset", "ahead", "chosen", "finite", "fitting", "kept", "key", "load", "read_asked", "read_embeddings",
    "read_npy", "read_npz", "read_prompts",
]  # fmt: skip

PICTURES = (Folder, WebDataset, Datasets)  # sources of them alone: where the model draws latents, they are encoded
Source = Digits | Folder | Npz | WebDataset | Datasets
DataConfig = Annotated[Source | FromTeacher, Field(discriminator="source")]


def load(
    config: Source,
    shape: tuple[int, ...],
    classes: int | None,
    embeddings: Mapping[str, tuple[int, ...]] | None = None,
    encode: Callable[[Sequence[str]], Mapping[str, Items]] | None = None,
) -> Dataset:
    """What a model uses of a source. shape: of its samples; classes: how many labels it has; None: it takes none.

    embeddings: the conditions of real numbers that the model takes, with the shape of one; None: whatever there is.
    encode: what makes conditions of texts, by their names.

    Raises DataError if something is missing, unreadable, of the wrong shape or out of range. Of pictures that do not
    fit into memory the first alone is read now.
    """
    wanted = KEYS if embeddings is None else embeddings
    named = [name for name in wanted if name != "class_labels"]
    read = named if classes is None else ["class_labels", *named]
    dataset, where = config.read(shape, read), f"data: {getattr(config, 'path', config.source)}"
    if tuple(dataset.images.shape[1:]) != shape:
        found, asked = ("×".join(map(str, sizes)) for sizes in (dataset.images.shape[1:], shape))
        raise DataError(f"{where}: images are {found} (channels×height×width); the model takes {asked}")
    if not torch.isfinite(dataset.images if isinstance(dataset.images, torch.Tensor) else dataset.images[:1]).all():
        raise DataError(f"{where}: images hold NaN or infinity")
    used = {name: value for name, value in dataset.conditions.items() if name in named}
    if dataset.texts and encode is not None and "encoder_hidden_states" in set(embeddings or ()) - set(used):
        used = {name: value for name, value in encode(dataset.texts).items() if name in named} | used
    for name, one in (embeddings or {}).items():
        if name not in used:
            raise DataError(f"{where}: has no {key(name)}, which the model takes; add them to an .npz")
        count, *sizes = used[name].shape
        if tuple(sizes) != one and not (len(sizes) == len(one) == 2 and sizes[1] == one[1]):  # a text of any length
            raise DataError(f"{where}: {key(name)} should be {['n', *one]}; got {[count, *sizes]}")
    if classes is None:
        return Dataset(dataset.images, used, dataset.texts)
    labels = dataset.labels
    if labels is None:
        raise DataError(f"{where}: has no labels, and the model is class-conditional; add them, or use source: teacher")
    first, last = int(labels.min()), int(labels.max())
    if first < 0 or last >= classes:
        raise DataError(f"{where}: labels run from {first} to {last}; the model has the classes 0…{classes - 1}")
    return Dataset(dataset.images, {"class_labels": labels, **used}, dataset.texts)
