"""Files of arrays that are made to break their reader."""

import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from compress import data
from compress.data import Npz, arrays
from compress.errors import DataError
from tests.data.helpers import GREY, images, refused, write_npz


def header(shape: str, kind: str = "'<f4'", version: bytes = b"\x01\x00") -> bytes:
    """The head of an .npy file, whatever it declares."""
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text


ARRAYS = [
    (header("(999999999, 999)"), "holds 999999999×999 numbers; at most 1,073,741,824 are read"),
    (header("(-1, 5)"), "numbers; at most"),
    (header("(3,)", "'|O'"), "holds object; only plain numbers are read"),
    (header("(3,)", "'<c8'"), "holds complex64; only plain numbers are read"),
    (header("(3,)", "'<M8[s]'"), "only plain numbers are read"),
    (header("(3,)", version=b"\x02\x00"), "something else than plain numbers"),
    (header("(1000000,)"), "cannot be read"),
    (header("(3,)")[:40], "cannot be read"),
    (b"", "cannot be read"),
]


@pytest.mark.parametrize(("content", "words"), ARRAYS, ids=[words for _, words in ARRAYS])
def test_an_array_that_is_not_read(tmp_path: Path, content: bytes, words: str) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as opened:
        opened.writestr("images.npy", content)
    refused(Npz(source="npz", path=tmp_path / "d.npz"), GREY, None, tmp_path / "d.npz", words)
    (tmp_path / "null.npy").write_bytes(content)
    with pytest.raises(DataError, match=f"null.npy: .*{words}"):
        data.read_npy(tmp_path / "null.npy")


def test_arrays_that_are_too_large_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "NUMBERS", 3 * 64 + 2)
    refused(write_npz(tmp_path / "d.npz", images=images(), labels=np.arange(3)), GREY, 3, "`labels` holds 3 numbers")


def test_a_compression_that_is_slow_to_undo(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_BZIP2) as opened:
        opened.writestr("images.npy", b"")
    refused(Npz(source="npz", path=tmp_path / "d.npz"), GREY, None, "compressed in a way that numpy does not write")


def test_a_pipe_for_arrays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(Npz(source="npz", path=tmp_path / "pipe"), GREY, None, tmp_path / "pipe", "is a pipe")
    with pytest.raises(DataError, match="is a pipe"):
        data.read_npy(tmp_path / "pipe")


@pytest.mark.parametrize("array", [np.array([1e300]), np.array([np.nan]), np.array([True]), np.zeros((0, 3))])
def test_numbers_that_float32_does_not_hold(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "null.npy", array)
    np.savez(tmp_path / "e.npz", embeddings=array)
    if array.size:
        with pytest.raises(DataError, match="should be finite floats"):
            data.read_npy(tmp_path / "null.npy")
    with pytest.raises(DataError, match="`embeddings`"):
        data.read_embeddings(tmp_path / "e.npz", "encoder_hidden_states")


def test_numbers_of_an_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "null.npy", np.arange(6.0).reshape(2, 3))
    found = data.read_npy(tmp_path / "null.npy")
    assert found.dtype == np.float32 and found.tolist() == [[0, 1, 2], [3, 4, 5]]
