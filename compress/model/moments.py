"""Reading what layers compute while a net runs, and how its output responds to them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from compress.families.replacements import channel_axis
from compress.model import low_rank


@dataclass
class Readings:
    """Sums over evaluations, by layer.

    outer: Σ z z^T [full rank, full rank] over places, z = basis^T y for outputs y without bias; rows: how many places.
    gradient: Σ g² over all values of the output gradients g, divided by the layer's width; items: samples evaluated.
    """

    outer: dict[str, torch.Tensor] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    gradient: dict[str, float] = field(default_factory=dict)
    items: int = 0

    def moments(self, path: str) -> torch.Tensor | None:
        """E[z z^T] of a layer; None: it was never evaluated."""
        return self.outer[path] / self.rows[path] if path in self.outer else None

    def response(self, path: str) -> float:
        """Mean square error of the model's output, summed over its values, for each unit of a layer's, at a place.

        For errors that are small and independent: with v of random signs, E (v^T J)² over v is the sum of squares of
        the Jacobian J of the output by the layer's (Hutchinson 1990).
        """
        return self.gradient.get(path, 0.0) / max(self.items, 1)


@contextmanager
def reading(layers: Mapping[str, nn.Module]) -> Iterator[Readings]:
    """While open, every evaluation of the net that the layers are in is read.

    Gradients are read of what is backpropagated, if anything: no parameter needs to require them.
    """
    found = Readings()
    handles = []
    for path, layer in layers.items():
        frame = low_rank.basis(layer)
        turn = None if frame.shape[0] == frame.shape[1] else frame.float()

        def read(module: Any, _inputs: object, output: torch.Tensor, path: str = path, turn: Any = turn) -> None:
            y = output.movedim(channel_axis(module), -1).detach()
            width = y.shape[-1]
            y = y.reshape(-1, width)
            added = low_rank.bias(module)
            y = y if added is None else y - added
            y = y if turn is None else y @ turn.to(y)
            found.outer[path] = found.outer.get(path, 0) + (y.T @ y).cpu().double()
            found.rows[path] = found.rows.get(path, 0) + len(y)

            def respond(gradient: torch.Tensor) -> None:
                total = float(gradient.double().square().sum()) / width
                found.gradient[path] = found.gradient.get(path, 0.0) + total

            if torch.is_grad_enabled():
                if output.is_leaf:
                    output.requires_grad_(True)
                output.register_hook(respond)

        handles.append(layer.register_forward_hook(read))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
