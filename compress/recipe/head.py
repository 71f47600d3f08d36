"""What a recipe says before its passes: what is compressed, with which data, guidance and sampling."""

import re
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from compress.data import DataConfig
from compress.diffusion.schedulers import SamplingOptions
from compress.recipe.guidance import GuidanceOptions
from compress.settings import Frozen, absolute


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
