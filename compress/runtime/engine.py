"""What an engine is, and what engines share: graphs, their types, and errors that say what is missing."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from compress.errors import BundleError

Feeds = Mapping[str, np.ndarray]
Specs = Mapping[str, Mapping[str, Any]]  # name -> dtype, shape
TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}  # by onnxruntime's names
DTYPES = tuple(TYPES.values())


@dataclass(frozen=True)
class Graph:
    """An opened graph. inputs, outputs: dtype and shape by name, as in bundle.json; a size that is left open is no
    number. run: outputs, in order, from inputs by name; may be called by several threads at once.
    """

    inputs: Specs
    outputs: Specs
    run: Callable[[Feeds], Sequence[np.ndarray]]


class Engine(Protocol):
    """Opens graphs. What an engine takes beside this are fields of its own."""

    @property
    def name(self) -> str:
        """As recipes and reports call it."""

    @property
    def version(self) -> str:
        """Of the library that computes. Raises BundleError where it cannot compute here, and says what is missing."""

    def open(self, graph: Path | bytes, threads: int | None = None, scheme: str = "float") -> Graph:
        """A graph from its file or its content. threads: None: the engine's choice. Raises BundleError."""


def library(name: str, package: str) -> ModuleType:
    """A library of an engine. Raises BundleError that names the package which brings it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BundleError(
            f"{name}: cannot be imported ({error}); pip install '{package}', or take another engine"
        ) from None


def closed(graph: Path | bytes, engine: Engine, error: Exception) -> BundleError:
    """Why an engine did not open a graph."""
    name = graph if isinstance(graph, Path) else "the model"
    return BundleError(f"{name}: {engine.name} cannot open it: {' '.join(str(error).split())}")


def specs(session: Any) -> tuple[Specs, Specs]:
    """Inputs and outputs of a session of onnxruntime."""
    inputs, outputs = (
        {value.name: {"dtype": TYPES.get(value.type, value.type), "shape": value.shape} for value in values}
        for values in (session.get_inputs(), session.get_outputs())
    )
    return inputs, outputs
