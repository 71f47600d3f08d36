"""Recipes: YAML in, checked `Recipe` out. All faults are found at once, with their lines.

The whole chain is checked here, before any weight is loaded: every pass exists, every key is known,
every value is in range, and every pass can take what the one before it gives.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from compress import passes
from compress.contract import PassConfig
from compress.data import DataConfig
from compress.diffusion.schedulers import SamplingOptions
from compress.errors import RecipeError, short, suggest, written
from compress.files import NESTING, Unreadable, check_regular, read_text
from compress.model.denoiser import Denoiser, Quantized
from compress.recipe.yaml_reader import YamlReader, parse_value
from compress.runtime import Bundle
from compress.settings import File, Frozen, Settings, located

BYTES = 2**16  # of a recipe file
_WORDS: dict[object, str] = {
    Denoiser: "a float model",
    Quantized: "a quantized model",
    Bundle: "an exported bundle",
    type(None): "no model yet",
}


class GuidanceOptions(Frozen):
    """Guidance, classifier-free or by a classifier. One of null_class, null_embedding and classifier is given."""

    scale: float = Field(
        ge=0,
        le=100,
        description="diffusers' guidance_scale = 1 + the papers' w; 1: no guidance. With a classifier: the factor of "
        "its gradient; 0: no guidance",
    )
    null_class: int | None = Field(None, ge=0, description="the label that stands for 'no class'")
    null_embedding: File | None = Field(
        None, description=".npy file: embedding of the empty text [tokens, width], or the null class embedding"
    )

    classifier: File | None = Field(
        None,
        description="TorchScript file (.pt) of a classifier of noisy samples, f(sample, timestep) → logits, for a "
        "class-conditional model",
    )

    @model_validator(mode="after")
    def _one(self) -> "GuidanceOptions":
        if sum(given is not None for given in (self.null_class, self.null_embedding, self.classifier)) != 1:
            raise ValueError(
                "give one of null_class (class-conditional), null_embedding (text-conditional) and classifier"
            )
        return self


class Head(Frozen):
    """A recipe without its passes."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=100, description="names the output folder")
    checkpoint: str | None = Field(None, description="diffusers folder, relative to the recipe, or hub id (owner/name)")
    data: DataConfig | None = Field(None, description="images to train on and to judge by")
    guidance: GuidanceOptions | None = Field(None, description="absent: unguided")
    sampling: SamplingOptions = Field(SamplingOptions(), description="default: the checkpoint's own scheduler")
    seed: int = Field(0, ge=0, lt=2**31, description="determines everything random")


