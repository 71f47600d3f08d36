"""Images that the teacher draws: `model/reference.py` does, as nothing here knows models."""

from typing import Literal

from pydantic import Field

from compress.settings import File, Frozen


class FromTeacher(Frozen):
    """No images of one's own: drawn once from the teacher and cached."""

    source: Literal["teacher"]
    count: int = Field(2000, ge=1, le=10_000_000)
    embeddings: File | None = Field(None, description=".npz with the conditions to draw for: `embeddings` of texts …")
