"""How well a picture fits the text that it was drawn for, as a model that the user names sees it.

The similarity itself means little, and differs from model to model; the difference to the teacher's picture of the same
noise and text is what is judged. A model that does not tell the teacher's pictures' own texts from other texts says
nothing of either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.judge.features import explained
from compress.pipeline.quiet import quiet
from compress.report.parts import Figure
from compress.report.statistics import bootstrap_mean

BATCH = 50
KIND = "CLIPModel"


@dataclass(frozen=True)
class Aligned:
    """Cosine similarities [n] of the student's and of the twin's pictures with their texts; and, `elsewhere`, of the
    twin's with texts that others were drawn for: what a picture has by chance."""

    student: np.ndarray
    twin: np.ndarray
    elsewhere: np.ndarray

    @property
    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Student and twin."""
        return self.student, self.twin

    @property
    def chance(self) -> Figure:
        """The mean similarity of pictures with other texts, for scale."""
        values = self.elsewhere
        return Figure(value=float(values.mean()), better="less", interval=bootstrap_mean(values), count=len(values))

    @property
    def fault(self) -> str | None:
        """Why these similarities say nothing; None: they do."""
        if not len(self.elsewhere):
            return "all pictures were drawn for the same text"
        low, _ = bootstrap_mean(self.twin - self.elsewhere)
        if low > 0:
            return None
        return "the model of `alignment` does not tell the texts of the teacher's pictures from other texts"


@dataclass(frozen=True)
class Aligner:
    """A CLIP with its tokenizer and what makes its input of pixels, all of transformers."""

    net: nn.Module
    tokenizer: Any
    processor: Any

    def compare(self, student: np.ndarray, twin: np.ndarray, texts: Sequence[str]) -> Aligned:
        """Of pictures [n,3,h,w] in [-1, 1] of both sides, drawn for texts [n]."""
        batches = [slice(start, start + BATCH) for start in range(0, len(texts), BATCH)]
        parts = [self._embed(texts[batch], student[batch], twin[batch]) for batch in batches]
        told, ours, theirs = (torch.cat(part) for part in zip(*parts, strict=True))
        others = told[another(texts)]
        pairs = (ours, told), (theirs, told), (theirs[: len(others)], others)
        return Aligned(*((pictures * words).sum(dim=1).numpy() for pictures, words in pairs))

    @torch.no_grad()
    def _embed(self, texts: Sequence[str], *sides: np.ndarray) -> list[torch.Tensor]:
        """Of texts [b] and of pictures of each side [b,3,h,w], float64 [b,d] of length 1."""
        ids = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").input_ids
        bytes_ = np.clip((np.concatenate(sides).transpose(0, 2, 3, 1) + 1) * 127.5, 0, 255).round().astype(np.uint8)
        pixels = self.processor(images=list(bytes_), return_tensors="pt").pixel_values
        found = self.net(input_ids=ids, pixel_values=pixels)
        return [found.text_embeds.double(), *found.image_embeds.double().chunk(len(sides))]


def another(texts: Sequence[str]) -> list[int]:
    """For each text the place of the next one that differs; nothing where all are the same."""
    twice, count = [*texts, *texts], len(texts)
    if len(set(texts)) < 2:
        return []
    return [next(j for j in range(i + 1, i + count) if twice[j] != text) % count for i, text in enumerate(texts)]


def load(folder: Path | None) -> Aligner | None:
    """A CLIPModel with tokenizer and image processor, as transformers saves them in one folder; None: none is named.

    Reads safetensors alone, and nothing from elsewhere. Raises VerifyError.
    """
    if folder is None:
        return None
    with explained(f"{folder}: cannot be read as a {KIND} with its tokenizer and processor"), quiet() as transformers:
        given: dict[str, Any] = {"local_files_only": True}
        config = transformers.AutoConfig.from_pretrained(folder, **given)
        found = ", ".join(config.architectures or ["nothing"])
        if found != KIND:
            raise ValueError(f"it holds {found}")
        net, about = transformers.CLIPModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **given
        )
        if about["missing_keys"]:
            raise ValueError(f"it has no weights for {sorted(about['missing_keys'])[0]}")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **given)
        tokenizer.model_max_length = min(tokenizer.model_max_length, config.text_config.max_position_embeddings)
        processor = transformers.AutoImageProcessor.from_pretrained(folder, **given)
    aligner = Aligner(net.eval().requires_grad_(False), tokenizer, processor)
    with explained(f"{folder}: fails on a picture and a text"):
        side = config.vision_config.image_size
        aligner.compare(*(np.zeros((2, 3, side, side), np.float32),) * 2, ["a", "b"])
    return aligner
