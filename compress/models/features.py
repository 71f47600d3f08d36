"""Reading the feature maps of a net's stages while it runs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from compress.models.denoiser import Denoiser


@contextmanager
def tapped(model: Denoiser, taps: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """While open, every evaluation of `model` leaves the outputs [b,c,h,w] of its stages in the dictionary."""
    features: dict[str, torch.Tensor] = {}
    stages = model.family.stages(model.net)
    handles = []
    for tap in taps:
        module = model.net.get_submodule(stages[tap][0])

        def keep(
            _module: object, _inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...], tap: str = tap
        ) -> None:
            features[tap] = output[0] if isinstance(output, tuple) else output

        handles.append(module.register_forward_hook(keep))
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()
