"""What a target is written from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compress.model.denoiser import Denoiser
from compress.runtime import Bundle


@dataclass(frozen=True)
class Source:
    """What `export_onnx` made a bundle from.

    about: of the manifest, what the model itself does not know. timesteps: that it is told in every number of steps.
    points: (sample, timestep, *inputs), each [n,…], where it is evaluated. check: holds a bundle against the model;
    figures for the record. Raises ExportError.
    """

    model: Denoiser
    about: Mapping[str, Any]
    timesteps: Sequence[int]
    points: Callable[[], list[torch.Tensor]]
    check: Callable[[Bundle], Mapping[str, float]]


@dataclass(frozen=True)
class Exported:
    """A bundle, and what it was made from where that is at hand."""

    bundle: Bundle
    source: Source | None = None
