"""Options that several commands take, and commands made of the options that a dataclass has."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Output = Annotated[Path | None, typer.Option(help="result folder")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="where to train")]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="read pickled weights (plain tensors only), run TorchScript")
]
Threads = Annotated[int | None, typer.Option(min=1, max=max(16, os.cpu_count() or 1), help="default: all cores")]
EngineName = Annotated[
    str, typer.Option("--engine", help="onnxruntime, onnxruntime:PROVIDER, openvino, openvino:bf16, qnn or fastest")
]


def of_fields(run: Callable[[Any], None], options: type) -> Callable[..., None]:
    """A command that takes the fields of a dataclass as its options, and does what `run` says of itself."""

    def command(**given: Any) -> None:
        run(options(**given))

    command.__doc__, command.__annotations__ = run.__doc__, options.__annotations__
    command.__signature__ = inspect.signature(options)  # type: ignore[attr-defined]
    return command
