"""Modules of a net by their paths: those that patterns mean, those within others, and what they are called with."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from typing import Any

from torch import nn

from compress.errors import PassError, suggest

Told = Callable[[str, Any, tuple[Any, ...], dict[str, Any], Any], None]


def meant(patterns: Iterable[str], paths: Sequence[str], where: str, what: str) -> list[str]:
    """The paths that match a glob, in their order. Raises PassError for a glob that matches none of them.

    where: the pass and its setting; what: a path leads to, for the message.
    """
    for pattern in patterns:
        if not any(fnmatch(path, pattern) for path in paths):
            more = suggest(pattern, paths) if paths else "; none is left"
            raise PassError(f"{where}: {pattern!r} matches no {what}{more}")
    return [path for path in paths if matches(path, patterns)]


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a path matches one of some globs."""
    return any(fnmatch(path, pattern) for pattern in patterns)


def outermost(paths: Iterable[str]) -> list[str]:
    """Paths without those that lie within another of them, none twice."""
    paths = list(dict.fromkeys(paths))
    return [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]


@contextmanager
def watched(net: nn.Module, paths: Iterable[str], told: Told) -> Iterator[None]:
    """While open, `told` is called after every call of these modules: (path, module, inputs, named inputs, output)."""
    handles = [net.get_submodule(path).register_forward_hook(partial(told, path), with_kwargs=True) for path in paths]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
