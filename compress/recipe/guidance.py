"""What a recipe may say about guidance."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator

from compress import data
from compress.diffusion.sampling import Guidance
from compress.settings import File, Frozen


class GuidanceOptions(Frozen):
    """Guidance. At most one of what it leaves out, follows or is told is given; none: it leaves out a text."""

    scale: float = Field(
        ge=0,
        le=100,
        description="diffusers' guidance_scale = 1 + the papers' w; 1: no guidance. With a classifier: the factor of "
        "its gradient; 0: no guidance",
    )
    null_class: int | None = Field(None, ge=0, description="the label that stands for 'no class'")
    null_embedding: File | None = Field(
        None,
        description=".npy file: embedding of the empty text [tokens, width], or the null class embedding; .npz, where "
        "guidance leaves out more: each by the name that data have for it, as `embeddings`, `text_embeds`",
    )
    negative_prompt: str = Field("", max_length=10_000, description="of a pipeline with its text encoder")
    classifier: File | None = Field(
        None,
        description="TorchScript file (.pt) of a classifier of noisy samples, f(sample, timestep) → logits, for a "
        "class-conditional model",
    )
    embedded: Literal[True] | None = Field(None, description="the net takes the scale as an input, as LCMs do")

    @model_validator(mode="after")
    def _one(self) -> "GuidanceOptions":
        given = [self.null_class, self.null_embedding, self.classifier, self.embedded, self.negative_prompt or None]
        if given.count(None) < 4:
            raise ValueError(
                "give one of null_class (class-conditional), negative_prompt or null_embedding (text-conditional), "
                "classifier, embedded"
            )
        return self

    @property
    def by_text(self) -> bool:
        """Whether what is left out is a text, the empty or the negative prompt, where there is a text encoder."""
        return self.null_class is None and self.null_embedding is None and self.classifier is None

    @property
    def guidance(self) -> Guidance:
        """The same in the form that models carry."""
        kind: Literal["cfg", "classifier", "embedded"] = "cfg" if self.classifier is None else "classifier"
        kind = "embedded" if self.embedded else kind
        return Guidance(kind=kind, scale=self.scale, null_class=self.null_class)


def read_null(file: Path, dropped: Sequence[str]) -> dict[str, torch.Tensor]:
    """What guidance puts in place of these conditions: of an .npz by their names, of an .npy for the first alone.

    Raises DataError.
    """
    if file.suffix != ".npz":
        return {name: torch.from_numpy(data.read_npy(file)) for name in dropped[:1]}
    found = data.read_npz(file)
    named = {name: data.key(name) for name in dropped if data.key(name) in found}
    return {name: torch.from_numpy(data.finite(found[key], f"{file}: `{key}`")) for name, key in named.items()}
