"""Runs a recipe: pass after pass, cached, resumable, recorded.

    OUTPUT/recipe.json          whose folder this is
    OUTPUT/passes/NN-name/      one finished pass: model/ or onnx/, files/, record.json
    OUTPUT/passes/NN-name.work/ the state of a pass that was killed
    OUTPUT/…                    the result, as `report/publish.py` lays it out

A finished pass is used again if its identity is unchanged: a hash of its name and settings, of the
identity of the pass before it, of everything the recipe reads, and of this package's code.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from compress import __version__, data, passes
from compress.contract import Context, PassResult, Task
from compress.diffusion.sampling import Guidance
from compress.errors import DataError, OutputError, RecipeError
from compress.files import remove, write_atomically, write_json
from compress.models import checkpoint, counts
from compress.models.denoiser import Denoiser, QuantizedDenoiser
from compress.models.reference import draw_dataset
from compress.recipe import Head, Recipe, Step
from compress.report.publish import publish
from compress.runtime import Bundle
from compress.runtime.bundle import sha256

Progress = Callable[[str, int], AbstractContextManager[Task]]
_LIBRARIES = ("torch", "diffusers", "torch-pruning", "torchao", "onnx", "onnxruntime", "numpy")


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run, as opposed to what."""

    device: torch.device
    progress: Progress
    log: Callable[[str], None]
    fresh: bool = False
    allow_pickle: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """verdict: "pass" or "fail" of the recipe's `verify`, None without one."""

    output: Path
    verdict: str | None
    records: list[dict[str, Any]]


