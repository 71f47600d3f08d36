"""How much of a model a pass is to leave: the target in its settings, and what a smaller model has left of it."""

from collections.abc import Callable
from typing import Self

from pydantic import Field, model_validator

from compress.errors import PassError
from compress.measure import blocks, counts
from compress.model.denoiser import Denoiser
from compress.settings import Frozen, only

REACHED = {"reason": "the target is what the model has"}

# (smaller model, whole model) → what is left, as a fraction.
LEFT: dict[str, Callable[[Denoiser, Denoiser], float]] = {
    "macs": lambda less, whole: counts.macs(less) / counts.macs(whole),
    "params": lambda less, whole: counts.parameters(less) / counts.parameters(whole),
    "bytes": lambda less, whole: counts.weight_bytes(less) / counts.weight_bytes(whole),
    "latency": lambda less, whole: blocks.share(whole, less),
}


class Target(Frozen):
    """How much is to be left, as a fraction of the model so far. Exactly one is given."""

    macs: float | None = Field(None, gt=0, le=1, description="multiply-accumulates of one evaluation")
    params: float | None = Field(None, gt=0, le=1, description="parameters")

    @model_validator(mode="after")
    def _one(self) -> Self:
        only(self, *type(self).model_fields)
        return self

    @property
    def kind(self) -> str:
        """Which is given."""
        return only(self, *type(self).model_fields)

    @property
    def fraction(self) -> float:
        """How much of it."""
        found: float = getattr(self, self.kind)
        return found


def out_of_reach(where: str, target: Target, most: str, left: float, advice: str) -> PassError:
    """The error of a target that is missed although a pass did the `most` it can, which leaves `left`."""
    return PassError(f"{where}: {target.kind}: {target.fraction} is out of reach; {most} leaves {left:.3f}; {advice}")
