"""`compress verify`: a bundle, or any tool's file, against its teacher."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from compress.errors import CompressError
from compress.options import AllowPickle, Device, EngineName, Output

CODES = {None: 0, "pass": 0, "fail": 1, "not judged": 3}  # by verdict


@dataclass(frozen=True)
class Verify:
    """What to judge: the options of `compress verify`."""

    teacher: Annotated[str, typer.Option(help="the checkpoint that it was made from")]
    bundle: Annotated[Path | None, typer.Argument(help="bundle folder, or the result folder that holds it")] = None
    candidate: Annotated[Path | None, typer.Option(help="instead: a net's ONNX file that any tool made")] = None
    inputs: Annotated[list[str] | None, typer.Option(metavar="THEIRS=OURS", help="of a candidate, if unclear")] = None
    recipe: Annotated[Path | None, typer.Option(help="its recipe: gates, data, sampling")] = None
    output: Output = None
    engine: EngineName | None = None
    device: Device = "auto"
    allow_pickle: AllowPickle = False


def verify(asked: Verify) -> None:
    """Judge a bundle, or any tool's file, against its teacher. Gates: the recipe's, or those of the report beside it.

    Beside these, whatever they are: finite samples, kernels as simulated, a sound sampler's table, the listed files.
    """
    if (asked.bundle is None) == (asked.candidate is None) or (asked.inputs and asked.bundle):
        raise CompressError("verify: give a bundle, or --candidate (and --inputs) for another tool's file, not both")
    if asked.candidate and asked.engine:
        raise CompressError("verify: --engine is for bundles; another tool's file is run by onnxruntime; leave it out")
    from compress import terminal
    from compress import verify_bundle as judge
    from compress.files import check_folder
    from compress.pages.publish import write_page
    from compress.recipe.inputs import Options
    from compress.recipe.recipe import read

    options = Options.on(asked.device, terminal.progress, terminal.log, allow_pickle=asked.allow_pickle)
    check_folder(asked.output or Path())
    checked = read(asked.recipe, [], asked.teacher) if asked.recipe else None
    if asked.candidate is not None:
        from compress.verify_candidate import verify_candidate

        found = verify_candidate(asked.candidate, asked.teacher, checked, asked.inputs or (), options, asked.output)
        terminal.candidate(found)
        raise typer.Exit(CODES[found.verdict])
    assert asked.bundle is not None
    with tempfile.TemporaryDirectory() as folder:
        where = asked.output or Path(folder)
        report = judge.verify_bundle(asked.bundle, asked.teacher, checked, where, options, asked.engine)
        if asked.output:
            write_page(asked.output, report, [], asked.output / "samples.npz")
    terminal.report(report)
    raise typer.Exit(CODES[report.verdict])
