"""Layers as products of two of lower rank: which factors lose least, by what is read of the layers while a net runs.

A convolution is a linear map W [out, in·k·k] of patches x. Among the maps of rank r, W' = U_r U_r^T W has the least
mean square error E|W x − W' x|², where U_r are the first r eigenvectors of E[y y^T], y = W x (Eckart & Young 1936,
applied to W X for patches X; the same as the singular value decomposition of W L with E[x x^T] = L L^T: Wang et al.
2024, SVD-LLM, section 3.1; Zhang et al. 2015, section 3.1, for convolutions). With white patches, E[x x^T] = 1, that is
the singular value decomposition of W itself.
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from compress.families.replacements import LowRank, channel_axis, writer

# Share of the plain decomposition in a weighted one: what the calibration data never excites is kept by its weight.
RIDGE = 1e-6
# Channels between the factors are scaled to equal energy, unless they hold next to nothing.
WEAKEST = 1e-3


def factors(layer: Any) -> list[torch.Tensor]:
    """The weights of a layer as a matrix [out, in·k·k], or the two whose product that is."""
    parts = (layer.up, layer.down) if isinstance(layer, LowRank) else (layer,)
    return [part.weight.detach().flatten(1) for part in parts]


def matrix(layer: Any) -> torch.Tensor:
    """The weights of a layer as one float64 matrix [out, in·k·k] on the CPU."""
    first, *second = (factor.cpu().double() for factor in factors(layer))
    return first @ second[0] if second else first


def size(layer: Any) -> int:
    """Number of weights of a layer, without its bias."""
    return sum(factor.numel() for factor in factors(layer))


def full_rank(layer: Any) -> int:
    """The rank at which factors are exact, unless the weights happen to be of lower rank."""
    return min(factors(layer)[0].shape)


def rank_size(layer: Any) -> int:
    """Number of weights of one rank: out + in·k·k."""
    found = factors(layer)
    return len(found[0]) + found[-1].shape[1]


def basis(layer: Any) -> torch.Tensor:
    """Orthonormal directions [out, full rank], float64, that span all outputs of a layer without its bias."""
    left = factors(layer)[0].cpu().double()
    return torch.linalg.qr(left).Q if full_rank(layer) < len(left) else torch.eye(len(left), dtype=torch.float64)


class Readings:
    """Sums over all calls of layers, `read` being told of them; items: samples evaluated, which the caller counts.

    Gradients are read of what is backpropagated, if anything: no parameter needs to require them.
    """

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        bases = {path: basis(layer) for path, layer in layers.items()}
        self._turns = {path: one.float() for path, one in bases.items() if one.shape[0] > one.shape[1]}
        self._outer: dict[str, torch.Tensor] = {}  # Σ z z^T over places
        self._places: Counter[str] = Counter()
        self._gradients: dict[str, float] = {}  # Σ g² over all values of output gradients g, ÷ the layer's width
        self.items = 0

    def read(self, path: str, layer: Any, _inputs: object, _named: object, output: torch.Tensor) -> None:
        """Add one call."""
        y = output.movedim(channel_axis(layer), -1).detach()
        width = y.shape[-1]
        y = y.reshape(-1, width)
        bias = writer(layer).bias
        y = y if bias is None else y - bias
        y = y @ self._turns[path].to(y) if path in self._turns else y
        self._outer[path] = self._outer.get(path, 0) + (y.T @ y).cpu().double()
        self._places[path] += len(y)
        if torch.is_grad_enabled():
            if output.is_leaf:
                output.requires_grad_(True)
            output.register_hook(partial(self._respond, path, width))

    def _respond(self, path: str, width: int, gradient: torch.Tensor) -> None:
        total = float(gradient.double().square().sum()) / width
        self._gradients[path] = self._gradients.get(path, 0.0) + total

    def correlation(self, path: str) -> torch.Tensor | None:
        """E[z z^T] [full rank, full rank] of a layer, z = basis^T y for outputs y without bias; None: never called."""
        return self._outer[path] / self._places[path] if path in self._outer else None

    def response(self, path: str) -> float:
        """Mean square error of the model's output, summed over its values, for each unit of a layer's, at a place.

        For errors that are small and independent: with v of random signs, E (v^T J)² over v is the sum of squares of
        the Jacobian J of the output by the layer's (Hutchinson 1990).
        """
        return self._gradients.get(path, 0.0) / max(self.items, 1)


@dataclass(frozen=True)
class Spectrum:
    """Directions [out, full rank] of a layer's output and the energy [full rank] of each, falling; float64."""

    directions: torch.Tensor
    energies: torch.Tensor

    def kept(self, rank: int) -> float:
        """Share of the energy that `rank` directions hold."""
        return float(self.energies[:rank].sum() / self.energies.sum().clamp(min=torch.finfo(torch.float64).tiny))

    def least_rank(self, share: float) -> int:
        """The smallest rank that holds `share` of the energy."""
        sums = self.energies.cumsum(0)
        return int((sums < share * sums[-1] * (1 - 1e-12)).sum()) + 1


def spectrum(layer: Any, correlation: torch.Tensor | None = None) -> Spectrum:
    """The best directions of a layer, first things first.

    correlation: E[z z^T] [full rank, full rank] of its outputs without bias in its `basis`, z = basis^T y; None: as if
    its patches were white.
    """
    frame = basis(layer)
    inner = frame.T @ matrix(layer)
    gram = inner @ inner.T
    if correlation is not None:
        scale = correlation.trace() / gram.trace().clamp(min=torch.finfo(torch.float64).tiny)
        gram = correlation + RIDGE * scale * gram
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
    bias = writer(layer).bias
    with torch.no_grad():
        low.up.weight.copy_((directions * sigma).reshape(low.up.weight.shape))
        low.down.weight.copy_((directions.T @ matrix(layer) / sigma[:, None]).reshape(low.down.weight.shape))
        if bias is not None and low.up.bias is not None:
            low.up.bias.copy_(bias)
