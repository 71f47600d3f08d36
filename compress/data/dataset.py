"""Images with their conditions, batches of them, and whether they fit a model."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from compress.data.arrays import KEYS
from compress.errors import DataError
from compress.randomness import Draw, generator

HELD_OUT = 0.2  # share of the images that no training ever sees
SPLIT_SEED = 0


@dataclass(frozen=True)
class Batch:
    """images: float32 [b,c,h,w]. conditions: name → [b,...]."""

    images: torch.Tensor
    conditions: Mapping[str, torch.Tensor]

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.images.to(device), {name: value.to(device) for name, value in self.conditions.items()})


@dataclass(frozen=True)
class Dataset(Batch):
    """All images (pixels in [-1, 1]) and conditions of a source."""

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: torch.Tensor) -> Batch:
        """The items at `index` int64 [b]."""
        return Batch(self.images[index], {name: value[index] for name, value in self.conditions.items()})

    def batch(self, size: int, *key: int | str) -> Batch:
        """`size` items drawn with replacement, determined by `key`: (seed, a Draw, further numbers)."""
        return self.take(torch.randint(len(self), (size,), generator=generator(*key, Draw.ITEMS)))

    def split(self) -> tuple["Dataset", "Dataset"]:
        """(training, held-out) parts, stratified by label where there are labels; always the same."""
        labels = self.conditions.get("class_labels")
        counts = torch.tensor([len(self)]) if labels is None else labels.unique(return_counts=True)[1]
        stratify = None if labels is None or counts.min() < 2 else labels.numpy()
        if len(self) * HELD_OUT < (1 if stratify is None else len(counts)) or len(self) < 2:
            return self, self  # too few images to hold any back
        parts = train_test_split(np.arange(len(self)), test_size=HELD_OUT, random_state=SPLIT_SEED, stratify=stratify)
        train, held_out = (self.take(torch.from_numpy(np.sort(part))) for part in parts)
        return Dataset(train.images, train.conditions), Dataset(held_out.images, held_out.conditions)


def fitting(
    dataset: Dataset,
    shape: tuple[int, ...],
    classes: int | None,
    embeddings: Mapping[str, tuple[int, ...]] | None,
    where: str,
) -> Dataset:
    """The part of the data set that a model uses. Arguments as of `load`. Raises DataError if it does not fit."""
    if tuple(dataset.images.shape[1:]) != shape:
        found, wanted = ("×".join(map(str, sizes)) for sizes in (dataset.images.shape[1:], shape))
        raise DataError(f"{where}: images are {found} (channels×height×width); the model takes {wanted}")
    if not torch.isfinite(dataset.images).all():
        raise DataError(f"{where}: images hold NaN or infinity")
    wanted_embeddings = KEYS if embeddings is None else embeddings
    used = {name: value for name, value in dataset.conditions.items() if name in wanted_embeddings}
    for name, one in (embeddings or {}).items():
        if name not in used:
            raise DataError(f"{where}: has no {KEYS[name]}, which the model takes; add them to an .npz")
        sizes = tuple(used[name].shape)
        if len(sizes) != 1 + len(one) or (one and sizes[-1] != one[-1]):
            raise DataError(f"{where}: {KEYS[name]} should be {['n', *one]}; got {list(sizes)}")
    if classes is None:
        return Dataset(dataset.images, used)
    labels = dataset.conditions.get("class_labels")
    if labels is None:
        raise DataError(f"{where}: has no labels, and the model is class-conditional; add them, or use source: teacher")
    first, last = int(labels.min()), int(labels.max())
    if first < 0 or last >= classes:
        raise DataError(f"{where}: labels run from {first} to {last}; the model has the classes 0…{classes - 1}")
    return Dataset(dataset.images, {"class_labels": labels, **used})
