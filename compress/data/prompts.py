"""Texts to draw for, one a line."""

from pathlib import Path

from compress.errors import DataError
from compress.files import raising, read_text

BYTES = 2**26  # of a file of texts


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file (UTF-8) that are not empty. Raises DataError."""
    with raising(DataError, path):
        lines = [line.strip() for line in read_text(path, BYTES).splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise DataError(f"{path}: holds no texts; write one a line")
    return found