@dataclass(frozen=True)
class Step:
    """One pass of a recipe. name: its `as`, or the pass's own."""

    name: str
    kind: str
    config: PassConfig


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. head: everything but the passes, with paths made absolute."""

    head: Head
    steps: Sequence[Step]
    path: Path


def read(path: str | Path, overrides: Sequence[str] = (), checkpoint: str | None = None) -> Recipe:
    """Read and check a recipe file.

    overrides: `key=value`, e.g. "passes.distill.steps=50". checkpoint: instead of the recipe's, relative
    to the working folder. Raises RecipeError with all faults.
    """
    file = Path(path)
    try:
        text = read_text(file, BYTES)
    except Unreadable as error:
        raise RecipeError([f"{file}: {error}"]) from None
    reader = _RecipeReader(file)
    raw = reader.parse(text)
    reader.override(raw, overrides)
    if checkpoint is not None:
        try:
            raw["checkpoint"] = str(Path(checkpoint).resolve()) if Path(checkpoint).exists() else checkpoint
        except (OSError, ValueError):
            raw["checkpoint"] = checkpoint
    return reader.check(raw)


class _RecipeReader(YamlReader):
    """Reads the parts of a recipe."""

    def override(self, raw: dict[str, Any], overrides: Sequence[str]) -> None:
        for text in overrides:
            key, equals, value = text.partition("=")
            keys = key.strip().split(".")
            key, shown = written(key), f"--set {written(text)}"
            if not equals or not all(keys):
                self.faults.append(f"{shown}: should be key=value, e.g. passes.distill.steps=50")
                continue
            target: Any = raw
            path: tuple[Any, ...] = ()
            if keys[0] == "passes" and len(keys) > 1:
                found = [(i, kind) for i, name, kind in _pass_names(raw) if name == keys[1]]
                if not found:
                    known = [name for _, name, _ in _pass_names(raw)]
                    self.faults.append(f"{shown}: no pass is called {written(keys[1])}{suggest(keys[1], known)}")
                    continue
                index, kind = found[0]
                if not isinstance(raw["passes"][index], dict):
                    raw["passes"][index] = {kind: {}}
                if raw["passes"][index][kind] is None:
                    raw["passes"][index][kind] = {}
                target, path, keys = raw["passes"][index][kind], ("passes", index, kind), keys[2:]
            for name in keys[:-1] if len(keys) < NESTING else ():
                path = (*path, name)
                if not isinstance(target, dict):
                    break
                if not isinstance(target.get(name), dict):
                    target[name] = {}
                    self.places[path] = f"--set {key}"
                target = target[name]
            if not 0 < len(keys) < NESTING or not isinstance(target, dict):
                self.faults.append(f"{shown}: names no setting")
                continue
            try:
                target[keys[-1]] = parse_value(value)
            except ValueError as error:
                self.faults.append(f"{shown}: the value is not YAML that is read here: {error}")
            self.places[(*path, keys[-1])] = f"--set {key}"

    def check(self, raw: dict[str, Any]) -> Recipe:
        rest = {key: value for key, value in raw.items() if key != "passes"}
        head = self.validate(Head, rest, (), extra=("passes",))
        steps = self._steps(raw)
        if isinstance(head, Head):
            head = self._resolve(head)
            self._by_classifier(head, steps)
        if self.faults:
            raise RecipeError(self.faults)
        assert isinstance(head, Head)
        return Recipe(head, steps, self.file)

    def _by_classifier(self, head: Head, steps: Sequence[Step]) -> None:
        """A classifier guides a trained model, and a bundle only when its guidance has been distilled."""
        if head.guidance is None or head.guidance.classifier is None:
            return
        place = ("guidance", "classifier")
        if head.checkpoint is None:
            self.fault(place, "guidance.classifier: guides a trained model; give its checkpoint")
        kinds = [step.kind for step in steps]
        before = steps[: kinds.index("export_onnx")] if "export_onnx" in kinds else None
        distilled = [
            step.kind == "distill_guidance" or getattr(step.config, "bake_guidance", False) for step in before or ()
        ]
        if before is not None and not any(distilled):
            self.fault(
                place,
                "guidance.classifier: a bundle cannot follow a classifier's gradient; put `distill_guidance`, or "
                "`distill_steps: {bake_guidance: true}`, before export_onnx",
            )

    def _steps(self, raw: dict[str, Any]) -> list[Step]:
        items = raw.get("passes")
        if not isinstance(items, list) or not items:
            self.fault(("passes",), "should be a list of passes, e.g. `- prune_channels: {target: {macs: 0.5}}`")
            return []
        steps: list[Step] = []
        names: set[str] = set()
        chain: list[tuple[str, str, tuple[Any, ...]]] = []  # name, kind, place of every known pass
        for i, item in enumerate(items):
            item = {item: {}} if isinstance(item, str) else item
            kinds = [key for key in item if key != "as"] if isinstance(item, dict) else []
            if len(kinds) != 1 or not isinstance(kinds[0], str):
                self.fault(("passes", i), "should be one pass: `- name: {settings}`")
                continue
            kind = kinds[0]
            place = ("passes", i, kind)
            if kind not in passes.names():
                self.fault(place, f"unknown pass {short(kind)}{suggest(kind, passes.names())}")
                continue
            settings = {} if item[kind] is None else item[kind]
            if not isinstance(settings, dict):
                self.fault(place, f"{kind}: the settings should be a mapping; got {short(settings)}")
                continue
            settings = dict(settings)
            if "as" in item and "as" in settings:
                self.fault(("passes", i, "as"), f"as is given twice, within {kind} and beside it; leave one out")
            name = settings.pop("as", item.get("as", kind))
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w-]{,99}", name):
                self.fault(place, f"as: {short(name)} should be a plain name")
            elif name in names:
                self.fault(place, f"a second pass called {name}; tell them apart with `as: another-name`")
            names.add(str(name))
            chain.append((str(name), kind, place))
            config = self.validate(passes.module(kind).Config, settings, place, extra=("as",))
            if isinstance(config, PassConfig):
                steps.append(Step(str(name), kind, self._located(config, place)))
        if len(chain) == len(items):  # with an unknown pass nobody knows what the next one is given
            self._chain(chain, has_checkpoint=raw.get("checkpoint") is not None)
        return steps

    def _chain(self, chain: Sequence[tuple[str, str, tuple[Any, ...]]], has_checkpoint: bool) -> None:
        current: object = Denoiser if has_checkpoint else type(None)
        before = "the checkpoint" if has_checkpoint else "a recipe without checkpoint"
        for name, kind, place in chain:
            accepted = passes.accepts(kind)
            if current not in accepted:
                wanted = " or ".join(sorted(_WORDS[type_] for type_ in accepted if type_ is not type(None)))
                self.fault(place, f"{name} needs {wanted}, and after {before} there is {_WORDS[current]}")
            current, before = passes.returns(kind), name

    def _resolve(self, head: Head) -> Head:
        """Make paths absolute, from the recipe's own folder, and check that they lead somewhere."""
        changes: dict[str, Any] = {}
        if head.checkpoint is not None:
            local = self._absolute(Path(head.checkpoint))
            if local is not None and local.exists():
                changes["checkpoint"] = str(local)
            elif not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", head.checkpoint):
                self.fault(("checkpoint",), f"checkpoint: {written(str(local or head.checkpoint), 400)} does not exist")
        return self._located(head, ()).model_copy(update=changes)

    def _located(self, settings: Settings, place: tuple[Any, ...]) -> Settings:
        """The settings with the paths in them made absolute, and a fault noted where no file (or folder) stands."""
        return located(
            settings, lambda path, keys, folder: self._existing(path, (*place, *keys), ".".join(keys), folder)
        )

    def _existing(self, path: Path, where: tuple[Any, ...], name: str, folder: bool) -> Path:
        full = self._absolute(path)
        if full is None or not full.exists():
            self.fault(where, f"{name}: {written(str(full or path), 400)} does not exist")
        elif folder and not full.is_dir():
            self.fault(where, f"{name}: {full} is no folder")
        elif not folder:
            try:
                check_regular(full)
            except Unreadable as error:
                self.fault(where, f"{name}: {full} {error}")
        return full or path

    def _absolute(self, path: Path) -> Path | None:
        """None: no path that could exist."""
        try:
            full = (self.file.parent / path.expanduser()).resolve()
            full.exists()
            return full
        except (OSError, ValueError, RuntimeError):
            return None


