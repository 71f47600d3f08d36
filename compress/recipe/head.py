"""What a recipe says before its passes: what is compressed, with which data, guidance and sampling."""

from pydantic import Field

from compress.data import DataConfig
from compress.diffusion.schedulers import SamplingOptions
from compress.pipeline.reference import Reference
from compress.recipe.guidance import GuidanceOptions


class Head(Reference):
    """A recipe without its passes."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=100, description="names the output folder")
    data: DataConfig | None = Field(None, description="images to train on and to judge by")
    guidance: GuidanceOptions | None = Field(None, description="absent: unguided")
    sampling: SamplingOptions = Field(SamplingOptions(), description="default: the checkpoint's own scheduler")
    seed: int = Field(0, ge=0, lt=2**31, description="determines everything random")
