"""Images in a file of arrays."""

from collections.abc import Collection
from typing import Literal

import numpy as np
import torch

from compress.data.arrays import finite, key, read_npz
from compress.data.dataset import Dataset
from compress.errors import DataError
from compress.settings import File, Frozen


class Npz(Frozen):
    """An .npz file with `images` and what the model takes: `labels`, `embeddings` (of texts), `class_embeddings`.

    Other conditions are called as the net has them: `text_embeds`, `time_ids`, `mask` … images: [n,h,w], [n,h,w,c] or
    [n,c,h,w]; uint8 0…255, or float as the model takes them.
    """

    source: Literal["npz"]
    path: File

    def read(self, shape: tuple[int, ...], conditions: Collection[str]) -> Dataset:
        """All images, and those of the conditions that the file holds."""
        arrays = read_npz(self.path)
        if "images" not in arrays:
            raise DataError(f"{self.path}: has no `images` (found: {', '.join(arrays) or 'nothing'})")
        images = arrays["images"]
        if images.shape[1:] != shape:
            images = self._channels_first(images)
        if images.dtype == np.uint8:
            images = images.astype(np.float32) / 127.5 - 1
        elif images.dtype.kind != "f":
            raise DataError(f"{self.path}: `images` should be uint8 or float; got {images.dtype}")
        found = {}
        for name in (name for name in conditions if key(name) in arrays):
            values, called = arrays[key(name)], key(name)
            count = len(values) if values.ndim else 0
            if count != len(images):
                raise DataError(f"{self.path}: {len(images)} images but {count} {called}")
            if called == "labels" and (values.ndim != 1 or values.dtype.kind not in "iu"):
                raise DataError(f"{self.path}: `labels` should be integers [n]; got {values.dtype} {values.shape}")
            values = values.astype(np.int64) if called == "labels" else finite(values, f"{self.path}: `{called}`")
            found[name] = torch.from_numpy(values)
        return Dataset(torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)), found)

    def _channels_first(self, images: np.ndarray) -> np.ndarray:
        """Pictures [n,h,w], [n,h,w,c] or [n,c,h,w] as [n,c,h,w]."""
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or not len(images):
            raise DataError(
                f"{self.path}: `images` should be [n,h,w], [n,h,w,c] or [n,c,h,w]; got {list(images.shape)}"
            )
        last = images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3)
        return images.transpose(0, 3, 1, 2) if last else images
