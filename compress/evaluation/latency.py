"""How long calls take, compared fairly: interleaved in one run, fixed threads, medians and intervals."""

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.evaluation.statistics import Interval, interval

WARM_UP = 2
TRAIN = 10


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call: median, 90th percentile, 95% bootstrap interval of the median."""

    median: float
    p90: float
    interval: Interval


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    progress: Callable[[str, int], AbstractContextManager[Any]],
    title: str = "timing",
    pause: float = 0.0,
) -> dict[str, np.ndarray]:
    """Milliseconds [rounds] of every call. Each round makes every call, so that all meet the same noise, in an
    order of its own, so that none has the same neighbour always.

    Calls come in trains, as in a sampler's loop: the time of TRAIN calls in a row, divided by TRAIN, after
    one untimed call that gives the cores on which another library's idle threads may still spin back. Sessions of
    several threads keep theirs longer: then `pause`, in seconds, goes before each train.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    order = np.random.default_rng(0)
    with progress(title, rounds) as task:
        for i in range(WARM_UP + rounds):
            for name in order.permutation(list(calls)):
                call = calls[name]
                if pause:
                    time.sleep(pause)
                call()
                began = time.perf_counter()
                for _ in range(TRAIN):
                    call()
                if i >= WARM_UP:
                    taken[name].append(1000 * (time.perf_counter() - began) / TRAIN)
            task.advance(int(i >= WARM_UP))
    return {name: np.array(values) for name, values in taken.items()}


def summary(milliseconds: np.ndarray) -> Timing:
    """Median, p90 and interval of one call's times."""
    median, p90 = float(np.median(milliseconds)), float(np.percentile(milliseconds, 90))
    return Timing(median, p90, interval(_medians(milliseconds)))


def speedup(slow: np.ndarray, fast: np.ndarray) -> tuple[float, Interval]:
    """Ratio of medians with its 95% bootstrap interval; rounds are resampled together, for both."""
    ratios = _medians(slow) / _medians(fast)
    return float(np.median(slow) / np.median(fast)), interval(ratios)


def _medians(values: np.ndarray, resamples: int = 1000) -> np.ndarray:
    index = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    return np.median(values[index], axis=1)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run PyTorch with `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def default_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Name of the CPU."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
