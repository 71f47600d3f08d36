"""The `compress` command."""

import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Optional

import typer

from compress.errors import CompressError

app = typer.Typer(
    name="compress",
    help="Make guided diffusion models small and fast enough for the edge. Exit codes: 0 fine, 1 a gate failed, 2 bad input.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a setting, e.g. passes.distill.steps=50")]
Checkpoint = Annotated[Optional[str], typer.Option(help="model folder or hub id instead of the recipe's")]  # noqa: UP045
DeviceName = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="where to train")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="read pickled weights (plain tensors only)")]


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="show tracebacks and library messages")] = False,
) -> None:
    """Settings of every command."""
    _STATE["verbose"] = verbose or _STATE["verbose"]


_STATE = {"verbose": False}


@app.command()
def apply(
    recipe: Path,
    checkpoint: Checkpoint = None,
    output: Annotated[Optional[Path], typer.Option(help="result folder; default: outputs/NAME")] = None,  # noqa: UP045
    set_: Set = [],  # noqa: B006
    device: DeviceName = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="start over instead of using earlier results")] = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Run a recipe. The same command again continues where it was stopped."""
    from compress import engine, terminal
    from compress.recipe import read

    checked = read(recipe, set_, checkpoint)
    where = output or Path("outputs") / checked.head.name
    outcome = engine.apply(checked, where, engine.Options(_device(device), terminal.progress, terminal.log, fresh, allow_pickle))
    terminal.log(f"result: {outcome.output}")
    if outcome.verdict == "fail":
        raise typer.Exit(1)


def _device(name: str):  # type: ignore[no-untyped-def]
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def main() -> None:
    """Run the command line; a CompressError becomes one message and exit code 2."""
    verbose = bool({"-v", "--verbose"} & set(sys.argv[1:]))
    if not verbose:
        warnings.filterwarnings("ignore")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
        logging.disable(logging.WARNING)
    try:
        app(standalone_mode=True)
    except CompressError as error:
        if verbose:
            traceback.print_exc()
        print(f"error: {error}" , file=sys.stderr)
        sys.exit(2)
