"""Images with their conditions, and batches of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from compress.data.items import Items, chosen
from compress.data.texts import Texts
from compress.devices import send
from compress.randomness import Draw, generator

HELD_OUT = 0.2  # share of the images that no training ever sees
SPLIT_SEED = 0
IN_MEMORY = 2**31  # bytes of images, as float32, that may be held at once


def fitting(shape: Sequence[int]) -> int:
    """How many images of a shape may be held in memory at once; at least one."""
    return max(IN_MEMORY // (4 * math.prod(shape)), 1)


@dataclass(frozen=True)
class Batch:
    """images: float32 [b,c,h,w]. conditions: name → [b,...]."""

    images: torch.Tensor
    conditions: Mapping[str, torch.Tensor]

    def to(self, device: torch.device) -> "Batch":
        return Batch(send(self.images, device), {name: send(value, device) for name, value in self.conditions.items()})


@dataclass(frozen=True)
class Dataset:
    """All images (pixels in [-1, 1], or latents) and conditions of a source, in memory or not.

    texts: of each image, where it has one. What is not in memory may raise DataError when it is read.
    """

    images: Items
    conditions: Mapping[str, Items]
    texts: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> torch.Tensor | None:
        """The class of each image, int64 [n], where there are any."""
        return self.conditions["class_labels"][:] if "class_labels" in self.conditions else None

    def take(self, index: torch.Tensor) -> Batch:
        """The items at `index` int64 [b]."""
        return Batch(self.images[index], {name: value[index] for name, value in self.conditions.items()})

    def batch(self, size: int, *key: int | str) -> Batch:
        """`size` items drawn with replacement, determined by `key`: (seed, a Draw, further numbers)."""
        return self.take(torch.randint(len(self), (size,), generator=generator(*key, Draw.ITEMS)))

    def spread(self, most: int) -> "Dataset":
        """At most `most` items, from all over the data set; always the same."""
        return self if len(self) <= most else self._part(torch.arange(most) * len(self) // most)

    def held(self, most: int | None = None) -> Batch:
        """All items; of more than IN_MEMORY bytes of images, or more than `most`, as many of them, from all over it."""
        fit = fitting(self.images.shape[1:])
        some = self.spread(fit if most is None else min(fit, most))
        return Batch(some.images[:], {name: value[:] for name, value in some.conditions.items()})

    def split(self) -> tuple["Dataset", "Dataset"]:
        """(training, held-out) parts, stratified by label where there are labels; always the same."""
        parts = [self._part(index) for index in self._places]
        return (parts[0], parts[1]) if parts else (self, self)  # too few images to hold any back

    @cached_property
    def _places(self) -> list[torch.Tensor]:
        labels = self.labels
        counts = torch.tensor([len(self)]) if labels is None else labels.unique(return_counts=True)[1]
        stratify = None if labels is None or counts.min() < 2 else labels.numpy()
        if len(self) * HELD_OUT < (1 if stratify is None else len(counts)) or len(self) < 2:
            return []
        parts = train_test_split(np.arange(len(self)), test_size=HELD_OUT, random_state=SPLIT_SEED, stratify=stratify)
        return [torch.from_numpy(np.sort(one)) for one in parts]

    def _part(self, index: torch.Tensor) -> "Dataset":
        conditions = {name: chosen(value, index) for name, value in self.conditions.items()}
        texts = Texts(len(index), lambda i: self.texts[int(index[i])]) if self.texts else ()
        return Dataset(chosen(self.images, index), conditions, texts)
