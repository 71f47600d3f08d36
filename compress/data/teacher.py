"""Images that the teacher draws: `model/reference.py` does, as nothing here knows models."""

from typing import Literal

from pydantic import Field, model_validator

from compress.settings import File, Frozen


class FromTeacher(Frozen):
    """No images of one's own: drawn once from the teacher and cached."""

    source: Literal["teacher"]
    count: int = Field(2000, ge=1, le=10_000_000)
    prompts: File | None = Field(None, description="text file, a prompt a line; for text-conditional models")
    embeddings: File | None = Field(
        None, description=".npz with the conditions to draw for: `embeddings` of texts, without their text encoder, …"
    )

    @model_validator(mode="after")
    def _one(self) -> "FromTeacher":
        if self.prompts is not None and self.embeddings is not None:
            raise ValueError("prompts, embeddings: give one of them")
        return self
