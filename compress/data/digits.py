"""The data set that comes with the package."""

from collections.abc import Collection
from typing import Literal

import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from compress.data.dataset import Dataset
from compress.settings import Frozen


class Digits(Frozen):
    """scikit-learn's 1,797 handwritten digits, at 16×16, labels 0…9."""

    source: Literal["digits"]

    def read(self, _shape: tuple[int, ...], _conditions: Collection[str]) -> Dataset:
        """All digits, with their labels."""
        digits = load_digits()
        images = torch.from_numpy(digits.images).float()[:, None] / 16
        images = functional.interpolate(images, size=16, mode="bicubic", align_corners=False).clamp(0, 1)
        return Dataset(images * 2 - 1, {"class_labels": torch.from_numpy(digits.target).long()})
