"""Make guided diffusion models small and fast enough for the edge.

Exit codes: 0 fine, 1 a gate of verify failed, 2 bad input, 3 not judged: verify has no gate on quality, 70 a fault of
compress itself.
"""

import json
import logging
import os
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from compress.errors import CompressError
from compress.options import AllowPickle, Device, EngineName, Output, Threads, of_fields
from compress.sample_bundle import Sample, sample  # torch takes seconds: commands import the rest
from compress.verify_command import CODES, Verify, verify

app = typer.Typer(
    name="compress",
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

OTHERS_FIRST = 20.0  # seconds: an error of all is told by the first process, at whose end a launcher ends the others
UNHEARD = 141  # as of a process that SIGPIPE ended: who read what it wrote has gone

Recipe = Annotated[Path, typer.Argument(help="recipe file (YAML)")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="override a setting, e.g. passes.distill.steps=50"),
]
Checkpoint = Annotated[str | None, typer.Option(help="model folder or hub id instead of the recipe's")]


@app.callback()
def common(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="show tracebacks and library messages")] = False,
) -> None:
    """Options of every command; `main` reads them before anything is imported."""


@dataclass(frozen=True)
class Apply:
    """What to run, and how: the options of `compress apply`."""

    recipe: Recipe
    checkpoint: Checkpoint = None
    output: Output = None
    set_: Set = None
    device: Device = "auto"
    fresh: Annotated[bool, typer.Option("--fresh", help="start over instead of using earlier results")] = False
    track: Annotated[str | None, typer.Option(help="show training to tensorboard, wandb, … (Accelerate's)")] = None
    allow_pickle: AllowPickle = False


def apply(asked: Apply) -> None:
    """Run a recipe; the result goes to outputs/NAME. The same command again continues where it was stopped."""
    from compress.recipe.recipe import read

    checked = read(asked.recipe, asked.set_ or [], asked.checkpoint)  # before the imports that take seconds
    from compress import engine, terminal, tracking
    from compress.recipe.inputs import Options
    from compress.report.report import read as read_report

    where = asked.output or Path("outputs") / checked.head.name
    watched = tracking.tracker(asked.track, where / "track") if asked.track else None
    options = Options.on(asked.device, terminal.progress, terminal.log, asked.fresh, asked.allow_pickle, track=watched)
    options = options.shared()
    outcome = engine.apply(checked, where, options)
    if not options.processes.main:
        return
    if outcome.verdict is not None:
        terminal.report(read_report(where))
    terminal.log(f"result: {where}")
    raise typer.Exit(CODES[outcome.verdict])


app.command("apply")(of_fields(apply, Apply))


@app.command()
def plan(
    recipe: Recipe,
    checkpoint: Checkpoint = None,
    set_: Set = None,
    device: Device = "auto",
    allow_pickle: AllowPickle = False,
) -> None:
    """Parameters, MACs, bytes, estimated time and memory after each pass, without training."""
    from compress import terminal
    from compress.pages import tables
    from compress.plan import plan as rows
    from compress.recipe.inputs import Options
    from compress.recipe.recipe import read

    checked = read(recipe, set_ or [], checkpoint)
    options = Options.on(device, terminal.progress, terminal.log, allow_pickle=allow_pickle)
    fields = ("name", "params", "macs", "bytes", "seconds", "memory_bytes")
    terminal.table(tables.of("after", [*rows(checked, options)], *fields, title=checked.head.name))


app.command("verify")(of_fields(verify, Verify))


@app.command()
def compare(
    bundles: Annotated[list[Path], typer.Argument(help="result folders: each holds report.json and onnx/")],
    out: Annotated[Path, typer.Option(help="page to write (HTML)")] = Path("compare.html"),
) -> None:
    """Several students of one teacher, side by side, from their reports."""
    from compress import terminal
    from compress.files import check_target, write_text
    from compress.pages import comparison, tables

    check_target(out)
    reports = comparison.read(bundles)
    terminal.table(tables.side_by_side(reports))
    for line in comparison.caveats(reports):
        terminal.log(f"take care: {line}")
    write_text(out, comparison.comparison(reports, bundles))
    print(out)


