"""Arrays that are computed once, in parts, and kept on disk."""

import io
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.data.items import OnDisk
from compress.errors import DataError
from compress.files import Unreadable, read_text, unwritable, write_text
from compress.folders import LOCK, alone

_DONE = "done"


Make = Callable[[int, int], Mapping[str, torch.Tensor]]
Shown = Callable[[], AbstractContextManager[Any]]


def kept(folder: Path, count: int, at_once: int, make: Make, shown: Shown) -> dict[str, OnDisk]:
    """Arrays float32 [count,…] by name, which are computed if `folder` does not hold them, and read from there.

    make: rows from one number to another, `at_once` of them, by name; all that is ever in memory. shown: the progress
    of making them. Stopped and called again, it goes on with the first rows that are missing. Raises OutputError if
    they cannot be written, or if another run is writing them; DataError if what was written is damaged.
    """
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.part")
        try:
            part.mkdir(parents=True, exist_ok=True)
            with alone(part):
                _make(part, count, at_once, make, shown)
            (part / LOCK).unlink()
            part.rename(folder)
        except OSError as error:
            raise unwritable(part, error) from error
    try:
        return {file.stem: OnDisk(np.load(file, mmap_mode="r")) for file in sorted(folder.glob("*.npy"))}
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: cannot be read: {error}; delete it, and it is made again") from None


def _make(part: Path, count: int, at_once: int, make: Make, shown: Shown) -> None:
    try:
        done = int(read_text(part / _DONE, 100))
    except Unreadable:
        done = 0
    with shown() as task:
        task.advance(done)
        for start in range(done, count, at_once):
            end = min(start + at_once, count)
            for name, rows in make(start, end).items():
                _write(part / f"{name}.npy", rows.numpy(), start, count)
            write_text(part / _DONE, str(end))  # after the rows: what it says is there
            task.advance(end - start)


def _write(file: Path, rows: np.ndarray, start: int, count: int) -> None:
    """Put float32 rows at their place: through a file, as a map of a full disk ends the process."""
    head = io.BytesIO()
    kind = {"descr": "<f4", "fortran_order": False, "shape": (count, *rows.shape[1:])}
    np.lib.format.write_array_header_1_0(head, kind)
    with file.open("r+b" if start else "wb") as stream:
        stream.write(head.getvalue())
        stream.seek(head.tell() + start * rows[0].size * 4)
        stream.write(np.ascontiguousarray(rows, "<f4").tobytes())
