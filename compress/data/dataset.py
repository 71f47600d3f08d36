"""Images with their conditions, and batches of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from compress.devices import send
from compress.randomness import Draw, generator

HELD_OUT = 0.2  # share of the images that no training ever sees
SPLIT_SEED = 0


@dataclass(frozen=True)
class Batch:
    """images: float32 [b,c,h,w]. conditions: name → [b,...]."""

    images: torch.Tensor
    conditions: Mapping[str, torch.Tensor]

    def to(self, device: torch.device) -> "Batch":
        return Batch(send(self.images, device), {name: send(value, device) for name, value in self.conditions.items()})


@dataclass(frozen=True)
class Dataset(Batch):
    """All images (pixels in [-1, 1], or latents) and conditions of a source. texts: of each image, where it has one."""

    texts: Sequence[str] = ()

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
        train, held_out = (self._part(np.sort(part)) for part in parts)
        return train, held_out

    def _part(self, index: np.ndarray) -> "Dataset":
        taken = self.take(torch.from_numpy(index))
        return Dataset(taken.images, taken.conditions, [self.texts[i] for i in index] if self.texts else ())
