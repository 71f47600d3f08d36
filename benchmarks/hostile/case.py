"""A case: what lies in the folder, what is called there, and what must come of it."""

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Lay = Callable[[Path], object]
Draw = Callable[[random.Random], "Case"]


def after(*steps: Lay) -> Lay:
    """One after the other."""

    def all_of_them(folder: Path) -> None:
        for step in steps:
            step(folder)

    return all_of_them


def pipe(path: Path) -> None:
    """A named pipe, into which nobody writes, in place of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@dataclass(frozen=True)
class Case:
    """One try of one kind of hostile input.

    name: what is wrong with it. lay: writes its files into an empty folder. commands: words after `compress`, called
    in that folder one after the other. valid: True: every command must end with 0; False: with 2 and one message a
    fault; None: the one or the other, but nothing else. faults: how many messages; None: one or more. mentions: words
    of which every refusal must hold each. same: all commands must refuse with the same words.
    """

    name: str
    lay: Lay
    commands: Sequence[Sequence[str]]
    valid: bool | None = False
    faults: int | None = 1
    mentions: tuple[str, ...] = ()
    same: bool = True
