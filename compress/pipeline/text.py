"""From texts to what a denoiser is told: a tokenizer and its text encoder, as transformers keeps them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.errors import CheckpointError

CONDITION = "encoder_hidden_states"
FOLDERS = ("text_encoder", "tokenizer")
_ENCODERS = ("CLIPTextModel",)
BATCH = 100  # texts that are encoded at once


@dataclass(frozen=True)
class TextEncoder:
    """tokenizer: of transformers; net: token ids [b,tokens] → states [b,tokens,width], the last layer's."""

    tokenizer: Any
    net: nn.Module

    @property
    def tokens(self) -> int:
        """Length to which every text is filled up or cut."""
        return min(int(self.tokenizer.model_max_length), self.net.config.max_position_embeddings)  # type: ignore

    def ids(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids int64 [n,tokens]; what is longer is cut, as diffusers does."""
        given = self.tokenizer(
            list(texts), padding="max_length", max_length=self.tokens, truncation=True, return_tensors="pt"
        )
        ids: torch.Tensor = given.input_ids
        return ids

    def cut(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts that are too long."""
        lengths = [len(ids) for ids in self.tokenizer(list(texts)).input_ids]
        return [text for text, length in zip(texts, lengths, strict=True) if length > self.tokens]

    @torch.no_grad()
    def encode(self, texts: Sequence[str], advance: Callable[[int], object] = lambda _: None) -> torch.Tensor:
        """States float32 [n,tokens,width] on the CPU. advance: told how many are done."""
        parts = []
        for start in range(0, len(texts), BATCH):
            ids = self.ids(texts[start : start + BATCH])
            parts.append(self.net(ids).last_hidden_state)
            advance(len(ids))
        return torch.cat(parts)


def lacking(kinds: Mapping[str, str]) -> str | None:
    """Why texts cannot be encoded by a pipeline whose parts are of these classes; None: they can."""
    encoder, tokenizer = FOLDERS
    others = [f"{name} is a {kind}" for name, kind in kinds.items() if name.startswith(f"{encoder}_")]
    if encoder not in kinds:
        return f"has no {encoder}"
    if kinds[encoder] not in _ENCODERS or others:
        found = ", ".join([f"{encoder} is a {kinds[encoder]}", *others])
        return f"{found}, and texts are encoded by one {' or '.join(_ENCODERS)} alone"
    return None if tokenizer in kinds else f"has a {encoder} and no {tokenizer}"


def load(folders: Mapping[str, Path], kinds: Mapping[str, str], where: str) -> TextEncoder | None:
    """The text encoder among a pipeline's folders, in float32; None: there is none, or one of another kind.

    kinds: class of each. Raises CheckpointError for what cannot be read.
    """
    if lacking(kinds) is not None:
        return None
    found = kinds[FOLDERS[0]]
    with quiet() as transformers:
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folders[FOLDERS[1]], local_files_only=True)
            net, about = getattr(transformers, found).from_pretrained(
                folders[FOLDERS[0]], dtype=torch.float32, local_files_only=True, use_safetensors=True,
                output_loading_info=True,
            )  # fmt: skip
        except Exception as error:  # transformers raises many kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"{where}: text_encoder or tokenizer cannot be read: {reason}; save them again, or go without by "
                "`pipeline: false`"
            ) from None
    missing = sorted(about["missing_keys"])
    if missing:
        raise CheckpointError(f"{folders[FOLDERS[0]]}: has no weights for {', '.join(missing[:3])}; save it again")
    return TextEncoder(tokenizer, net.eval().requires_grad_(False))


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """transformers, without its bars and advice; brought only by what has texts."""
    import transformers
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield transformers
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