class Inputs:
    """What the recipe reads, loaded when first needed and then kept."""

    def __init__(self, recipe: Recipe, options: Options, cache_folder: Path) -> None:
        self.recipe, self.options, self.cache_folder = recipe, options, cache_folder
        self.teacher = cache(self._teacher)
        self.dataset = cache(self._dataset)

    @property
    def guidance(self) -> Guidance:
        """The recipe's guidance in the form that models carry."""
        asked = self.recipe.head.guidance
        return Guidance(kind="cfg", scale=asked.scale, null_class=asked.null_class) if asked else Guidance()

    def _null_embedding(self) -> torch.Tensor | None:
        asked = self.recipe.head.guidance
        if asked is None or asked.null_embedding is None:
            return None
        try:
            array = np.load(asked.null_embedding, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{asked.null_embedding}: cannot be read as .npy: {error}") from None
        return torch.from_numpy(np.asarray(array, dtype=np.float32))

    def _teacher(self) -> Denoiser:
        """The checkpoint, loaded afresh, frozen, on the device, with the recipe's guidance and sampling."""
        head = self.recipe.head
        if head.checkpoint is None:
            raise RecipeError([f"{self.recipe.path}: has no checkpoint, so there is no teacher"])
        model = checkpoint.load(
            head.checkpoint,
            self.options.allow_pickle,
            head.sampling,
            self.guidance if head.guidance else None,
            self._null_embedding(),
        )
        if isinstance(model, QuantizedDenoiser):
            raise RecipeError(
                [f"{self.recipe.path}: checkpoint: {head.checkpoint} is quantized; a teacher is a float model"]
            )
        self._check_guidance(model)
        model.net.to(self.options.device)
        return dataclasses.replace(model, kept={})

    def _check_guidance(self, model: Denoiser) -> None:
        guidance, where = model.sampling.guidance, f"{self.recipe.path}: guidance"
        if guidance.kind == "none":
            return
        count = model.family.classes(model.net)
        if guidance.null_class is not None and (count is None or guidance.null_class >= count):
            has = "takes no class labels" if count is None else f"has the labels 0…{count - 1}"
            raise RecipeError([f"{where}.null_class: {guidance.null_class}, but the model {has}"])
        if guidance.null_class is None and count is not None:
            raise RecipeError([f"{where}: the model is class-conditional; give null_class"])
        wanted = model.conditions.get("encoder_hidden_states")
        if wanted is not None and (model.null_embedding is None or tuple(model.null_embedding.shape) != wanted.shape):
            found = None if model.null_embedding is None else tuple(model.null_embedding.shape)
            raise RecipeError([f"{where}.null_embedding: should be [tokens, {wanted.shape[1]}]; got {found}"])
        if count is None and wanted is None:
            raise RecipeError([f"{where}: the model is unconditional and cannot be guided; remove guidance"])

    def _dataset(self) -> data.Dataset:
        config = self.recipe.head.data
        if config is None:
            raise DataError(
                f"{self.recipe.path}: a pass needs images; add e.g. `data: {{source: teacher, count: 2000}}`"
            )
        if not isinstance(config, data.FromTeacher):
            model = self._shape_giver()
            return data.load(config, model.sample_shape, model.classes)
        file = self.cache_folder / f"teacher-{self.identity()[:16]}.npz"
        return draw_dataset(self.teacher(), config, self.recipe.head.seed, file, self.options.progress)

    def _shape_giver(self) -> Denoiser:
        if self.recipe.head.checkpoint is not None:
            return self.teacher()
        first = self.recipe.steps[0]
        context = self.context(first, Path(), Path())
        return passes.module(first.kind).build(first.config, context)

    def context(self, step: Step, workdir: Path, output: Path) -> Context:
        """What a pass is given."""
        head, options = self.recipe.head, self.options
        return Context(
            name=step.name,
            recipe=head.name,
            seed=head.seed,
            device=options.device,
            workdir=workdir,
            output=output,
            guidance=self.guidance,
            sampling=head.sampling,
            data=head.data,
            teacher=self.teacher,
            dataset=self.dataset,
            progress=options.progress,
            log=options.log,
        )

    def identity(self) -> str:
        """Hash of everything the recipe reads besides the settings of its passes."""
        head = self.recipe.head
        parts: dict[str, Any] = {
            "head": head.model_dump(mode="json", exclude={"name"}),
            "device": self.options.device.type,
        }
        read = []
        if head.checkpoint is not None:
            source = checkpoint.locate(head.checkpoint)
            read += [p for folder in {source.root, source.model} for p in folder.iterdir()]
            read += [source.scheduler] if source.scheduler else []
        for path in (
            getattr(head.data, "path", None),
            getattr(head.data, "embeddings", None),
            getattr(head.guidance, "null_embedding", None),
        ):
            read += [] if path is None else sorted(path.rglob("*")) if path.is_dir() else [path]
        parts["files"] = {str(p): sha256(p) for p in sorted(read) if p.is_file() and not p.name.startswith("README")}
        return digest(parts)


def digest(content: Any) -> str:
    """SHA-256 of JSON-able content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@cache
def code_identity() -> str:
    """Hash of this package's code and of the libraries that compute."""
    root = Path(__file__).parent
    files = {str(p.relative_to(root)): sha256(p) for p in sorted(root.rglob("*")) if p.suffix in (".py", ".jinja")}
    return digest([files, versions()])


def versions() -> dict[str, str]:
    """Versions of this package and of the libraries that compute."""
    return {"compress": __version__, **{name: importlib.metadata.version(name) for name in _LIBRARIES}}


def claim(output: Path, recipe: Recipe, fresh: bool) -> None:
    """Make the output folder this recipe's own. Raises OutputError if it is another's or not writable."""
    marker = output / "recipe.json"
    mine = {"name": recipe.head.name, "checkpoint": recipe.head.checkpoint}
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; give a folder with --output")
    if output.is_dir() and any(output.iterdir()):
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
            owner = {key: found[key] for key in mine}
        except (OSError, ValueError, KeyError, TypeError):
            raise OutputError(
                f"{output}: holds files that no recipe wrote; give an empty or new folder with --output"
            ) from None
        if owner != mine:
            raise OutputError(
                f"{output}: belongs to recipe {owner['name']!r} with checkpoint {owner['checkpoint']}; "
                "give another folder with --output"
            )
    if fresh:
        remove(output / "passes")
    write_json(marker, mine)


def apply(recipe: Recipe, output: Path, options: Options) -> Outcome:
    """Run a recipe and lay out its result in `output`. Raises a CompressError."""
    try:
        claim(output, recipe, options.fresh)
        return _Run(recipe, output, options).all()
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OutputError(f"{output}: cannot be written: {reason}; free some space or give another --output") from error


def verify_bundle(path: Path, teacher: str, recipe: Recipe | None, output: Path, options: Options) -> dict[str, Any]:
    """Judge a bundle on its own and return its report, which `output` then holds. Raises a CompressError.

    recipe: whose data, sampling and gates to use; None: what the bundle says, and the gates of a
    report.json beside it.
    """
    folder = path / "onnx" if (path / "onnx" / "bundle.json").is_file() else path
    bundle = Bundle(folder)
    if recipe is None:
        recipe = _recipe_of(bundle, teacher)
    step = next((step for step in recipe.steps if step.kind == "verify"), None)
    if step is None:
        raise RecipeError([f"{recipe.path}: has no verify pass"])
    with tempfile.TemporaryDirectory() as work:
        inputs = Inputs(recipe, options, Path(work))
        passes.module("verify").run(bundle, step.config, inputs.context(step, Path(work), output))
    return json.loads((output / "report.json").read_text(encoding="utf-8"))


def _recipe_of(bundle: Bundle, teacher: str) -> Recipe:
    """The recipe that a bundle carries, as far as verifying needs it."""
    manifest = bundle.manifest
    if manifest["data"] not in ("digits", "teacher", None):
        raise RecipeError(
            [f"{bundle.path}: was made with data of its own ({manifest['data']}); name its recipe with --recipe"]
        )
    head: dict[str, Any] = {"name": manifest["name"], "checkpoint": teacher, "sampling": manifest["teacher_sampling"]}
    if manifest["data"]:
        head["data"] = {"source": manifest["data"]}
    if bundle.guidance["kind"] == "cfg":
        (null,) = bundle.guidance["null"].values()
        key, value = ("null_class", null) if isinstance(null, int) else ("null_embedding", bundle.path / null)
        head["guidance"] = {"scale": bundle.guidance["scale"], key: value}
    gates: dict[str, dict[str, float]] = {}
    beside = bundle.path.parent / "report.json"
    if beside.is_file():
        for gate in json.loads(beside.read_text(encoding="utf-8"))["gates"]:
            gates.setdefault(gate["name"], {})[gate["kind"]] = gate["limit"]
    config = passes.module("verify").Config(gates=gates)
    return Recipe(Head.model_validate(head), [Step("verify", "verify", config)], bundle.path / "bundle.json")


class _Run:
    def __init__(self, recipe: Recipe, output: Path, options: Options) -> None:
        self.recipe, self.output, self.options = recipe, output, options
        self.inputs = Inputs(recipe, options, output / "passes" / "cache")
        self.load: Callable[[], Any] = self.inputs.teacher if recipe.head.checkpoint else lambda: None
        self.records: list[dict[str, Any]] = []

    def all(self) -> Outcome:
        identity = digest([self.inputs.identity(), code_identity()])
        wanted = set()
        for number, step in enumerate(self.recipe.steps, start=1):
            identity = digest([identity, step.kind, step.name, step.config.model_dump(mode="json")])
            folder = self.output / "passes" / f"{number:02d}-{step.name}"
            wanted.add(folder.name)
            record = _finished(folder, identity)
            if record is None:
                record = self._step(step, folder, identity)
            else:
                self.options.log(f"{step.name}: unchanged, used again")
            self.records.append(record)
            if record["stored"] is not None:
                self.load = self._loader(folder / record["stored"])
        for old in (self.output / "passes").iterdir():
            if old.name not in wanted and old.name != "cache":
                remove(old)  # of an earlier version of this recipe
        verdict = publish(self.recipe.head.name, self.output, self.records)
        return Outcome(self.output, verdict, self.records)

    def _loader(self, stored: Path) -> Callable[[], Any]:
        def load() -> Denoiser | QuantizedDenoiser | Bundle:
            if stored.name == "onnx":
                return Bundle(stored)
            model = checkpoint.load(stored)
            if isinstance(model, Denoiser):
                model.net.to(self.options.device)
            return model

        return cache(load)

    def _step(self, step: Step, folder: Path, identity: str) -> dict[str, Any]:
        work = folder.with_name(f"{folder.name}.work")
        _prepare_work(work, identity)
        model = self.load()
        record: dict[str, Any] = {}

        def write(part: Path) -> None:
            part.mkdir()
            context = self.inputs.context(step, work, part / "files")
            context.output.mkdir()
            began = time.monotonic()
            result: PassResult[Any] = passes.module(step.kind).run(model, step.config, context)
            stored = _store(result.model, part) if result.changed else None
            record.update(
                {
                    "pass": step.kind,
                    "name": step.name,
                    "identity": identity,
                    "config": step.config.model_dump(mode="json"),
                    "changed": result.changed,
                    "stored": stored,
                    "seconds": round(time.monotonic() - began, 2),
                    "before": _size(model),
                    "after": _size(result.model),
                    "notes": dict(result.notes),
                    "device": str(self.options.device),
                    "versions": versions(),
                }
            )
            write_json(part / "record.json", record)

        write_atomically(folder, write)
        remove(work)
        return record


def _finished(folder: Path, identity: str) -> dict[str, Any] | None:
    """The record of a finished pass, if it is the one that is wanted."""
    try:
        record: dict[str, Any] = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if record.get("identity") == identity else None


def _prepare_work(work: Path, identity: str) -> None:
    """Keep the state of a killed pass only if it is of the pass that is about to run."""
    marker = work / "identity"
    if not marker.is_file() or marker.read_text() != identity:
        remove(work)
        work.mkdir(parents=True)
        marker.write_text(identity)


def _store(model: Any, part: Path) -> str:
    """Save a pass's model inside its folder; the name of the subfolder."""
    if isinstance(model, Bundle):
        assert model.path == part / "files" / "onnx", "a pass writes its bundle to context.output / 'onnx'"
        model.path.rename(part / "onnx")
        return "onnx"
    checkpoint.save(model, part / "model")
    return "model"


def _size(model: Any) -> Mapping[str, int] | None:
    if isinstance(model, Denoiser | QuantizedDenoiser):
        source = model.source if isinstance(model, QuantizedDenoiser) else model
        return {"params": counts.parameters(source), "macs": counts.macs(source)}
    return {"bytes": model.size_bytes} if isinstance(model, Bundle) else None
