"""Runs a recipe: pass after pass, cached, resumable, recorded.

    OUTPUT/recipe.json          whose folder this is
    OUTPUT/.lock                held while a run is at work here
    OUTPUT/passes/NN-name/      one finished pass: model/ or onnx/, files/, record.json
    OUTPUT/passes/NN-name.work/ the state of a pass that was killed
    OUTPUT/…                    the result, as `report/publish.py` lays it out

A finished pass is used again if its identity is unchanged: a hash of its name and settings, of the
identity of the pass before it, of everything the recipe reads, and of the code that it can reach.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from compress import passes
from compress.contract import Finished, PassResult
from compress.errors import CompressError, OutputError
from compress.files import Unreadable, check_folder, is_full, read_json, unwritable, write_json
from compress.folders import LOCK, alone, foreign, own_folder, remove_leftovers, remove_own, write_folder
from compress.measure import counts
from compress.model.denoiser import Denoiser
from compress.pages.publish import check, publish
from compress.pipeline import checkpoint
from compress.pipeline.decoder import Decoder
from compress.pipeline.pipeline import Parts, Pipeline, decoder_of, parts
from compress.recipe.identity import step_identity, versions
from compress.recipe.inputs import Inputs, Options
from compress.recipe.recipe import Recipe, Step
from compress.runtime import Bundle


@dataclasses.dataclass(frozen=True)
class Outcome:
    """verdict: "pass", "fail" or "not judged" of the recipe's `verify`, None without one."""

    output: Path
    verdict: str | None
    records: list[dict[str, Any]]


