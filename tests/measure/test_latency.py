"""Timing with a clock of our own, and intervals with a known answer."""

import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from compress.measure import latency
from compress.model.reference import silent


class Clock:
    """Stands still except while a call pretends to work."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def call(self, milliseconds):
        waits = iter(milliseconds)

        def run() -> None:
            self.now += next(waits) / 1000

        return run


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    return clock


def trains(milliseconds, calls):
    """The warm-up with a call that tells the length of a train; then for each train an untimed call before `calls`
    that take the given time on average."""
    first = [1000.0] * latency.WARM_UP + [latency.TRAIN_MS / (calls + 0.5)]
    return first + [v for mean in milliseconds for v in (700.0, *np.linspace(mean - 1, mean + 1, calls))]


def test_mean_of_a_train_is_timed_in_milliseconds_after_the_warm_up(clock):
    slow = clock.call(trains([20, 21, 22, 23], 2))
    fast = clock.call(trains([2, 3, 4, 5], latency.TRAIN))
    taken = latency.interleaved({"slow": slow, "fast": fast}, 4, silent)
    np.testing.assert_allclose(taken["slow"], [20, 21, 22, 23], rtol=1e-6)
    np.testing.assert_allclose(taken["fast"], [2, 3, 4, 5], rtol=1e-6)


def test_calls_take_turns():
    made = []
    calls = {name: lambda name=name: made.append(name) for name in "abc"}
    taken = latency.interleaved(calls, 7, silent)
    train, warm = latency.TRAIN + 1, 3 * (latency.WARM_UP + 1)
    assert sorted(made[:warm]) == sorted("abc" * (latency.WARM_UP + 1))
    trains = [made[start : start + train] for start in range(warm, len(made), train)]
    assert all(len(set(one)) == 1 for one in trains), "a train is of one call"
    rounds = ["".join(one[0] for one in trains[start : start + 3]) for start in range(0, len(trains), 3)]
    assert len(rounds) == 7 and {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(set(rounds)) > 2, "in another order each round"
    assert list(taken) == ["a", "b", "c"] and all(values.shape == (7,) for values in taken.values())


def test_progress_reaches_its_total():
    seen = {"advanced": 0}

    class Task:
        def advance(self, count: int = 1, **shown: float) -> None:
            seen["advanced"] += count

    @contextmanager
    def progress(title, total):
        seen.update(title=title, total=total)
        yield Task()

    latency.interleaved({"a": lambda: None}, 9, progress, "clocking")
    assert seen == {"advanced": 9, "title": "clocking", "total": 9}


def test_real_time_is_measured():
    taken = latency.interleaved({"nap": lambda: time.sleep(0.01), "nothing": lambda: None}, 5, silent)
    assert taken["nap"].min() >= 9.9
    assert np.median(taken["nothing"]) < 5


def test_summary_of_known_values():
    found = latency.summary(np.arange(1.0, 102.0))
    assert (found.median, found.p90) == (51.0, 91.0)
    low, high = found.interval
    assert 30 < low < 51 < high < 72


def test_summary_of_a_constant_is_a_point():
    assert latency.summary(np.full(20, 4.0)) == latency.Timing(4.0, 4.0, (4.0, 4.0))


def test_median_withstands_outliers():
    values = np.full(100, 4.0)
    values[:5] = 10_000
    assert latency.summary(values).median == latency.summary(values).interval[1] == 4.0


def test_interval_covers_the_true_median_95_times_in_100():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        low, high = latency.summary(np.exp(random.standard_normal(60))).interval
        held += low <= 1.0 <= high
    assert 0.9 <= held / 200 <= 0.99


def test_speedup_of_a_constant_ratio_is_exact():
    fast = np.random.default_rng(0).uniform(1, 9, 50)
    ratio, (low, high) = latency.speedup(3 * fast, fast)
    assert (ratio, low, high) == pytest.approx((3, 3, 3), rel=1e-12)  # only if both are resampled together


def test_speedup_interval_covers_the_true_ratio_95_times_in_100():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(150):
        common = np.exp(0.2 * random.standard_normal(60))
        slow = 3 * common * np.exp(0.1 * random.standard_normal(60))
        fast = common * np.exp(0.1 * random.standard_normal(60))
        _, (low, high) = latency.speedup(slow, fast)
        held += low <= 3 <= high
    assert 0.9 <= held / 150 <= 0.995


def test_speedup_and_its_inverse_agree():
    random = np.random.default_rng(0)
    slow, fast = random.uniform(2, 3, 40), random.uniform(1, 2, 40)
    ratio, (low, high) = latency.speedup(slow, fast)
    assert low <= ratio <= high
    assert latency.speedup(fast, slow)[0] == pytest.approx(1 / ratio)


def test_threads_are_set_and_restored():
    before = torch.get_num_threads()
    with latency.threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError), latency.threads(1):
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_default_threads_are_those_of_the_process(monkeypatch):
    assert latency.default_threads() >= 1
    monkeypatch.setattr(latency.os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert latency.default_threads() == 3
    monkeypatch.delattr(latency.os, "sched_getaffinity")
    monkeypatch.setattr(latency.os, "cpu_count", lambda: None)
    assert latency.default_threads() == 1


def test_processor_has_a_name():
    assert latency.processor().strip()


@pytest.mark.parametrize(("rounds", "made"), [(30, 10), (10, 5), (3, 3)])
def test_a_call_that_is_seldom_made_is_spread_over_the_rounds(clock, rounds, made):
    taken = latency.interleaved({name: clock.call([1.0] * 1000) for name in "ab"}, rounds, silent, seldom=["b"])
    assert np.isfinite(taken["a"]).all() and len(taken["b"]) == rounds
    (found,) = np.isfinite(taken["b"]).nonzero()
    assert len(found) == made and found[0] == 0 and found[-1] == rounds - 1
    assert max(np.diff(found)) - min(np.diff(found)) <= 1


def test_what_timing_takes_is_foretold(clock):
    began = clock.now
    calls = {"slow": clock.call([30.0] * 1000), "fast": clock.call([2.0] * 1000)}
    latency.interleaved(calls, 12, silent, seldom=["slow"])
    wanted = latency.seconds(0.03, 12, seldom=True) + latency.seconds(0.002, 12)
    assert clock.now - began == pytest.approx(wanted)


def test_speedup_over_a_call_that_is_seldom_made_covers_the_true_ratio():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(150):
        common = np.exp(0.2 * random.standard_normal(60))
        slow = 3 * common * np.exp(0.1 * random.standard_normal(60))
        slow[np.arange(60) % 3 > 0] = np.nan
        _, (low, high) = latency.speedup(slow, common * np.exp(0.1 * random.standard_normal(60)))
        held += low <= 3 <= high
    assert 0.9 <= held / 150 <= 0.995
    assert latency.summary(slow) == latency.summary(slow[::3])
