"""Reading .npz and .npy files, whatever they hold: plain numbers alone, of bounded size."""

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from compress.errors import DataError, short, written
from compress.files import Unreadable, check_regular

# Of an .npz, by condition; others are called there as they are in the net.
KEYS = {"class_labels": "labels", "encoder_hidden_states": "embeddings", "class_embedding": "class_embeddings"}
NUMBERS = 2**30  # of one file


def key(condition: str) -> str:
    """What an .npz calls a condition."""
    return KEYS.get(condition, condition)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file: numbers alone, at most NUMBERS of them. Raises DataError."""
    arrays: dict[str, np.ndarray] = {}
    with _blamed(path, ".npz arrays"), zipfile.ZipFile(path) as opened:
        for member in opened.infolist():
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Unreadable(f"{short(member.filename)} is compressed in a way that numpy does not write")
            name = member.filename.removesuffix(".npy")
            with opened.open(member) as stream:
                arrays[name] = _array(stream, sum(array.size for array in arrays.values()), f"`{written(name)}` ")
    return arrays


def read_npy(path: Path) -> np.ndarray:
    """The finite numbers of an .npy file as float32, at most NUMBERS of them. Raises DataError."""
    with _blamed(path, ".npy"), path.open("rb") as stream:
        array = _array(stream)
    return finite(array, str(path))


def read_embeddings(path: Path, condition: str) -> np.ndarray:
    """The embeddings [n,…] float32 that an .npz holds for a condition. Raises DataError."""
    arrays, name = read_npz(path), key(condition)
    if name not in arrays:
        raise DataError(f"{path}: has no `{name}` (found: {short(list(arrays)) if arrays else 'nothing'})")
    if not arrays[name].ndim or not len(arrays[name]):
        raise DataError(f"{path}: `{name}` should be [n, …], for one item at least; got {list(arrays[name].shape)}")
    return finite(arrays[name], f"{path}: `{name}`")


def finite(array: np.ndarray, where: str) -> np.ndarray:
    """The array as float32. Raises DataError if it is not of real, finite numbers."""
    with np.errstate(over="ignore"):
        found = array.astype(np.float32) if array.dtype.kind == "f" else array
    if found.dtype != np.float32 or not np.isfinite(found).all():
        raise DataError(f"{where}: should be finite floats; got {array.dtype}")
    return found


@contextlib.contextmanager
def _blamed(path: Path, kind: str) -> Iterator[None]:
    """Raise DataError for whatever a file is found to be, and before it is opened if that may wait for ever."""
    try:
        check_regular(path)
        yield
    except Unreadable as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # zip and format errors of many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: cannot be read as {kind}: {reason}") from None


def _array(stream: IO[bytes], before: int = 0, name: str = "") -> np.ndarray:
    """The array of an .npy stream, if it is of plain numbers, few enough with those that were read `before`."""
    if np.lib.format.read_magic(stream) != (1, 0):  # other versions have headers of gigabytes
        raise Unreadable(f"{name}holds something else than plain numbers")
    shape, _, kind = np.lib.format.read_array_header_1_0(stream)
    if kind.kind not in "biuf":
        raise Unreadable(f"{name}holds {kind}; only plain numbers are read")
    if min(shape, default=0) < 0 or before + math.prod(shape) > NUMBERS:
        found = "×".join(map(str, shape[:8]))
        raise Unreadable(f"{name}holds {written(found)} numbers; at most {NUMBERS:,} are read of a file")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)
