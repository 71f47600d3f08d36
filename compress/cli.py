"""The `compress` command. Exit codes: 0 fine, 1 a gate failed, 2 bad input, 3 not judged, 70 a fault of ours."""

import json
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from compress.errors import CompressError

if TYPE_CHECKING:  # torch takes seconds to import; commands import what they need
    from pydantic import BaseModel

    from compress.recipe.inputs import Options

app = typer.Typer(
    name="compress",
    help="Make guided diffusion models small and fast enough for the edge. "
    "Exit codes: 0 fine, 1 a gate of verify failed, 2 bad input, 3 not judged: verify has no gate on quality, "
    "70 a fault of compress itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

CODES = {None: 0, "pass": 0, "fail": 1, "not judged": 3}  # by verdict
UNHEARD = 141  # as of a process that SIGPIPE ended: who read what it wrote has gone

# typer reads Optional and not `| None` in aliases on all the versions that are supported
Recipe = Annotated[Path, typer.Argument(help="recipe file (YAML)")]
Set = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", metavar="KEY=VALUE", help="override a setting, e.g. passes.distill.steps=50"),
]
Checkpoint = Annotated[Optional[str], typer.Option(help="model folder or hub id instead of the recipe's")]  # noqa: UP045
Output = Annotated[Optional[Path], typer.Option(help="result folder")]  # noqa: UP045
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="where to train")]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="read pickled weights (plain tensors only), run TorchScript")
]
_MOST_THREADS = max(16, os.cpu_count() or 1)
Threads = Annotated[Optional[int], typer.Option(min=1, max=_MOST_THREADS, help="default: all cores")]  # noqa: UP045


@app.callback()
def common(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="show tracebacks and library messages")] = False,
) -> None:
    """Options of every command; `main` reads them before anything is imported."""


