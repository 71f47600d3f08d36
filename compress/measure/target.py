"""How much of a model a pass is to leave: the target in its settings, and what a smaller model has left of it."""

from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator

from compress.errors import PassError
from compress.measure import counts
from compress.measure.latency import interleaved
from compress.model.denoiser import Denoiser, example_inputs
from compress.model.reference import silent
from compress.settings import Frozen, only

REACHED = {"reason": "the target is what the model has"}
ROUNDS = 5


@torch.no_grad()
def _time(less: Denoiser, whole: Denoiser) -> float:
    """By the medians of one interleaved run of evaluations in PyTorch at batch 1."""
    inputs = example_inputs(whole, batch=1)

    def call(model: Denoiser) -> Callable[[], object]:
        return lambda: model.module(*inputs).cpu()  # which waits for it

    taken = interleaved({"less": call(less), "whole": call(whole)}, ROUNDS, silent)
    return float(np.median(taken["less"]) / np.median(taken["whole"]))


# (smaller model, whole model) → what is left, as a fraction.
LEFT: dict[str, Callable[[Denoiser, Denoiser], float]] = {
    "macs": lambda less, whole: counts.macs(less) / counts.macs(whole),
    "params": lambda less, whole: counts.parameters(less) / counts.parameters(whole),
    "bytes": lambda less, whole: counts.weight_bytes(less) / counts.weight_bytes(whole),
    "latency": _time,
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
