"""Texts of a data set: a million of them without a million objects."""

from array import array
from collections.abc import Callable, Sequence
from typing import Any

ANY_SIGN = "surrogatepass"  # what paths and JSON may hold that UTF-8 has not


class Texts(Sequence[str]):
    """`count` texts, each made when it is asked for, of its number."""

    def __init__(self, count: int, read: Callable[[int], str]) -> None:
        self.size, self.read = count, read

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.read(i) for i in range(*index.indices(self.size))]
        if not -self.size <= index < self.size:
            raise IndexError(index)
        return self.read(index % self.size)


class Packed(Texts):
    """Texts as the bytes that they have in UTF-8, one after the other."""

    def __init__(self) -> None:
        self.content, self.ends = bytearray(), array("q", [0])
        super().__init__(0, lambda i: self.content[self.ends[i] : self.ends[i + 1]].decode("utf-8", ANY_SIGN))

    def add(self, text: str) -> None:
        """Put one more behind the others."""
        self.content += text.encode("utf-8", ANY_SIGN)
        self.ends.append(len(self.content))
        self.size += 1
