"""All cores at work on what onnxruntime computes: it lets go of Python's lock, and each part has a core to itself."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from compress.measure.latency import default_threads

Part = TypeVar("Part")
Result = TypeVar("Result")


def parallel(work: Callable[[Part], Result], parts: Iterable[Part], threads: int | None = 1) -> Iterator[Result]:
    """What `work` makes of each part, in order: the same as one after another, sooner.

    threads: that one piece of work takes; None: all.
    """
    workers = default_threads() // (threads or default_threads())
    if workers < 2:
        yield from map(work, parts)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(work, parts)
