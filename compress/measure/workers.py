"""All cores at work on what an engine computes: it lets go of Python's lock, and each part has a core to itself."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from compress.measure.latency import default_threads
from compress.runtime import Bundle

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


def draw_on_all_cores(
    bundle: Bundle,
    noise: np.ndarray,
    conditions: Mapping[str, np.ndarray],
    share: int,
    advance: Callable[[int], object],
) -> np.ndarray:
    """A bundle's samples [n,…] from noise [n,…], `share` at once, each as it would be alone; what is left over of its
    fixed batch size is left out. advance: told how many are done.
    """

    def drawn(start: int) -> np.ndarray:
        part = slice(start, min(start + share, count))
        return bundle.sample(noise[part], **{name: value[part] for name, value in conditions.items()})

    count = len(noise) - len(noise) % (bundle.batch or 1)
    parts = []
    for samples in parallel(drawn, range(0, count, share), bundle.threads):
        parts.append(samples)
        advance(len(samples))
    return np.concatenate(parts)


def decoded_on_all_cores(
    bundle: Bundle, samples: np.ndarray, share: int, advance: Callable[[int], object]
) -> np.ndarray:
    """Pictures [n,c,h,w] of a bundle's samples [n,…], `share` at once; the samples themselves, if they are pictures."""
    if bundle.decoder is None:
        return samples
    parts = []
    shares = [samples[start : start + share] for start in range(0, len(samples), share)]
    for pixels in parallel(bundle.pixels, shares, bundle.threads):
        parts.append(pixels)
        advance(len(pixels))
    return np.concatenate(parts)
