"""Numbers that a net takes as inputs of their own: the guidance scale, the number of steps.

Each is a Fourier embedding through a small perceptron whose last layer starts at zero, added to the class embedding and
with it to the embedding of time. Before training the net therefore computes what it did without them (Meng et al. 2023,
section 3.1).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from compress.families.family import Family

GUIDANCE_SCALE, STEPS = "guidance_scale", "steps"
WIDTH = 64
# The number that is embedded. Guidance: the papers' w; steps: doublings.
VALUES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    GUIDANCE_SCALE: lambda scale: scale - 1,
    STEPS: lambda count: count.log2(),
}


def fourier(value: torch.Tensor, width: int = WIDTH) -> torch.Tensor:
    """sin and cos [b,width] of a number [b] at frequencies 1/16 … 16 in equal ratios."""
    half = width // 2
    exponent = torch.linspace(-4, 4, half, device=value.device, dtype=value.dtype)
    angle = value[:, None] * (exponent * math.log(2)).exp()[None]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class ScalarEmbedding(nn.Module):
    """In place of a net's class embedding: that, if there was one, plus an embedding of every scalar.

    given: the class embedding, or one of these, which then takes further names.
    """

    kind = "scalars"

    def __init__(self, given: Any, names: list[str], width: int) -> None:
        super().__init__()
        earlier = given if isinstance(given, ScalarEmbedding) else None
        self.given: nn.Module | None = earlier.given if earlier else given
        known: dict[str, nn.Module] = dict(earlier.embeddings.items()) if earlier else {}
        self.embeddings: nn.ModuleDict = nn.ModuleDict(
            known | {name: _perceptron(width) for name in names if name not in known}
        )
        self.names: tuple[str, ...] = tuple(self.embeddings)

    def forward(self, inputs: tuple[torch.Tensor | None, tuple[torch.Tensor, ...]]) -> torch.Tensor:
        """(what the class embedding takes or None, the scalars [b] in the order of `names`) -> [b,width]."""
        labels, scalars = inputs
        total: torch.Tensor | None = None if self.given is None else self.given(labels)
        for name, scalar in zip(self.names, scalars, strict=True):
            dtype = next(self.embeddings[name].parameters()).dtype
            embedded = self.embeddings[name](fourier(VALUES[name](scalar.float())).to(dtype))
            total = embedded if total is None else total + embedded
        assert total is not None
        return total

    @property
    def edit(self) -> dict[str, Any]:
        """As `structure.json` holds it."""
        last: Any = self.embeddings[self.names[0]][2]  # type: ignore[index]
        return {"kind": self.kind, "names": list(self.names), "width": last.out_features}


def _perceptron(width: int) -> nn.Sequential:
    last = nn.Linear(WIDTH, width)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), last)


def names(net: nn.Module, family: Family) -> tuple[str, ...]:
    """The scalars that a net takes, in order."""
    added: tuple[str, ...] = next((one.names for one in net.modules() if isinstance(one, ScalarEmbedding)), ())
    return (*family.told(net), *added)


def add(net: nn.Module, family: Family, name: str) -> None:
    """Let a net take one scalar more. Raises ValueError where it has no place for one."""
    if name in names(net, family):
        return
    weight = next(net.parameters())
    for path, width in family.scalars(net).items():
        owner, _, place = path.rpartition(".")
        module = net.get_submodule(owner)
        added = ScalarEmbedding(getattr(module, place), [name], width)
        setattr(module, place, added.to(weight.device, weight.dtype))
