"""Writing that is complete or not there at all, and reading of nothing but ordinary files of bounded size."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import CompressError, OutputError

JSON_BYTES = 32 * 2**20
LARGE = 2**20  # bytes of a file that is not worth a second copy
NESTING = 50  # of lists and mappings within each other; what is read from is walked recursively
_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Unreadable(ValueError):
    """Why a file cannot be read, as the end of a sentence: callers put the file before it and raise an error of theirs.

    Derived from ValueError, as the errors of most formats are.
    """


def write_atomically(path: Path, write: Callable[[Path], object], parents: bool = True) -> None:
    """Let `write` make a file under a temporary name beside `path`, then move it into place.

    Nothing is left behind if that fails. parents: make missing folders above it. Raises OutputError if it cannot be
    written, or if anything but an ordinary file stands there: no folder, pipe or device is ever replaced.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    made: list[Path] = []
    try:
        check_target(path)
        if parents:
            made = [folder for folder in path.parents if not folder.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except BaseException as error:
        for folder in made:
            with contextlib.suppress(OSError):  # something else was put into it meanwhile
                folder.rmdir()
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


def copy(source: Path, target: Path) -> None:
    """Copy a file. A large one gets a second name instead, where that is safe, and nobody may write into it any more.

    Both names can then be deleted, moved, or given another file, and the other one keeps what it has. A file that has
    other names already and may be written into is copied: somebody else made those.
    """
    found = source.stat()
    safe = found.st_nlink == 1 or not found.st_mode & _WRITE
    if safe and found.st_size >= LARGE and sys.platform != "win32":  # where no file that is read-only can be deleted
        with contextlib.suppress(OSError):  # a disk that has no such names
            target.hardlink_to(source)
            target.chmod(found.st_mode & ~_WRITE)
            return
    shutil.copy2(source, target)


def check_target(path: Path) -> None:
    """Raises OutputError if a file cannot be put at `path`, because what stands there is no ordinary file."""
    try:
        found = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise unwritable(path, error) from error
    if stat.S_ISDIR(found):
        raise OutputError(f"{path}: is a folder; give a file, such as {path / 'NAME'}")
    if not stat.S_ISREG(found):
        raise OutputError(f"{path}: is a pipe, a socket or a device; give an ordinary file")


def check_folder(path: Path) -> None:
    """Raises OutputError if files cannot be put into `path`, because what stands there is no folder."""
    if os.path.lexists(path) and not path.is_dir():
        raise OutputError(f"{path}: is no folder; give a folder with --output")


def unwritable(path: Path, error: OSError) -> OutputError:
    """The error to raise when `path` could not be written."""
    advice = "free some space" if is_full(error) else "give another place"
    return OutputError(f"{path}: cannot be written: {_reason(error)}; {advice}")


def is_full(error: OSError) -> bool:
    """Whether there was no space to write."""
    return error.errno in _FULL or os.strerror(errno.ENOSPC) in _reason(error)


def _reason(error: OSError) -> str:
    several = isinstance(error, shutil.Error) and isinstance(error.args[0], list)  # of copying a folder
    return error.args[0][0][-1] if several else error.strerror or str(error)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; what UTF-8 has not, as parts of some paths, is escaped as in JSON."""
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically. Raises ValueError for NaN and infinity, which JSON has not."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays, compressed, atomically."""

    def write(part: Path) -> None:
        with part.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    write_atomically(path, write)


def link(file: Path, target: Path) -> None:
    """Let `target` be the same file, or a copy if that lies on another disk; nobody should write to it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(file.resolve())
    except OSError:  # on another disk, or somebody else's
        shutil.copyfile(file, target)


def cache_folder() -> Path:
    """Where results that belong to no recipe are kept: $COMPRESS_CACHE, or ~/.cache/compress."""
    return Path(os.environ.get("COMPRESS_CACHE") or Path.home() / ".cache" / "compress")


@contextlib.contextmanager
def raising(kind: type[CompressError], path: Path) -> Iterator[None]:
    """Raise an error of `kind`, which names the path, where it is found to be Unreadable."""
    try:
        yield
    except Unreadable as error:
        raise kind(f"{path}: {error}") from None


def check_regular(path: Path, limit: int | None = None) -> None:
    """Raise Unreadable unless `path` is an ordinary file of at most `limit` bytes.

    Opening a pipe or a device may wait for ever, so libraries are not given a path before this.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise Unreadable("no such file") from None
    except OSError as error:
        raise Unreadable((error.strerror or str(error)).lower()) from None
    except ValueError:  # a null character
        raise Unreadable("is no path of a file") from None
    if stat.S_ISDIR(found.st_mode):
        raise Unreadable("is a folder; give a file")
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable("is a pipe, a socket or a device; give an ordinary file")
    if limit is not None and found.st_size > limit:
        raise Unreadable(f"holds {found.st_size:,} bytes; at most {limit:,} are read")


def read_text(path: Path, limit: int) -> str:
    """The text of an ordinary UTF-8 file of at most `limit` bytes. Raises Unreadable."""
    check_regular(path, limit)
    try:
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
        if len(content) > limit:  # files of /proc say that they are empty
            raise Unreadable(f"holds more than {limit:,} bytes, which is all that is read")
        return content.decode("utf-8")
    except OSError as error:
        raise Unreadable((error.strerror or str(error)).lower()) from None
    except UnicodeDecodeError:
        raise Unreadable("is not UTF-8 text") from None


def read_lines(path: Path, limit: int) -> Iterator[str]:
    """The lines of an ordinary UTF-8 file of at most `limit` bytes, one after the other. Raises Unreadable."""
    check_regular(path, limit)
    try:
        with path.open("rb") as stream:
            for line in stream:
                yield line.decode("utf-8")
    except OSError as error:
        raise Unreadable((error.strerror or str(error)).lower()) from None
    except UnicodeDecodeError:
        raise Unreadable("is not UTF-8 text") from None


def walk(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """Everything below a folder, in the order that sorted paths have; links to folders are not followed.

    Raises Unreadable for a folder that cannot be listed.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise Unreadable(f"{folder} cannot be listed: {(error.strerror or str(error)).lower()}") from None
    for entry in entries:
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path)


def read_json(path: Path, limit: int = JSON_BYTES) -> Any:
    """What a JSON file holds, nested at most NESTING deep. Raises Unreadable."""
    text = read_text(path, limit)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise Unreadable(f"is not JSON: {error}") from None
    except RecursionError:
        raise Unreadable(f"is nested more than {NESTING} deep") from None
    except ValueError:
        raise Unreadable("holds an integer of thousands of digits") from None
    level = [content]
    for _ in range(NESTING + 1):
        level = [inner for value in level for inner in _inside(value)]
    if level:
        raise Unreadable(f"is nested more than {NESTING} deep")
    return content


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def sha256(file: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