def _pass_names(raw: Mapping[str, Any]) -> Iterator[tuple[int, str, str]]:
    """(index, name, kind) of the passes of an unchecked recipe."""
    items = raw.get("passes")
    for i, item in enumerate(items if isinstance(items, list) else []):
        if isinstance(item, str):
            yield i, item, item
        elif isinstance(item, dict):
            for kind, settings in item.items():
                if isinstance(kind, str) and kind != "as":
                    inner = settings.get("as") if isinstance(settings, dict) else None
                    yield i, str(inner or item.get("as") or kind), kind


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of recipes, for editors."""
    root = Head.model_json_schema()
    definitions = root.pop("$defs", {})
    items = []
    for name in passes.names():
        part = passes.module(name).Config.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        definitions |= {f"{name}.{key}": value for key, value in part.pop("$defs", {}).items()}
        part["properties"]["as"] = {"type": "string", "description": "another name, for a pass that appears twice"}
        part["description"] = passes.summary(name)
        optional = {"anyOf": [part, {"type": "null"}]} if not part.get("required") else part
        items.append(
            {
                "type": "object",
                "properties": {name: optional, "as": {"type": "string"}},
                "required": [name],
                "additionalProperties": False,
            }
        )
        if not part.get("required"):
            items.append({"const": name})
    root["properties"]["passes"] = {"type": "array", "minItems": 1, "items": {"anyOf": items}}
    root["required"] = [*root.get("required", []), "passes"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **root,
        "title": "compress recipe",
        "$defs": definitions,
    }
