"""Every error that a user can cause or must act on: exit code 2 of the command line; any other is a fault of ours."""

import difflib
import reprlib
from collections.abc import Sequence
from typing import Any

LISTED = 20
LONGEST = 1000  # signs of a message


class CompressError(Exception):
    """A fault with one plain message for the user."""

    @property
    def messages(self) -> list[str]:
        """One line a fault, whatever paths and values it names."""
        return [_one_line(fault) for fault in getattr(self, "faults", [str(self)])]


class RecipeError(CompressError):
    """One or more faults of a recipe; `faults` holds one message for each."""

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))


class DataError(CompressError):
    """Images, labels or embeddings cannot be used."""


class CheckpointError(CompressError):
    """A model folder cannot be read."""


class PassError(CompressError):
    """A pass could not do its work."""


class ExportError(PassError):
    """A model could not be written as ONNX."""


class BundleError(CompressError):
    """A bundle folder cannot be used."""


class TargetError(CompressError):
    """A bundle cannot be written for a target, or does not run there as it should."""


class VerifyError(CompressError):
    """A verdict could not be reached."""


class ReportError(CompressError):
    """A report.json cannot be read or compared."""


class OutputError(CompressError):
    """The output folder cannot be used."""


def nearest(word: str, known: Sequence[str]) -> str:
    """The known word that a misspelt one may have meant, as the end of a message; empty if none is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def suggest(word: str, known: Sequence[str]) -> str:
    """What a misspelt word may have meant, as the end of a message."""
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return nearest(word[:80], known) or f"; known: {', '.join(known[:LISTED])}{more}"


def short(value: Any) -> str:
    """A value of any size and depth in at most a line, as YAML and JSON spell it."""
    return _SHORT.repr(value)


def written(text: Any, longest: int = 80) -> str:
    """A key, an override or a path as it is written, unless it is long or could break the line."""
    return text if isinstance(text, str) and len(text) <= longest and text.isprintable() else short(text)


def _one_line(message: str) -> str:
    """What can be shown and read of a message: no line breaks, no signs that cannot be printed, and no end of it."""
    plain = "".join(sign if sign.isprintable() else " " for sign in message.strip())
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST // 2]} … {plain[-LONGEST // 2 :]}"


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 60, 60
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 4

    def repr_bool(self, value: bool, level: int) -> str:
        return str(value).lower()

    def repr_NoneType(self, value: None, level: int) -> str:
        return "null"

    def repr_int(self, value: int, level: int) -> str:  # Python does not write out the longest
        return str(value) if value.bit_length() < 100 else f"an integer of {value.bit_length():,} bits"


_SHORT = _Short()