@app.command()
def bench(
    paths: Annotated[list[Path], typer.Argument(help="bundles, ONNX files, checkpoints")],
    batch: Annotated[int, typer.Option(min=1, max=1024, help="batch size")] = 1,
    rounds: Annotated[int, typer.Option(min=10, max=100_000, help="times each is timed, in trains of 10")] = 30,
    threads: Threads = None,
    engine: EngineName = "onnxruntime",
    allow_pickle: AllowPickle = False,
) -> None:
    """Latency of one evaluation, interleaved in one run: median, p90, 95% interval."""
    from compress import terminal
    from compress.measure import latency
    from compress.measure.bench import callable_for
    from compress.pages.tables import Table

    count = threads or latency.default_threads()
    with latency.threads(count):
        calls = {str(path): callable_for(path, count, batch, allow_pickle, engine) for path in paths}
        taken = latency.interleaved(calls, rounds, terminal.progress)
    rows = []
    for name, values in taken.items():
        timing = latency.summary(values)
        ratio, _ = latency.speedup(taken[str(paths[0])], values)
        interval = "{:.3f} … {:.3f}".format(*timing.interval)
        rows.append((name, f"{timing.median:.3f}", f"{timing.p90:.3f}", interval, f"{ratio:.2f}×"))
    columns = ("", "median ms", "p90 ms", "95% interval", "speed")
    terminal.table(Table(columns, rows, f"batch {batch}, {count} threads, {latency.processor()}"))


app.command("sample")(of_fields(sample, Sample))


@app.command()
def web(
    bundle: Annotated[Path, typer.Argument(help="bundle folder, or the result folder that holds it")],
    out: Annotated[Path, typer.Option(help="folder to write, for any static server")] = Path("web"),
) -> None:
    """A page that draws by a bundle in browsers; where Chromium is installed, one picture is drawn there and judged."""
    from compress import targets, terminal
    from compress.runtime import Bundle
    from compress.runtime.contents import find
    from compress.targets.made import Exported
    from compress.targets.needs import Needs

    opened = Bundle(find(bundle))
    targets.prepare(["web"], lambda: Needs.of_bundle(opened))
    for name, found in targets.write("web", Exported(opened), out).items():
        terminal.log(f"{name}: {found}")
    print(out)


@app.command()
def passes() -> None:
    """The passes that a recipe can name, with their settings."""
    from compress import terminal
    from compress.recipe.describe import of_passes

    for name, summary, settings in of_passes():
        terminal.output.print(f"[bold]{name}[/bold]  {summary}")
        for line in settings:
            terminal.output.print(f"    {line}", markup=False)


@app.command()
def schema() -> None:
    """JSON schema of recipes, for editors."""
    from compress.recipe.describe import schema as described

    print(json.dumps(described(), indent=2))


def main() -> None:
    """Run the command line; a CompressError becomes one message and exit code 2, any other error exit code 70."""
    given = sys.argv[1:]
    sys.argv[1:] = [word for word in given if word not in ("-v", "--verbose")]  # which count wherever they stand
    verbose = sys.argv[1:] != given
    if not verbose:
        warnings.filterwarnings("ignore")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
        logging.disable(logging.WARNING)
    try:
        app()
    except (KeyboardInterrupt, SystemExit) as end:  # typer makes the first into the second, with 130
        if isinstance(end.__context__, BrokenPipeError):  # and this into 1, which says that a gate failed
            sys.exit(UNHEARD)
        if isinstance(end, SystemExit) and end.code != 130:
            raise
        print("stopped; the same command continues from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if verbose:
            traceback.print_exc()
        if number := int(os.environ.get("RANK", 0)):  # of several processes
            time.sleep(OTHERS_FIRST)
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        ours = f"a fault of compress, please report it with the output of -v: {said}"
        for message in error.messages if isinstance(error, CompressError) else [ours]:
            print(f"error: {f'process {number}: ' * bool(number)}{message}", file=sys.stderr)
        sys.exit(2 if isinstance(error, CompressError) else 70)  # EX_SOFTWARE
