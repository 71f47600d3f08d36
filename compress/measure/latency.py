"""How long calls take, compared fairly: interleaved in one run, fixed threads, medians and intervals."""

import contextlib
import os
import platform
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.report.statistics import Interval, interval

WARM_UP = 2  # untimed calls at first
TRAIN = 10  # calls in a row at most,
TRAIN_MS = 50.0  # and no more than fill this time
LEAST = 5  # rounds in which a call that is seldom made is made


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
    seldom: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Milliseconds [rounds] of every call. Each round makes every call, so that all meet the same noise, in an
    order of its own, so that none has the same neighbour always.

    Calls come in trains, as in a sampler's loop: the mean time of calls in a row, TRAIN of them or as many as fill
    TRAIN_MS, after one untimed call that gives the cores on which another library's idle threads may still spin back.
    Sessions of several threads keep theirs longer: then `pause`, in seconds, goes before each train.
    seldom: calls made in every third round alone, the slow ones that stand for themselves; NaN in the others.
    """
    taken = {name: np.full(rounds, np.nan) for name in calls}
    chosen = np.linspace(0, rounds - 1, rounds_of(rounds, seldom=True)).round()
    order = np.random.default_rng(0)
    with progress(title, rounds) as task:
        trains = {name: _train(call) for name, call in calls.items()}
        for i in range(rounds):
            for name in order.permutation([name for name in calls if name not in seldom or i in chosen]):
                if pause:
                    time.sleep(pause)
                calls[name]()
                taken[name][i] = _mean(calls[name], trains[name])
            task.advance()
    return taken


def _train(call: Callable[[], object]) -> int:
    """How many calls a train has, after some that warm up."""
    for _ in range(WARM_UP):
        call()
    return _fitting(_mean(call, 1))


def _fitting(milliseconds: float) -> int:
    """Calls in a train, of so long a call."""
    return int(np.clip(TRAIN_MS / max(milliseconds, 1e-6), 1, TRAIN))


def rounds_of(rounds: int, seldom: bool) -> int:
    """Rounds in which a call is made."""
    return min(rounds, max(LEAST, rounds // 3)) if seldom else rounds


def seconds(call: float, rounds: int, seldom: bool = False) -> float:
    """What timing a call takes that takes so many seconds itself."""
    return call * (WARM_UP + 1 + rounds_of(rounds, seldom) * (1 + _fitting(1000 * call)))


def taken(call: Callable[[], object], times: int = 3) -> float:
    """Seconds of a call: the median of a few after one that warms up."""
    call()
    return float(np.median([_mean(call, 1) for _ in range(times)])) / 1000


def _mean(call: Callable[[], object], count: int) -> float:
    """Milliseconds a call."""
    began = time.perf_counter()
    for _ in range(count):
        call()
    return 1000 * (time.perf_counter() - began) / count


def summary(milliseconds: np.ndarray) -> Timing:
    """Median, p90 and interval of one call's times [rounds]; in rounds that are NaN it was not made."""
    median, p90 = float(np.nanmedian(milliseconds)), float(np.nanpercentile(milliseconds, 90))
    return Timing(median, p90, interval(*_medians(milliseconds)))


def speedup(slow: np.ndarray, fast: np.ndarray) -> tuple[float, Interval]:
    """Ratio of medians with its 95% bootstrap interval; rounds are resampled together, for both."""
    slows, fasts = _medians(slow, fast)
    return float(np.nanmedian(slow) / np.nanmedian(fast)), interval(slows / fasts)


def _medians(*taken: np.ndarray, resamples: int = 1000) -> list[np.ndarray]:
    """Medians [resamples] of each. Rounds that have all of them are resampled apart from those that lack one."""
    whole = np.isfinite(taken).all(axis=0)
    random = np.random.default_rng(0)
    parts = [part for part in (np.flatnonzero(whole), np.flatnonzero(~whole)) if len(part)]
    index = np.hstack([part[random.integers(len(part), size=(resamples, len(part)))] for part in parts])
    return [np.nanmedian(values[index], axis=1) for values in taken]


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run PyTorch with `count` threads."""
    import torch  # all else here serves a device without it

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
