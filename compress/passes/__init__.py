"""Passes, found by listing this folder and imported only when named. `compress.contract` says what a pass is."""

import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Iterator
from functools import cache

from compress.pipeline.decoder import Decoder


def names() -> list[str]:
    """Every pass there is."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__))


@cache
def module(name: str) -> types.ModuleType:
    """The module of a pass."""
    return importlib.import_module(f"{__name__}.{name}")


def accepts(name: str) -> set[object]:
    """The types that a pass takes as its model; NoneType: it can start from nothing."""
    return set(_members(typing.get_type_hints(module(name).run)["model"]))


def returns(name: str) -> object:
    """The type of the model that a pass gives back."""
    result = typing.get_type_hints(module(name).run)["return"]
    return next(_members(typing.get_args(result)[0]))


def on_decoder(name: str) -> bool:
    """Whether a pass changes the decoder of a pipeline, and leaves its denoiser as it is."""
    return accepts(name) == {Decoder}


def together(name: str) -> bool:
    """Whether the processes of a command run a pass together: those that train."""
    return bool(module(name).Config.together)


def summary(name: str) -> str:
    """The first sentence of a pass's documentation."""
    return (inspect.getdoc(module(name)) or "").splitlines()[0]


def _members(annotation: object) -> Iterator[object]:
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        for member in typing.get_args(annotation):
            yield from _members(member)
    else:
        assert isinstance(annotation, type | typing.NewType)
        yield annotation
