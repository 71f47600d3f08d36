"""Texts to draw for: one a line, or one a JSON object with what the picture should show."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.errors import DataError
from compress.files import raising, read_lines, read_text

BYTES = 2**26  # of a file of texts
SUFFIX = ".jsonl"


def json_lines(path: Path, limit: int) -> Iterator[tuple[str, Any]]:
    """(the place, for messages; the value) of every line of a JSONL file that is not empty. Raises DataError."""
    with raising(DataError, path):
        for number, line in enumerate(read_lines(path, limit), start=1):
            where = f"{path}: line {number}"
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: is no JSON: {error}") from None
            yield where, value


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file (UTF-8) that are not empty, or the texts of a JSONL file. Raises DataError."""
    return [row["text"] for row in read_asked(path)]


def read_asked(path: Path) -> list[dict[str, str]]:
    """Every `text` of a file with the attributes that a picture of it has, by name; a text file says none.

    A line of a JSONL file is like {"text": "flat, red apple", "style": "flat"}. Raises DataError.
    """
    if path.suffix.lower() == SUFFIX:
        found = []
        for where, row in json_lines(path, BYTES):
            words = isinstance(row, dict) and all(isinstance(value, str) and value.strip() for value in row.values())
            if not words or "text" not in row:
                raise DataError(f'{where}: should be like {{"text": "flat, red apple", "style": "flat"}}, words alone')
            found.append({**row, "text": row["text"].strip()})
    else:
        with raising(DataError, path):
            found = [{"text": line.strip()} for line in read_text(path, BYTES).splitlines() if line.strip()]
    if not found:
        raise DataError(f"{path}: holds no texts; write one a line")
    return found