@app.command()
def apply(
    recipe: Recipe,
    checkpoint: Checkpoint = None,
    output: Output = None,
    set_: Set = None,
    device: Device = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="start over instead of using earlier results")] = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Run a recipe; the result goes to outputs/NAME. The same command again continues where it was stopped."""
    from compress.recipe.recipe import read

    checked = read(recipe, set_ or [], checkpoint)  # before the imports that take seconds
    from compress import engine, terminal
    from compress.report.report import read as read_report

    where = output or Path("outputs") / checked.head.name
    outcome = engine.apply(checked, where, _options(device, fresh, allow_pickle))
    if outcome.verdict is not None:
        terminal.report(read_report(where))
    terminal.log(f"result: {where}")
    raise typer.Exit(CODES[outcome.verdict])


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
    from compress.plan import plan as rows
    from compress.recipe.recipe import read

    checked = read(recipe, set_ or [], checkpoint)
    shown = [
        (
            row.name,
            f"{row.params:,}",
            f"{row.macs / 1e6:,.1f} M",
            f"{row.bytes / 1e6:.2f} MB" if row.bytes else "",
            f"{row.seconds:,.0f} s",
            f"{row.memory_bytes / 1e6:,.0f} MB",
        )
        for row in rows(checked, _options(device, False, allow_pickle))
    ]
    terminal.table(("after", "parameters", "MACs", "size", "time", "memory"), shown, title=checked.head.name)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="bundle folder, or the result folder that holds it")],
    teacher: Annotated[str, typer.Option(help="the checkpoint that it was made from")],
    recipe: Annotated[Optional[Path], typer.Option(help="its recipe: gates, data, sampling")] = None,  # noqa: UP045
    output: Output = None,
    device: Device = "auto",
    allow_pickle: AllowPickle = False,
) -> None:
    """Judge an exported bundle against its teacher. Gates: the recipe's, or those of the report beside it.

    Beside these, whatever they are: finite samples, kernels as simulated, a sound sampler's table, the listed files.
    """
    from compress import terminal
    from compress import verify_bundle as judge
    from compress.files import check_folder
    from compress.pages.publish import write_page
    from compress.recipe.recipe import read

    if output:
        check_folder(output)
    checked = read(recipe, [], teacher) if recipe else None
    with tempfile.TemporaryDirectory() as folder:
        where = output or Path(folder)
        report = judge.verify_bundle(bundle, teacher, checked, where, _options(device, False, allow_pickle))
        if output:
            write_page(output, report, [], output / "samples.npz")
    terminal.report(report)
    raise typer.Exit(CODES[report.verdict])


@app.command()
def compare(
    bundles: Annotated[list[Path], typer.Argument(help="result folders: each holds report.json and onnx/")],
    out: Annotated[Path, typer.Option(help="page to write (HTML)")] = Path("compare.html"),
) -> None:
    """Several students of one teacher, side by side, from their reports."""
    from compress import terminal
    from compress.files import check_target, write_text
    from compress.pages import comparison

    check_target(out)
    students = comparison.read(bundles)
    rows = [
        (row.label, *(f"{cell.text} {'' if cell.said == cell.text else cell.said}".strip() for cell in row.cells))
        for row in comparison.table(students)
    ]
    terminal.table(("", *(student.name for student in students)), rows, wrap=True)
    for line in comparison.caveats(students):
        terminal.log(f"take care: {line}")
    write_text(out, comparison.comparison(students))
    print(out)


@app.command()
def bench(
    paths: Annotated[list[Path], typer.Argument(help="bundles, ONNX files, checkpoints")],
    batch: Annotated[int, typer.Option(min=1, max=1024, help="batch size")] = 1,
    rounds: Annotated[int, typer.Option(min=10, max=100_000, help="times each is timed, in trains of 10")] = 30,
    threads: Threads = None,
    engine: Annotated[str, typer.Option(help="what runs graphs: onnxruntime or openvino")] = "onnxruntime",
    allow_pickle: AllowPickle = False,
) -> None:
    """Latency of one evaluation, interleaved in one run: median, p90, 95% interval."""
    from compress import terminal
    from compress.measure import latency
    from compress.measure.bench import callable_for
    from compress.runtime.engines import engine_called

    count, known = threads or latency.default_threads(), engine_called(engine)
    with latency.threads(count):
        calls = {str(path): callable_for(path, count, batch, allow_pickle, known) for path in paths}
        taken = latency.interleaved(calls, rounds, terminal.progress)
    rows = []
    for name, values in taken.items():
        timing = latency.summary(values)
        ratio, _ = latency.speedup(taken[str(paths[0])], values)
        interval = "{:.3f} … {:.3f}".format(*timing.interval)
        rows.append((name, f"{timing.median:.3f}", f"{timing.p90:.3f}", interval, f"{ratio:.2f}×"))
    title = f"batch {batch}, {count} threads, {latency.processor()}"
    terminal.table(("", "median ms", "p90 ms", "95% interval", "speed"), rows, title)


@app.command()
def sample(
    bundle: Annotated[Path, typer.Argument(help="bundle folder, or the result folder that holds it")],
    out: Annotated[Path, typer.Option(help="picture to write (PNG)")] = Path("grid.png"),
    class_: Annotated[Optional[int], typer.Option("--class", help="label; default: every one in turn")] = None,  # noqa: UP045
    embeddings: Annotated[Optional[Path], typer.Option(help=".npz with `embeddings`, for text models")] = None,  # noqa: UP045
    guidance_scale: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="diffusers' convention; default: the bundle's own"),
    ] = None,
    steps: Annotated[Optional[int], typer.Option(min=1, help="of those that the bundle serves")] = None,  # noqa: UP045
    psnr: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="as many steps as each image needs for this many dB to the bundle's own steps"),
    ] = None,
    milliseconds: Annotated[Optional[float], typer.Option(help="time that all images may take together")] = None,  # noqa: UP045
    count: Annotated[int, typer.Option(min=1, max=1000, help="number of images")] = 10,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="determines the noise")] = 0,
    threads: Threads = None,
) -> None:
    """Draw images from a bundle, with numpy and onnxruntime alone."""
    import numpy as np

    from compress.errors import BundleError
    from compress.files import check_target
    from compress.pages.figures import grid
    from compress.runtime import Bundle
    from compress.runtime.bundle import find

    check_target(out)
    folder = find(bundle)
    model = Bundle(folder, threads)
    model = model if guidance_scale is None else model.at_scale(guidance_scale)
    model = model if steps is None else model.at_steps(steps)
    conditions: dict[str, Any] = {}
    titles = None
    if "class_labels" in model.conditions:
        classes = model.manifest["classes"]
        if class_ is not None and not 0 <= class_ < classes:
            raise BundleError(f"--class {class_}: {folder} has the classes 0…{classes - 1}")
        labels = np.arange(count) % classes if class_ is None else np.full(count, class_)
        conditions["class_labels"], titles = labels, [str(label) for label in labels]
    elif class_ is not None:
        raise BundleError(f"{folder}: takes no class label; leave --class out")
    others = [name for name in model.conditions if name != "class_labels"]
    if embeddings is not None and not others:
        raise BundleError(f"{folder}: takes no embeddings; leave --embeddings out")
    for name in others:
        from compress.data import KEYS, read_embeddings  # needs torch, which a class label does not

        if embeddings is None:
            raise BundleError(f"{folder}: takes {name}; give --embeddings with an .npz that holds `{KEYS[name]}`")
        given = read_embeddings(embeddings, name)
        conditions[name] = given[np.arange(count) % len(given)]
    noise = np.random.default_rng(seed).standard_normal((count, *model.sample_shape), dtype=np.float32)
    if psnr is None and milliseconds is None:
        images = model.sample(noise, **conditions)
    else:
        images, taken = model.sample_adaptively(noise, psnr=psnr, milliseconds=milliseconds, **conditions)
        print(f"{taken.mean():.1f} steps an image, of {len(model.steps)}")
    if not np.isfinite(images).all():
        scale = model.guidance["scale"]
        raise BundleError(f"{folder}: drew what is not finite, at guidance scale {scale:g}; no picture was written")
    grid(images, out, titles)
    print(out)


@app.command()
def passes() -> None:
    """The passes that a recipe can name, with their settings."""
    from compress import passes as found
    from compress import terminal

    for name in found.names():
        terminal.output.print(f"[bold]{name}[/bold]  {found.summary(name)}")
        for line in _settings(found.module(name).Config):
            terminal.output.print(f"    {line}", markup=False)


def _settings(model: "type[BaseModel]") -> Iterator[str]:
    """One line a setting, those of settings within settings below them."""
    from compress.errors import short
    from compress.settings import choices, models

    for key, info in model.model_fields.items():
        inner = list(models(info.annotation))
        allowed = choices(info.annotation)
        values = f" ({', '.join(allowed)})" if allowed else ""
        default = "required" if info.is_required() else "see below" if info.default and inner else short(info.default)
        yield f"{key}: {info.description or ''}{values} [{default}]"
        for part in inner:
            yield from (f"    {line}" for line in _settings(part))


@app.command()
def schema() -> None:
    """JSON schema of recipes, for editors."""
    from compress.recipe.recipe import schema as described

    print(json.dumps(described(), indent=2))


def _options(device: str, fresh: bool, allow_pickle: bool) -> "Options":
    import torch

    from compress import terminal
    from compress.recipe.inputs import Options

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise CompressError(f"--device {device}: should be auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise CompressError("--device cuda: PyTorch finds no CUDA device; use --device cpu")
    return Options(torch.device(device), terminal.progress, terminal.log, fresh, allow_pickle)


def main() -> None:
    """Run the command line; a CompressError becomes one message and exit code 2, any other error exit code 70."""
    verbose = bool({"-v", "--verbose"} & set(sys.argv[1:]))
    # -v counts wherever it stands
    sys.argv[1:] = [word for word in sys.argv[1:] if word not in ("-v", "--verbose")]
    if not verbose:
        warnings.filterwarnings("ignore")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
        logging.disable(logging.WARNING)
    try:
        app()
    except CompressError as error:
        if verbose:
            traceback.print_exc()
        for message in error.messages:
            print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
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
        said = " ".join(str(error).split())[:500]
        print(
            f"error: a fault of compress, please report it with the output of -v: {type(error).__name__}: {said}",
            file=sys.stderr,
        )
        sys.exit(70)  # EX_SOFTWARE
