"""Samples in .tar files, as WebDataset has them: found once, and then read where they lie; nothing is ever extracted.

A sample is all files that follow one another and have one name up to the first dot of it. What is found of a file is
kept in the cache, under its path, size and time: whatever the number of samples, it is mapped into memory.
"""

import io
import itertools
import json
import os
import re
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from compress.data.pictures import SUFFIXES
from compress.data.texts import ANY_SIGN
from compress.errors import DataError, written
from compress.files import Unreadable, cache_folder, check_regular, raising, write_atomically

FORMAT = 1  # of what is kept
IMAGE_BYTES, TEXT_BYTES = 2**28, 2**20  # of one member
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
NONE = -(2**63)  # in place of a label, or of where a caption begins
_BLOCK = 512
_NAME = re.compile(r"((?:.*/|)[^./]+)\.([^/]*)", re.DOTALL)  # as the library webdataset splits it
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_COLUMNS = 6


@dataclass(frozen=True)
class Shard:
    """A .tar file as it was found.

    rows: int64 [n,6], for each sample where its picture begins and how many bytes it has; its label; where in `words`
    its name, its caption, and what follows them begin. stamp: size and time of the file.
    """

    file: Path
    stamp: tuple[int, int]
    rows: np.ndarray
    words: np.ndarray

    def image(self, row: int) -> bytes:
        """The bytes of a sample's picture. Raises DataError if the file is not what it was."""
        begin, count = self.rows[row, :2].tolist()
        try:
            with self.file.open("rb", buffering=0) as stream:
                stream.seek(begin)
                content = stream.read(count) if _stamp(os.fstat(stream.fileno())) == self.stamp else b""
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise DataError(f"{self.file}: cannot be read any more: {reason}; put it back, and go on") from None
        if len(content) < count:
            raise DataError(f"{self.file}: has changed since its samples were found; give the same command again")
        return content

    def label(self, row: int) -> int:
        """NONE: it has none."""
        return int(self.rows[row, 2])

    def name(self, row: int) -> str:
        """What the picture is called in the file."""
        begin, text, end = self.rows[row, 3:].tolist()
        return self._words(begin, end if text == NONE else text)

    def text(self, row: int) -> str | None:
        """The caption, if there is one."""
        text, end = self.rows[row, 4:].tolist()
        return None if text == NONE else self._words(text, end)

    def _words(self, begin: int, end: int) -> str:
        return self.words[begin:end].tobytes().decode("utf-8", ANY_SIGN)


class Shards:
    """All samples of several files, one file after the other. Raises DataError for files that cannot be used."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.shards = [_opened(file) for file in files]
        self.ends = np.cumsum([len(shard.rows) for shard in self.shards])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def at(self, i: int) -> tuple[Shard, int]:
        """The file of a sample, and its row there."""
        place = int(np.searchsorted(self.ends, i, "right"))
        return self.shards[place], i - int(self.ends[place]) + len(self.shards[place].rows)

    def where(self, i: int) -> str:
        """The file of a sample and its name there, for messages."""
        shard, row = self.at(i)
        return f"{shard.file}: {written(shard.name(row))}"

    def column(self, number: int) -> np.ndarray:
        """A column of all `rows`, int64 [n]."""
        return np.concatenate([shard.rows[:, number] for shard in self.shards])


def _stamp(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _opened(file: Path) -> Shard:
    """A file with what is kept of it, or else found in it now."""
    with raising(DataError, file):
        check_regular(file)
    stamp = _stamp(file.stat())
    key = sha256(json.dumps([FORMAT, str(file.resolve()), *stamp]).encode()).hexdigest()[:24]
    kept = [cache_folder() / "shards" / f"{key}-{name}.npy" for name in ("words", "rows")]  # rows are written last
    try:
        words, rows = (np.load(one, mmap_mode="r") for one in kept)
    except (OSError, ValueError):
        for one, content in zip(kept, _found(file, stamp[0]), strict=True):
            write_atomically(one, lambda part, content=content: _save(part, content))  # type: ignore[misc]
        words, rows = (np.load(one, mmap_mode="r") for one in kept)
    return Shard(file, stamp, rows, words)


def _save(file: Path, content: np.ndarray) -> None:
    with file.open("wb") as stream:
        np.save(stream, content, allow_pickle=False)


def _found(file: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """`words` and `rows` of a file."""
    words, rows = bytearray(), array("q")
    try:
        with _Headers(io.FileIO(file)) as stream:
            for sample in _samples(file, stream, size):
                picture, label, text = sample
                rows.extend((picture.offset_data, picture.size, label, len(words)))
                words += picture.name.encode("utf-8", ANY_SIGN)
                rows.append(NONE if text is None else len(words))
                words += (text or "").encode("utf-8", ANY_SIGN)
                rows.append(len(words))
    except DataError:
        raise
    except Exception as error:  # tarfile raises many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{file}: cannot be read as a .tar file: {reason}") from None
    if not rows:
        raise DataError(f"{file}: holds no samples: files such as 0001.png, 0001.txt, 0001.cls")
    return np.frombuffer(words, np.uint8), np.array(rows, np.int64).reshape(-1, _COLUMNS)


class _Headers(io.BufferedReader):
    """What tarfile reads headers from: it believes them when they say how long they are."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= TEXT_BYTES:
            raise Unreadable(f"a header of it says that it has {size} bytes")
        return super().read(size)


