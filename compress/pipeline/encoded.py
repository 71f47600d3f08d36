"""What a pipeline's encoders make of a data set: computed once, a batch at a time, and kept on disk."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from compress.data import Items, kept
from compress.model.reference import Progress
from compress.pipeline import decoder, text
from compress.pipeline.decoder import Decoder
from compress.pipeline.pipeline import Parts, encoders


def latents(net: Decoder, pictures: Items, folder: Path, device: torch.device, progress: Progress) -> Items:
    """Latents float32 [n,…] of pictures [n,c,h,w], which `folder` keeps; what it lacks is encoded on the device."""
    count, home = len(pictures), next(net.net.parameters()).device

    def make(start: int, end: int) -> dict[str, torch.Tensor]:
        net.net.to(device)
        return {"latents": net.encode(pictures[start:end])}

    try:
        return kept(folder, count, decoder.BATCH, make, lambda: progress("encoding pictures", count))["latents"]
    finally:
        net.net.to(home)


def embeddings(
    parts: Parts, texts: Sequence[str], folder: Path, progress: Progress, log: Callable[[str], None]
) -> Mapping[str, Items]:
    """As `encode`, the conditions [n,…] of texts, which `folder` keeps. Raises DataError without a text encoder."""
    found = encoders(parts, () if folder.is_dir() else texts, log)

    def make(start: int, end: int) -> dict[str, torch.Tensor]:
        return found.encode(texts[start:end])

    return kept(folder, len(texts), text.BATCH, make, lambda: progress("encoding texts", len(texts)))