def claim(output: Path, recipe: Recipe) -> None:
    """Make the output folder, if it is not this recipe's already. Raises OutputError if it is another's."""
    mine = _owner(recipe)
    check_folder(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(output, error) from error
    if any(path.name != LOCK for path in output.iterdir()):
        try:
            found = read_json(output / "recipe.json")
            owner = {key: found[key] for key in mine}
        except (Unreadable, KeyError, TypeError):
            reason = "holds files that no recipe wrote; give an empty or new folder with --output"
            raise OutputError(f"{output}: {reason}") from None
        if owner != mine:
            raise OutputError(
                f"{output}: belongs to recipe {owner['name']!r} with checkpoint {owner['checkpoint']}; "
                "give another folder with --output"
            )


def _owner(recipe: Recipe) -> dict[str, str | None]:
    return {"name": recipe.head.name, "checkpoint": recipe.head.checkpoint}


def apply(recipe: Recipe, output: Path, options: Options) -> Outcome:
    """Run a recipe and lay out its result in `output`. Raises a CompressError."""
    if not options.processes.main:
        return _Run(recipe, output, options, lambda: None).all()
    claim(output, recipe)
    with alone(output) as still:
        try:
            return _Run(recipe, output, options, still).all()
        except (OSError, SafetensorError) as error:
            raise _blame(output, error) from error


def _blame(output: Path, error: OSError | SafetensorError) -> CompressError:
    """What an error of the system was about: the output folder, or something that was read."""
    if not isinstance(error, OSError):  # those of reading are caught where it is known what was read
        return OutputError(f"{output}: cannot be written: {error}; free some space")
    named = error.filename if isinstance(error.filename, str | Path) else None
    if is_full(error) or (named and Path(named).absolute().is_relative_to(output.absolute())):
        return unwritable(output, error)
    what = f"{named}: cannot be read" if named else type(error).__name__
    return CompressError(f"{what}: {error.strerror or error}")


class _Run:
    def __init__(self, recipe: Recipe, output: Path, options: Options, still: Callable[[], None]) -> None:
        self.recipe, self.output, self.options, self.still = recipe, output, options, still
        self.inputs = Inputs(recipe, options)
        self.load: Callable[[], Any] = self.inputs.teacher if recipe.head.checkpoint else lambda: None
        self.records: list[dict[str, Any]] = []
        self.finished: list[Finished] = []
        self.parts: Callable[[], Parts] = self.inputs.parts

    def prepare(self) -> None:
        """The output folder without what a killed run left half-written and, for a fresh start, without results."""
        for folder in (self.output, self.output / "passes"):
            folder.mkdir(exist_ok=True)
            remove_leftovers(folder)
        check(self.output)
        if self.options.fresh:
            self.tidy(set())
        write_json(self.output / "recipe.json", _owner(self.recipe))

    def tidy(self, wanted: set[str]) -> None:
        """Delete the folders of passes that are not wanted; what was not made here stays."""
        for folder in (self.output / "passes").iterdir():
            if folder.name not in wanted and foreign(folder) is None:
                remove_own(folder)

    def all(self) -> Outcome:
        processes = self.options.processes
        if processes.main:
            self.prepare()
        identity = self.inputs.identity()
        wanted = set()
        for number, step in enumerate(self.recipe.steps, start=1):
            identity = step_identity(step, identity)
            folder = self.output / "passes" / f"{number:02d}-{step.name}"
            wanted.add(folder.name)
            processes.wait()  # until what came before is written
            record = _finished(folder, identity)
            if record is None:
                record = self._step(step, folder, identity)
            else:
                self.options.log(f"{step.name}: unchanged, used again")
            self.records.append(record)
            if record["stored"] is not None:
                stored = folder / record["stored"]
                self.load = cache(self._loader(stored))
                if record["stored"] == "model":
                    self.parts = cache(partial(parts, str(stored), None))
                if not passes.on_decoder(step.kind):
                    self.finished.append(Finished(step.name, step.kind, self.load))
        if not processes.main:
            return Outcome(self.output, None, self.records)
        self.tidy(wanted)  # of an earlier version of this recipe
        self.still()
        verdict = publish(self.recipe.head.name, self.output, self.records)
        return Outcome(self.output, verdict, self.records)

    def _loader(self, stored: Path) -> Callable[[], Any]:
        def load() -> Denoiser | Bundle:
            if stored.name == "onnx":
                return Bundle(stored)
            model = checkpoint.load(stored, self.options.allow_pickle)
            return model if model.precision else model.to(self.options.device)

        return load

    def _step(self, step: Step, folder: Path, identity: str) -> dict[str, Any]:
        work, processes = folder.with_name(f"{folder.name}.work"), self.options.processes
        self.inputs.prepare()
        if processes.main:
            _prepare_work(work, identity)
        processes.wait()

        def write(part: Path) -> dict[str, Any]:
            began = time.monotonic()
            given, result = self._result(step, work, part)
            self.still()
            stored = self._store(self.load(), result.model, part) if result.changed else None
            record = {
                "pass": step.kind,
                "name": step.name,
                "identity": identity,
                "config": step.config.model_dump(mode="json"),
                "changed": result.changed,
                "stored": stored,
                "seconds": round(time.monotonic() - began, 2),
                "before": _size(given),
                "after": _size(result.model),
                "notes": dict(result.notes),
                "device": str(self.options.device),
                "versions": versions(),
            }
            write_json(part / "record.json", record)
            return record

        if processes.main:
            write_folder(folder, write)
            remove_own(work)
        elif passes.together(step.kind):
            with tempfile.TemporaryDirectory() as own:
                self._result(step, work, Path(own))
        processes.wait()
        record: dict[str, Any] = read_json(folder / "record.json")
        return record

    def _result(self, step: Step, work: Path, part: Path) -> tuple[Any, PassResult[Any]]:
        """(what a pass is given, what it gives back)."""
        context = self.inputs.context(step, work, part / "files", tuple(self.finished), self.parts)
        context.output.mkdir()
        given = decoder_of(self.parts(), step.name) if passes.on_decoder(step.kind) else self.load()
        return given, passes.module(step.kind).run(given, step.config, context)

    def _store(self, before: Any, made: Any, part: Path) -> str:
        """Save what a pass made inside its folder, with all that it left as it was; the name of the subfolder."""
        if isinstance(made, Bundle):
            assert made.path == part / "files" / "onnx", "a pass writes its bundle to context.output / 'onnx'"
            made.path.rename(part / "onnx")
            return "onnx"
        around = self.parts()
        if isinstance(made, Decoder):
            made, around = before, dataclasses.replace(around, made=made)
        Pipeline(made, around).save(part / "model")
        return "model"


def _finished(folder: Path, identity: str) -> dict[str, Any] | None:
    """The record of a finished pass, if it is the one that is wanted."""
    try:
        record = read_json(folder / "record.json")
    except Unreadable:
        return None
    return record if isinstance(record, dict) and record.get("identity") == identity else None


def _prepare_work(work: Path, identity: str) -> None:
    """Keep the state of a killed pass only if it is of the pass that is about to run."""
    marker = work / "identity"
    if not marker.is_file() or marker.read_bytes() != identity.encode():
        remove_own(work)
        own_folder(work)
        marker.write_bytes(identity.encode())


def _size(model: Any) -> Mapping[str, int] | None:
    if isinstance(model, Denoiser):
        return {"params": counts.parameters(model), "macs": counts.macs(model)}
    if isinstance(model, Decoder):
        return {"params": model.parameters}
    return {"bytes": model.size_bytes} if isinstance(model, Bundle) else None
