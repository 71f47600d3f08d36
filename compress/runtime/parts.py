"""What stands behind a denoiser in a bundle: latents to pixels, and back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compress.runtime.engine import Feeds, Graph

Run = Callable[[Graph, Feeds, int | None], Sequence[np.ndarray]]
BATCH = 16  # items in one call
MOMENTS = "latent_parameters"  # mean and logarithm of the variance, as channels one after the other


@dataclass(frozen=True)
class Autoencoder:
    """Half of one. about: `decoder` or `encoder` of a bundle.json. run: its input [b,…] → its output [b,…]."""

    about: Mapping[str, Any]
    run: Callable[[np.ndarray], np.ndarray]

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Pixels float32 [n,c,h,w] of about [-1, 1] from latents [n,…]."""
        scale, shift = np.float32(self.about["scale"]), np.float32(self.about["shift"])
        return self._by_parts(latents.astype(np.float32) / scale + shift)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Latents float32 [n,…] from pixels [n,c,h,w] in [-1, 1]; where they are a distribution, its mode."""
        scale, shift = np.float32(self.about["scale"]), np.float32(self.about["shift"])
        found = self._by_parts(pixels.astype(np.float32))
        return ((np.split(found, 2, axis=1)[0] if self.about["gives"] == MOMENTS else found) - shift) * scale

    def _by_parts(self, given: np.ndarray) -> np.ndarray:
        return np.concatenate([self.run(given[start : start + BATCH]) for start in range(0, len(given), BATCH)])


def open_decoder(
    about: Mapping[str, Any], latent: Sequence[int], opened: Callable[..., Graph], run: Run
) -> Autoencoder:
    """latent: shape of one. opened, run: as a Bundle opens and runs graphs. Raises BundleError."""
    return _open(about, ("latent_sample", latent), ("sample", about["pixels"]), opened, run)


def open_encoder(
    about: Mapping[str, Any], latent: Sequence[int], opened: Callable[..., Graph], run: Run
) -> Autoencoder:
    """As `open_decoder`."""
    channels, *sides = latent
    found = [2 * channels if about["gives"] == MOMENTS else channels, *sides]
    return _open(about, ("sample", about["pixels"]), (about["gives"], found), opened, run)


def _open(
    about: Mapping[str, Any],
    given: tuple[str, Sequence[int]],
    gives: tuple[str, Sequence[int]],
    opened: Callable[..., Graph],
    run: Run,
) -> Autoencoder:
    specs = ({name: {"dtype": "float32", "shape": ["batch", *shape]}} for name, shape in (given, gives))
    graph = opened(about["model"], *specs, about["scheme"])
    return Autoencoder(about, lambda values: run(graph, {given[0]: values}, None)[0])
