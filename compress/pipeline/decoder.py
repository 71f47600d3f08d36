"""From latents to pixels, and back: the autoencoder of a pipeline."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from compress.errors import CheckpointError

KINDS = ("AutoencoderKL", "AutoencoderTiny", "VQModel")
BATCH = 20  # pictures at once


@dataclass(frozen=True)
class Decoder:
    """net: diffusers' autoencoder. Latents are what it encodes, less `shift`, times `scale`. name: in the pipeline."""

    name: str
    net: nn.Module
    scale: float
    shift: float = 0.0

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, advance: Callable[[int], object] = lambda _: None) -> torch.Tensor:
        """Pixels [n,c,h,w] of about [-1, 1], on the CPU, from latents [n,…]. advance: told how many are done."""
        return self._by_parts(self.pixels, latents, advance)

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor, advance: Callable[[int], object] = lambda _: None) -> torch.Tensor:
        """Latents [n,…], on the CPU, from pixels [n,c,h,w] in [-1, 1]; where they are a distribution, its mode."""
        return self._by_parts(self.latents, pixels, advance)

    def pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """As `decode`, at once and where the net is."""
        found: torch.Tensor = self.net.decode(latents / self.scale + self.shift).sample  # type: ignore[operator]
        return found

    def latents(self, pixels: torch.Tensor) -> torch.Tensor:
        """As `encode`, at once and where the net is."""
        given: Any = self.net.encode(pixels)  # type: ignore[operator]
        found: torch.Tensor = given.latent_dist.mode() if hasattr(given, "latent_dist") else given.latents
        return (found - self.shift) * self.scale

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.net.parameters())

    @property
    def factor(self) -> int:
        """By what the sides of a picture are longer than those of its latent."""
        channels: int = self.net.config.latent_channels  # type: ignore[union-attr, assignment]
        return self.shape((channels, 1, 1))[1]

    def shape(self, latent: tuple[int, ...]) -> tuple[int, ...]:
        """(channels, height, width) of the picture of a latent of this shape."""
        return tuple(self.decode(torch.zeros(1, *latent)).shape[1:])

    def _by_parts(
        self, work: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor, advance: Callable[[int], object]
    ) -> torch.Tensor:
        device, parts = next(self.net.parameters()).device, []
        for part in given.split(BATCH):
            parts.append(work(part.to(device)).cpu())
            advance(len(part))
        return torch.cat(parts)


def load(folders: Mapping[str, Path], kinds: Mapping[str, str]) -> Decoder | None:
    """The decoder among a pipeline's folders, in float32; None: there is none, or one of another kind.

    kinds: class of each. Raises CheckpointError for what cannot be read.
    """
    name = next((name for name, kind in kinds.items() if kind in KINDS), None)
    if name is None:
        return None
    try:
        net, about = getattr(diffusers, kinds[name]).from_pretrained(
            folders[name], torch_dtype=torch.float32, local_files_only=True, use_safetensors=True,
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # diffusers raises many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{folders[name]}: cannot be read: {reason}; save it again, or go without by `pipeline: false`"
        ) from None
    if about["missing_keys"]:
        missing = ", ".join(sorted(about["missing_keys"])[:3])
        raise CheckpointError(f"{folders[name]}: has no weights for {missing}; save it again")
    return of_net(name, net.eval().requires_grad_(False))


def of_net(name: str, net: nn.Module) -> Decoder:
    """With the scale and shift of its config."""
    config: Mapping[str, Any] = net.config  # type: ignore[assignment]
    return Decoder(name, net, config["scaling_factor"], config.get("shift_factor") or 0.0)