def _samples(file: Path, stream: _Headers, size: int) -> Iterator[tuple[tarfile.TarInfo, int, str | None]]:
    """(picture, label or NONE, caption) of every sample. Raises DataError."""
    for name, members in itertools.groupby(_members(file, stream, size), key=lambda one: one[0]):
        found = [(kind, member) for _, kind, member in members]
        images = [member for kind, member in found if f".{kind}" in SUFFIXES]
        if len(images) != 1:
            held = "several pictures" if images else "no picture"
            raise DataError(f"{file}: {written(name)}: has {held}; a sample has one ({', '.join(sorted(SUFFIXES))})")
        by_kind = dict(found)
        said = {kind: _text(file, stream, by_kind[kind]) for kind in ("txt", "cls", "json") if kind in by_kind}
        told = _object(file, by_kind["json"], said["json"]) if "json" in said and len(said) < 3 else {}
        text = said.get("txt", next((told[key] for key in ("text", "caption") if isinstance(told.get(key), str)), None))
        label = said.get("cls", told.get("label"))
        if isinstance(label, str) and not _NUMBER.fullmatch(label):
            raise DataError(f"{file}: {written(name)}: its label should be a whole number; got {written(label)}")
        yield images[0], int(label) if isinstance(label, int | str) else NONE, text


def _members(file: Path, stream: _Headers, size: int) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """(name of the sample, kind, member) of every file in a .tar file of `size` bytes. Raises DataError."""
    packed = next((name for magic, name in PACKED.items() if stream.peek(8).startswith(magic)), None)
    if packed is not None:
        raise DataError(f"{file}: is packed by {packed}, and is read at any place; unpack it to a plain .tar file")
    with tarfile.open(fileobj=stream, mode="r:") as opened:
        while (member := opened.next()) is not None:
            opened.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them all
            where = f"{file}: {written(member.name)}"
            if member.size < 0 or member.offset_data + member.size > size:
                raise DataError(f"{where}: says that it has {member.size:,} bytes, and there are not as many")
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise DataError(f"{where}: is a link, a device or has holes; shards hold plain files alone")
            split = _NAME.fullmatch(member.name)
            if split is None:  # of the system that packed it
                continue
            name, kind = split[1], split[2].lower()
            if member.size > (IMAGE_BYTES if f".{kind}" in SUFFIXES else size):
                raise DataError(f"{where}: has {member.size:,} bytes; at most {IMAGE_BYTES:,} are read of a picture")
            yield name, kind, member
        stream.seek(opened.offset)
        if stream.read(_BLOCK) != bytes(_BLOCK):
            raise DataError(f"{file}: breaks off, or is damaged, after {opened.offset:,} of {size:,} bytes")


def _text(file: Path, stream: _Headers, member: tarfile.TarInfo) -> str:
    where = f"{file}: {written(member.name)}"
    if member.size > TEXT_BYTES:
        raise DataError(f"{where}: has {member.size:,} bytes; at most {TEXT_BYTES:,} are read")
    stream.seek(member.offset_data)
    try:
        return stream.read(member.size).decode("utf-8").strip()
    except UnicodeDecodeError:
        raise DataError(f"{where}: is not UTF-8 text") from None


def _object(file: Path, member: tarfile.TarInfo, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: {written(member.name)}: is no JSON: {error}") from None
    return found if isinstance(found, dict) else {}
