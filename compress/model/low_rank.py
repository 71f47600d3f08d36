"""Layers as products of two of lower rank: which factors lose least, and which ranks a budget allows.

A convolution is a linear map W [out, in·k·k] of patches x. Among the maps of rank r, W' = U_r U_r^T W has the least
mean square error E|W x − W' x|², where U_r are the first r eigenvectors of E[y y^T], y = W x (Eckart & Young 1936,
applied to W X for patches X; the same as the singular value decomposition of W L with E[x x^T] = L L^T: Wang et al.
2024, SVD-LLM, section 3.1; Zhang et al. 2015, section 3.1, for convolutions). With white patches, E[x x^T] = 1, that is
the singular value decomposition of W itself.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.families.replacements import LowRank, writer

# Share of the plain decomposition in a weighted one: what the calibration data never excites is kept by its weight.
RIDGE = 1e-6
# Channels between the factors are scaled to equal energy, unless they hold next to nothing.
WEAKEST = 1e-3


def matrix(layer: Any) -> torch.Tensor:
    """The weights of a layer as one float64 matrix [out, in·k·k] on the CPU."""
    parts = (layer.up, layer.down) if isinstance(layer, LowRank) else (layer,)
    factors = [part.weight.detach().cpu().double().flatten(1) for part in parts]
    return factors[0] @ factors[1] if len(factors) == 2 else factors[0]


def size(layer: Any) -> int:
    """Number of weights of a layer, without its bias."""
    parts = (layer.up, layer.down) if isinstance(layer, LowRank) else (layer,)
    return sum(part.weight.numel() for part in parts)


def full_rank(layer: Any) -> int:
    """The rank at which factors are exact, unless the weights happen to be of lower rank."""
    if isinstance(layer, LowRank):
        return min(len(layer.down.weight), len(layer.up.weight))
    return min(layer.weight.flatten(1).shape)


def rank_size(layer: Any) -> int:
    """Number of weights of one rank: out + in·k·k."""
    parts = (layer.up.weight, layer.down.weight) if isinstance(layer, LowRank) else (layer.weight, layer.weight)
    return len(parts[0]) + parts[1][0].numel()


def bias(layer: Any) -> torch.Tensor | None:
    """What a layer adds to its product, [out]."""
    found: torch.Tensor | None = writer(layer).bias
    return found


def basis(layer: Any) -> torch.Tensor:
    """Orthonormal directions [out, full rank], float64, that span all outputs of a layer without its bias."""
    left = layer.up.weight.detach().cpu().double().flatten(1) if isinstance(layer, LowRank) else matrix(layer)
    height, rank = len(left), full_rank(layer)
    return torch.linalg.qr(left).Q if rank < height else torch.eye(height, dtype=torch.float64)


@dataclass(frozen=True)
class Spectrum:
    """Directions [out, full rank] of a layer's output and the energy [full rank] of each, falling; float64."""

    directions: torch.Tensor
    energies: torch.Tensor

    def kept(self, rank: int) -> float:
        """Share of the energy that `rank` directions hold."""
        return float(self.energies[:rank].sum() / self.energies.sum().clamp(min=torch.finfo(torch.float64).tiny))


def spectrum(layer: Any, moments: torch.Tensor | None = None) -> Spectrum:
    """The best directions of a layer, first things first.

    moments: E[z z^T] [full rank, full rank] of its outputs without bias in its `basis`, z = basis^T y; None: as if
    its patches were white.
    """
    frame = basis(layer)
    inner = frame.T @ matrix(layer)
    gram = inner @ inner.T
    if moments is not None:
        scale = moments.trace() / gram.trace().clamp(min=torch.finfo(torch.float64).tiny)
        gram = moments + RIDGE * scale * gram
    energies, vectors = torch.linalg.eigh(gram)
    return Spectrum(frame @ vectors.flip(1), energies.flip(0).clamp(min=0))


def fill(low: LowRank, layer: nn.Module, found: Spectrum) -> None:
    """Give `low` the best weights of its rank for `layer`: U σ and σ^-1 U^T W, where σ² are the energies.

    The channels between the two then have equal energy, so that one int8 scale suits them all.
    """
    rank = low.down.weight.shape[0]
    directions = found.directions[:, :rank]
    sigma = found.energies[:rank].sqrt()
    sigma = sigma.clamp(min=max(float(sigma[0]) * WEAKEST, torch.finfo(torch.float32).tiny ** 0.5))
    added = bias(layer)
    with torch.no_grad():
        low.up.weight.copy_((directions * sigma).reshape(low.up.weight.shape))
        low.down.weight.copy_((directions.T @ matrix(layer) / sigma[:, None]).reshape(low.down.weight.shape))
        if added is not None and low.up.bias is not None:
            low.up.bias.copy_(added)


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


def allocate(choices: Mapping[str, Choice], saving: int) -> dict[str, int]:
    """Ranks of layers that together save at least `saving`, by one price for all: energy lost per cost saved.

    On the lower convex hull of (cost, loss) every layer goes from whole to its best first rank, then down one by one;
    the cheapest steps of all layers are taken. What the last step saved too much is given back, until no layer can
    have another rank. Raises ValueError if rank 1 everywhere does not save enough.
    """
    steps = sorted(step for path, choice in choices.items() for step in _steps(path, choice))
    ranks: dict[str, int] = {}
    saved = 0
    for _, path, falling, gain in steps:
        if saved >= saving:
            break
        ranks[path] = -falling
        saved += gain
    if saved < saving:
        raise ValueError(f"rank 1 everywhere saves {saved}")
    _give_back(choices, ranks, saved - saving)
    return ranks


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


def _give_back(choices: Mapping[str, Choice], ranks: dict[str, int], spare: int) -> None:
    """Raise ranks, best value first, while it costs no more than `spare` in all."""
    waiting: list[tuple[float, str, int, int]] = []

    def offer(path: str) -> None:
        choice, rank = choices[path], ranks[path]
        last = rank == choice.most
        cost = choice.whole - choice.each * rank if last else choice.each
        value = choice.lost(rank) if last else float(choice.energies[rank])
        heapq.heappush(waiting, (-value / cost, path, 0 if last else rank + 1, cost))

    for path in ranks:
        offer(path)
    while waiting:
        _, path, rank, cost = heapq.heappop(waiting)
        if cost > spare:
            continue  # nor will it fit later: what is spare only shrinks
        spare -= cost
        if rank:
            ranks[path] = rank
            offer(path)
        else:
            del ranks[path]


def least_rank(energies: torch.Tensor, share: float) -> int:
    """The smallest rank that holds `share` of the energy."""
    sums = energies.cumsum(0)
    return int((sums < share * sums[-1] * (1 - 1e-12)).sum()) + 1
