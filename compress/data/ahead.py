"""The next batch, while this one is used."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def ahead(make: Callable[[Key], Value], keys: Iterable[Key]) -> Iterator[Value]:
    """`make(key)` of every key in turn; that of the next is made in a thread while this one is used.

    What `make` raises is raised when its key is due. One value waits, no more. make: a function of its key alone, as
    `Dataset.batch` is, so that nothing depends on when it is called; it runs in one thread, never twice at once.
    """
    with ThreadPoolExecutor(1, "ahead") as pool:
        waiting = None
        for key in keys:
            due, waiting = waiting, pool.submit(make, key)
            if due is not None:
                yield due.result()
        if waiting is not None:
            yield waiting.result()
