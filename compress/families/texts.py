"""How pipelines make conditions of texts: which encoders read them, and what becomes of what these find."""

from collections.abc import Mapping
from dataclasses import dataclass, field

CLIP = "CLIPTextModel"
CLIP_PROJECTED = "CLIPTextModelWithProjection"
T5 = "T5EncoderModel"
Row = tuple[str, ...]


@dataclass(frozen=True)
class Encoder:
    """One text encoder. kind, tokenizer: its class, of transformers, and the folder of its tokenizer.

    tokens: length to which texts are filled up or cut; None: the longest that tokenizer and encoder know. masked: it is
    told which tokens fill up. lowered: texts are stripped and in small letters. optional: zeros stand in for it.
    """

    kind: str
    tokenizer: str
    tokens: int | None = None
    masked: bool = False
    lowered: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Texts:
    """encoders: by their folders in a pipeline.

    made: condition → rows of what encoders find: "folder.last", "folder.penultimate" (states [b,tokens,width] of that
    layer), "folder.pooled" [b,width], "folder.mask" [b,tokens]. What stands in a row is joined along the width; rows
    follow one another along the tokens, each filled up with zeros to `width`.
    told: condition → the numbers that it says of the picture: "height", "width", "aspect" (height ÷ width), or fixed.
    zeros: whether zeros are what no text is, where no negative prompt is given.
    """

    encoders: Mapping[str, Encoder]
    made: Mapping[str, tuple[Row, ...]]
    told: Mapping[str, tuple[str | float, ...]] = field(default_factory=dict)
    zeros: bool = False
    width: int = 0
