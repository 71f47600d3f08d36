"""What stands around a denoiser in a text-to-image bundle: texts to conditions, latents to pixels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import BundleError
from compress.runtime.engines import Feeds

Run = Callable[[Feeds], np.ndarray]
BATCH = 16  # items in one call


@dataclass(frozen=True)
class TextEncoder:
    """about: `text` of a bundle.json. run: input_ids int64 [b,tokens] → states float32 [b,tokens,width]."""

    folder: Path
    about: Mapping[str, Any]
    run: Run

    @cached_property
    def tokenizer(self) -> Any:
        """Of the library tokenizers. Raises BundleError."""
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise BundleError(f"{self.folder}: texts need a tokenizer: pip install tokenizers") from None
        file = self.folder / self.about["tokenizer"]
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exceptions
            raise BundleError(f"{file}: cannot be read: {error}; copy or export it again") from None
        tokens, pad = self.about["tokens"], self.about["pad"]
        tokenizer.enable_truncation(tokens)
        tokenizer.enable_padding(length=tokens, pad_id=pad, pad_token=tokenizer.id_to_token(pad))
        return tokenizer

    def cut(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts that are longer than the encoder takes; it sees their beginnings alone."""
        found = self.tokenizer.encode_batch(list(texts))
        return [text for text, tokens in zip(texts, found, strict=True) if tokens.overflowing]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """States float32 [n,tokens,width]; of each text its beginning."""
        ids = np.array([found.ids for found in self.tokenizer.encode_batch(list(texts))], dtype=np.int64)
        return _by_parts(lambda part: self.run({"input_ids": part}), ids)


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
