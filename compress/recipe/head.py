"""What a recipe says before its passes: what is compressed, with which data, guidance and sampling."""

import re
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator, model_validator

from compress.data import DataConfig
from compress.diffusion.schedulers import SamplingOptions
from compress.settings import File, Frozen, absolute


class GuidanceOptions(Frozen):
    """Guidance, classifier-free or by a classifier. At most one of what it leaves out, or follows, is given."""

    scale: float = Field(
        ge=0,
        le=100,
        description="diffusers' guidance_scale = 1 + the papers' w; 1: no guidance. With a classifier: the factor of "
        "its gradient; 0: no guidance",
    )
    null_class: int | None = Field(None, ge=0, description="the label that stands for 'no class'")
    null_embedding: File | None = Field(
        None, description=".npy file: embedding of the empty text [tokens, width], or the null class embedding"
    )
    negative_prompt: str = Field("", max_length=10_000, description="of a pipeline with its text encoder")
    classifier: File | None = Field(
        None,
        description="TorchScript file (.pt) of a classifier of noisy samples, f(sample, timestep) → logits, for a "
        "class-conditional model",
    )

    @model_validator(mode="after")
    def _one(self) -> "GuidanceOptions":
        if [self.null_class, self.null_embedding, self.classifier, self.negative_prompt or None].count(None) < 3:
            raise ValueError(
                "give one of null_class (class-conditional), negative_prompt or null_embedding (text-conditional), "
                "classifier"
            )
        return self

    @property
    def by_text(self) -> bool:
        """Whether it leaves out a text, which is empty or the negative prompt."""
        return self.null_class is None and self.null_embedding is None and self.classifier is None


class Head(Frozen):
    """A recipe without its passes."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=100, description="names the output folder")
    checkpoint: str | None = Field(None, description="diffusers folder, relative to the recipe, or hub id (owner/name)")
    data: DataConfig | None = Field(None, description="images to train on and to judge by")
    guidance: GuidanceOptions | None = Field(None, description="absent: unguided")
    sampling: SamplingOptions = Field(SamplingOptions(), description="default: the checkpoint's own scheduler")
    seed: int = Field(0, ge=0, lt=2**31, description="determines everything random")
    pipeline: bool | None = Field(None, description="keep text encoders, VAE …; default: if checkpoint is a folder")

    @field_validator("checkpoint")
    @classmethod
    def _folder_or_hub_id(cls, name: str | None, info: ValidationInfo) -> str | None:
        try:
            return name if name is None else str(absolute(Path(name), info))
        except ValueError:
            if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name or ""):
                return name
            raise
