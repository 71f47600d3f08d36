"""Which ranks of which layers a budget allows, at the least loss in all."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Choice:
    """What a layer costs as it is and each rank of its factors; energies: what each rank holds [full rank], falling."""

    whole: int
    each: int
    energies: np.ndarray

    @property
    def most(self) -> int:
        """The largest rank that is cheaper than the layer; 0: there is none."""
        return min(len(self.energies), (self.whole - 1) // self.each)

    def lost(self, rank: int) -> float:
        """Energy that `rank` leaves out."""
        return float(self.energies[rank:].sum())


def most_saved(choices: Mapping[str, Choice]) -> int:
    """What rank 1 saves, in all layers for which that is cheaper."""
    return sum(choice.whole - choice.each for choice in choices.values() if choice.most)


def allocate(choices: Mapping[str, Choice], saving: int) -> dict[str, int]:
    """Ranks of layers that together save at least `saving`, no more than `most_saved`, by one price for all: energy
    lost per cost saved.

    On the lower convex hull of (cost, loss) every layer goes from whole to its best first rank, then down one by one;
    the cheapest steps of all layers are taken. What the last step saved too much is given back, best value first,
    until no layer can have another rank.
    """
    steps = sorted(step for path, choice in choices.items() for step in _steps(path, choice))
    ranks: dict[str, int] = {}
    spare = -saving
    for _, path, falling, gain in steps:
        if spare >= 0:
            break
        ranks[path] = -falling
        spare += gain
    while True:
        offers = (_raised(path, choices[path], rank) for path, rank in ranks.items())
        affordable = [offer for offer in offers if offer[-1] <= spare]
        if not affordable:
            return ranks
        _, path, rank, cost = min(affordable)
        spare -= cost
        ranks[path] = rank
        if rank > choices[path].most:
            del ranks[path]


def _steps(path: str, choice: Choice) -> list[tuple[float, str, int, int]]:
    """(loss per cost saved, path, −rank, cost saved), each dearer than the one before."""
    if choice.most < 1:
        return []
    gains = choice.whole - choice.each * np.arange(1, choice.most + 1)
    tails = choice.energies.sum() - choice.energies.cumsum()
    prices = tails.clip(min=0)[: choice.most] / gains
    first = int(np.argmin(prices)) + 1
    price = float(prices[first - 1])
    steps = [(price, path, -first, int(gains[first - 1]))]
    for rank in range(first - 1, 0, -1):
        price = max(price, float(choice.energies[rank]) / choice.each)
        steps.append((price, path, -rank, choice.each))
    return steps


def _raised(path: str, choice: Choice, rank: int) -> tuple[float, str, int, int]:
    """(−energy regained per cost, path, the next rank, its cost); above the last rank the layer is whole."""
    if rank == choice.most:
        cost = choice.whole - choice.each * rank
        return -choice.lost(rank) / cost, path, rank + 1, cost
    return -float(choice.energies[rank]) / choice.each, path, rank + 1, choice.each
