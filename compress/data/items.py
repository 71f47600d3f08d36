"""Rows of a data set: in memory, on disk, or decoded when they are asked for."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch


class Items(Protocol):
    """Rows [n,…], as a tensor has them: an index int64 [b], or a slice, gives those rows as a tensor [b,…]."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: torch.Tensor | slice, /) -> torch.Tensor: ...


class Lazy(ABC):
    """Rows that are not in memory. shape: of all of them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: torch.Tensor | slice, /) -> torch.Tensor:
        return self.rows(torch.arange(*index.indices(len(self))) if isinstance(index, slice) else index)

    @abstractmethod
    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """The rows at `index` int64 [b]."""


class Part(Lazy):
    """Some rows of others: those at `index` int64 [n]."""

    def __init__(self, whole: Items, index: torch.Tensor) -> None:
        super().__init__((len(index), *whole.shape[1:]))
        self.whole, self.index = whole, index

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        return self.whole[self.index[index]]


class OnDisk(Lazy):
    """Rows of an array that is mapped into memory: the system reads what is asked for, and may forget it."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array.shape)
        self.array = array

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.array[index.numpy()]))


class Decoded(Lazy):
    """Rows float32 that `read` makes, each of its number, in as many threads as PyTorch computes in.

    Decoders of pictures let go of Python's lock. read: raises DataError for what cannot be decoded.
    """

    def __init__(self, shape: tuple[int, ...], read: Callable[[int], np.ndarray]) -> None:
        super().__init__(shape)
        self.read = read

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        found = np.empty((len(index), *self.shape[1:]), np.float32)
        asked, threads = index.tolist(), min(torch.get_num_threads(), len(index))

        def work(first: int) -> None:
            for place in range(first, len(asked), threads):
                found[place] = self.read(asked[place])

        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(work, range(threads)))  # raises what a thread raised
        elif threads:
            work(0)
        return torch.from_numpy(found)


def chosen(whole: Items, index: torch.Tensor) -> Items:
    """The rows at `index` int64 [n]: copied where they are in memory, or else read when they are asked for."""
    return whole[index] if isinstance(whole, torch.Tensor) else Part(whole, index)
