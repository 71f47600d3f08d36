"""What stands behind a denoiser in a bundle: latents to pixels, and back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compress.runtime.engines import Feeds

Run = Callable[[Feeds], np.ndarray]
BATCH = 16  # items in one call


@dataclass(frozen=True)
class Decoder:
    """about: `decoder` of a bundle.json. run: latent_sample [b,…] → pixels [b,c,h,w]."""

    about: Mapping[str, Any]
    run: Run

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Pixels float32 [n,c,h,w] of about [-1, 1] from latents [n,…]."""
        scale, shift = np.float32(self.about["scale"]), np.float32(self.about["shift"])
        return _by_parts(lambda part: self.run({"latent_sample": part}), latents.astype(np.float32) / scale + shift)


def _by_parts(work: Callable[[np.ndarray], np.ndarray], given: np.ndarray) -> np.ndarray:
    return np.concatenate([work(given[start : start + BATCH]) for start in range(0, len(given), BATCH)])
