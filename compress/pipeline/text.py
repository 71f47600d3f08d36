"""From texts to what a denoiser is told: tokenizers and text encoders, as transformers keeps them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.errors import CheckpointError
from compress.families.texts import CLIP_PROJECTED, Encoder, Texts
from compress.pipeline.quiet import quiet
from compress.runtime.texts import IDS, MASK, conditions_of, cut_by

CONDITION = "encoder_hidden_states"
BATCH = 100  # texts that are encoded at once
_LAST, _POOLED = "last_hidden_state", "text_embeds"  # transformers' names


@dataclass(frozen=True)
class TextEncoder:
    """about: what its family says of it. tokenizer: of transformers; net: token ids [b,tokens] → what it finds.

    deep: whether states of other layers than the last are asked for.
    """

    about: Encoder
    tokenizer: Any
    net: nn.Module
    deep: bool = False

    @property
    def config(self) -> Any:
        """transformers' config."""
        return self.net.config

    @property
    def tokens(self) -> int:
        """Length to which every text is filled up or cut."""
        known = [self.tokenizer.model_max_length, getattr(self.config, "max_position_embeddings", None)]
        return self.about.tokens or min(int(length) for length in known if length)

    @property
    def inputs(self) -> list[str]:
        """Names of what the net takes."""
        return [IDS, MASK] if self.about.masked else [IDS]

    @property
    def outputs(self) -> list[str]:
        """Names of what it gives, as clients of diffusers' pipelines know them: all states, where one is asked for."""
        pooled = [_POOLED] if self.about.kind == CLIP_PROJECTED else []
        return [*pooled, _LAST, *(f"hidden_states.{i}" for i in range(self.config.num_hidden_layers) if self.deep)]

    def named(self, what: str) -> str:
        """The output, or mask, that the family calls "last", "penultimate", "pooled" or "mask"."""
        penultimate = f"hidden_states.{self.config.num_hidden_layers - 1}"
        return {"last": _LAST, "penultimate": penultimate, "pooled": _POOLED, "mask": MASK}[what]

    def read(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask int64 [n,tokens]; what is longer is cut, as diffusers does."""
        given = self.tokenizer(
            self._plain(texts), padding="max_length", max_length=self.tokens, truncation=True, return_tensors="pt"
        )
        return given.input_ids, given.attention_mask

    def _plain(self, texts: Sequence[str]) -> list[str]:
        return [text.lower().strip() if self.about.lowered else text for text in texts]

    def cut(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts that are too long."""
        lengths = [len(ids) for ids in self.tokenizer(self._plain(texts)).input_ids]
        return [text for text, length in zip(texts, lengths, strict=True) if length > self.tokens]

    @property
    def module(self) -> nn.Module:
        """f(*inputs [b,tokens]) -> outputs [b,…]."""
        return Found(self.net, self.about.kind == CLIP_PROJECTED, self.deep).eval()

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """As of a bundle's encoder."""
        ids, mask = self.read(texts)
        found = (value.numpy() for value in self.module(*(ids, mask)[: len(self.inputs)]))
        return {**dict(zip(self.outputs, found, strict=True)), MASK: mask.float().numpy()}


class Found(nn.Module):
    """What a text encoder finds: the pooled text, if it has one, its last states, and, where asked for, all before."""

    def __init__(self, net: nn.Module, pooled: bool, deep: bool) -> None:
        super().__init__()
        self.net, self.pooled, self.deep = net, pooled, deep

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        given = {} if attention_mask is None else {"attention_mask": attention_mask}
        found = self.net(input_ids, **given, output_hidden_states=self.deep)
        pooled = [found.text_embeds] if self.pooled else []
        return (*pooled, found.last_hidden_state, *(found.hidden_states[:-1] if self.deep else ()))


@dataclass(frozen=True)
class TextEncoders:
    """All of a pipeline, by their folders in it. rule: its family's. picture: its height and width."""

    rule: Texts
    encoders: Mapping[str, TextEncoder]
    picture: tuple[int, int]

    @property
    def about(self) -> dict[str, Any]:
        """What a bundle.json says of how their findings become conditions; zeros stand for what is not there."""
        made: dict[str, list[Any]] = {}
        for condition, rows in self.rule.made.items():
            made[condition] = []
            for row in rows:
                keys = [key.partition(".") for key in row]
                there = [f"{one}.{self.encoders[one].named(what)}" for one, _, what in keys if one in self.encoders]
                made[condition].append(there or self.rule.encoders[keys[0][0]].tokens)
        return {
            "made": made,
            "told": {name: list(told) for name, told in self.rule.told.items()},
            "width": self.rule.width,
        }

    def cut(self, texts: Sequence[str]) -> dict[str, int]:
        """The texts that are too long for an encoder → how many tokens of them the most patient one sees."""
        return cut_by({one.tokens: one.cut(texts) for one in self.encoders.values()})

    def encode(
        self, texts: Sequence[str], advance: Callable[[int], object] = lambda _: None
    ) -> dict[str, torch.Tensor]:
        """Conditions float32 [n,…] on the CPU, by their names. advance: told how many are done."""
        parts: list[dict[str, np.ndarray]] = []
        for start in range(0, len(texts), BATCH):
            chosen = texts[start : start + BATCH]
            found = {name: encoder.encode(chosen) for name, encoder in self.encoders.items()}
            parts.append(conditions_of(self.about, found, len(chosen), self.picture))
            advance(len(chosen))
        return {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}

    def null(self, negative: str) -> dict[str, torch.Tensor]:
        """What guidance leads away from, for one item: a negative prompt, or no text, as diffusers' pipelines do."""
        found = {name: value[0] for name, value in self.encode([negative]).items() if name in self.rule.made}
        return found if negative or not self.rule.zeros else {name: value * 0 for name, value in found.items()}


def lacking(rule: Texts | None, kinds: Mapping[str, str]) -> str | None:
    """Why texts cannot be encoded by a pipeline whose parts are of these classes; None: they can."""
    if rule is None:
        return "makes no conditions of texts in a way that is known"
    encoders = {name: kind for name, kind in kinds.items() if name.startswith("text_encoder")}
    for name, one in rule.encoders.items():
        if name not in kinds and not one.optional:
            return f"has no {name}"
    if {name: rule.encoders[name].kind if name in rule.encoders else None for name in encoders} != encoders:
        found = ", ".join(f"{name} is a {kind}" for name, kind in encoders.items())
        wanted = " and ".join(f"a {one.kind} ({name})" for name, one in rule.encoders.items())
        return f"{found}, and texts are encoded by {wanted} alone"
    bare = [name for name in encoders if rule.encoders[name].tokenizer not in kinds]
    return f"has a {bare[0]} and no {rule.encoders[bare[0]].tokenizer}" if bare else None


def load(
    rule: Texts | None, folders: Mapping[str, Path], kinds: Mapping[str, str], picture: tuple[int, int]
) -> TextEncoders | None:
    """The text encoders among a pipeline's folders, in float32; None: there are none, or others than its family knows.

    kinds: class of each. Raises CheckpointError for what cannot be read.
    """
    if rule is None or lacking(rule, kinds) is not None:
        return None
    deep = {key.partition(".")[0] for rows in rule.made.values() for row in rows for key in row if "penult" in key}
    loaded = {
        name: TextEncoder(one, *_read(folders[name], one.kind, folders[one.tokenizer]), deep=name in deep)
        for name, one in rule.encoders.items()
        if name in kinds
    }
    return TextEncoders(rule, loaded, picture)


def _read(folder: Path, kind: str, tokenizer: Path) -> tuple[Any, nn.Module]:
    """(tokenizer, net) of two folders. Raises CheckpointError."""
    with quiet() as transformers:
        try:
            words = transformers.AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
            net, about = getattr(transformers, kind).from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:  # transformers raises many kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"{folder.parent}: {folder.name} or {tokenizer.name} cannot be read: {reason}; save them again, or go "
                "without by `pipeline: false`"
            ) from None
    missing = sorted(about["missing_keys"])
    if missing:
        raise CheckpointError(f"{folder}: has no weights for {', '.join(missing[:3])}; save it again")
    return words, net.eval().requires_grad_(False)
