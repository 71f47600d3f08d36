"""Ranks within a budget, against every choice that there is."""

import itertools

import numpy as np
import pytest

from compress.model.ranks import Choice, allocate, most_saved


def choices(seed: int, count: int = 3) -> dict[str, Choice]:
    random = np.random.default_rng(seed)
    found = {}
    for i in range(count):
        energies = np.sort(random.exponential(size=4) ** 3)[::-1]
        found[str(i)] = Choice(int(random.integers(30, 60)), int(random.integers(5, 15)), energies / energies.sum())
    return found


def price(some: dict[str, Choice], ranks: dict[str, int]) -> tuple[int, float]:
    cost = sum(c.each * ranks[path] if path in ranks else c.whole for path, c in some.items())
    return cost, sum(some[path].lost(rank) for path, rank in ranks.items())


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("seed", range(20))
def test_allocation_meets_its_target_leaves_nothing_and_is_near_the_best(seed: int, share: float) -> None:
    some = choices(seed)
    whole = sum(choice.whole for choice in some.values())
    saving = int(share * whole)
    options = [[None, *range(1, choice.most + 1)] for choice in some.values()]
    every = [
        price(some, {path: rank for path, rank in zip(some, picked, strict=True) if rank})
        for picked in itertools.product(*options)
    ]
    within = [loss for cost, loss in every if whole - cost >= saving]
    assert bool(within) == (saving <= most_saved(some))
    if not within:
        return
    ranks = allocate(some, saving)
    cost, loss = price(some, ranks)
    assert whole - cost >= saving
    # the lower convex hull is off by one layer's step at most
    assert loss <= min(within) + max(choice.lost(1) for choice in some.values())
    for path, rank in ranks.items():
        raised = {**ranks, path: rank + 1} if rank < some[path].most else {p: r for p, r in ranks.items() if p != path}
        assert whole - price(some, raised)[0] < saving, path


def test_allocation_takes_what_is_free_and_then_the_layer_that_loses_least() -> None:
    flat, steep = np.full(8, 1 / 8), 0.5 ** np.arange(1, 9)
    some = {"flat": Choice(100, 10, flat), "steep": Choice(100, 10, steep / steep.sum())}
    assert allocate(some, 60) == {"flat": 8, "steep": 6}
    assert allocate(some, 90) == {"flat": 8, "steep": 3}
    assert allocate(some, 0) == {}


def test_no_rank_is_cheaper() -> None:
    some = {"a": Choice(10, 10, np.ones(1))}
    assert some["a"].most == 0
    assert most_saved(some) == 0 and allocate(some, 0) == {}
