"""Folders that this package made, the only ones that it removes, and one run at a time in an output folder.

Each carries `.compress`: the names of what was written there, or `*` for a folder of work, all of which may go.
A folder without it, or one that holds anything which it does not name, is somebody else's and is left alone.
"""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from compress.errors import CompressError, OutputError
from compress.files import Unreadable, read_text, unwritable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

Result = TypeVar("Result")
MARK, LOCK = ".compress", ".lock"
_ALL = ["*"]
_MARK_BYTES = 2**24
_LEFTOVER = re.compile(r"\..+\.\d+\.(part|old)")  # of a run that was killed while it wrote


def foreign(folder: Path) -> Path | None:
    """What is not ours: the folder itself, or the first thing in it; None: nothing, or no such folder."""
    if not os.path.lexists(folder):
        return None
    try:
        named = read_text(folder / MARK, _MARK_BYTES).splitlines()
    except Unreadable:
        return folder
    if folder.is_symlink():
        return folder
    if named == _ALL:
        return None
    return next((path for path in _inside(folder) if path.relative_to(folder).as_posix() not in named), None)


def own_folder(folder: Path) -> None:
    """Make a folder of work, or take up one that is ours or empty. Its parent must be there. Raises OutputError."""
    if not folder.is_dir() or any(folder.iterdir()):
        refuse_foreign(folder)
    folder.mkdir(exist_ok=True)
    if not (folder / MARK).exists():
        _mark(folder, _ALL)


def write_folder(folder: Path, write: Callable[[Path], Result]) -> Result:
    """Let `write` fill a new folder, then put it in the place of the one that an earlier call put there.

    Gives what `write` gives, and leaves nothing behind if that fails. Raises OutputError, before any work, if what
    stands there is not ours.
    """
    refuse_foreign(folder)
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("part", "old"))
    for leftover in (part, old):
        remove_own(leftover)
    own_folder(part)
    try:
        result = write(part)
        _mark(part, [path.relative_to(part).as_posix() for path in _inside(part)])
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    except BaseException:
        if part.is_dir():
            shutil.rmtree(part)  # made above, by this very call
        raise
    remove_own(old)
    return result


def remove_own(folder: Path) -> None:
    """Delete a folder that was made here, if it is there. Raises OutputError if anything in it was not."""
    refuse_foreign(folder)
    if not folder.exists():
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARK:
            path.unlink()
    (folder / MARK).unlink()  # last: a removal that is interrupted can go on
    folder.rmdir()


def refuse_foreign(folder: Path) -> None:
    """Raises OutputError if a folder, or anything in it, was not made here."""
    found = foreign(folder)
    if found is not None:
        raise OutputError(
            f"{found}: was not written by this version of compress, which removes nothing else; move it away"
        )


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed run left half-written in a folder that nobody else writes to."""
    for path in folder.iterdir():
        if not _LEFTOVER.fullmatch(path.name):
            continue
        if path.is_dir() and foreign(path) is None:
            remove_own(path)
        elif path.is_file():
            path.unlink()


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[Callable[[], None]]:
    """Keep other runs out of a folder. The system lets go when the process ends.

    Gives a check that the folder is still there, which is also made when a CompressError ends the run. Raises
    OutputError if it is not, and if another run is in it.
    """
    try:
        stream = (folder / LOCK).open("ab")
    except OSError as error:
        raise unwritable(folder, error) from error
    with stream:
        try:
            _lock(stream)
        except (BlockingIOError, PermissionError):
            raise OutputError(
                f"{folder}: another run is at work in it; wait for its end, or give another folder with --output"
            ) from None

        def still() -> None:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(stream.fileno()), (folder / LOCK).stat()):
                    return
            raise OutputError(f"{folder}: was moved or deleted while the recipe ran; give the same command again")

        try:
            yield still
        except CompressError:
            still()
            raise


def _lock(stream: BinaryIO) -> None:
    if sys.platform == "win32":
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _mark(folder: Path, names: list[str]) -> None:
    (folder / MARK).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def _inside(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path != folder / MARK]
