"""Recipes: YAML in, checked `Recipe` out. All faults are found at once, with their lines.

The whole chain is checked here, before any weight is loaded: every pass exists, every key is known,
every value is in range, and every pass can take what the one before it gives.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from compress import passes
from compress.contract import PassConfig
from compress.data import DataConfig
from compress.diffusion.sampling import Frozen, SamplingOptions
from compress.errors import RecipeError
from compress.models.denoiser import Denoiser, QuantizedDenoiser
from compress.runtime import Bundle

_WORDS = {
    Denoiser: "a float model",
    QuantizedDenoiser: "a quantized model",
    Bundle: "an exported bundle",
    type(None): "no model yet",
}


# PyYAML lets errors of its constructors through, as for the date 2024-13-45.
_YAML_FAULTS = (yaml.YAMLError, ValueError, AttributeError)


class GuidanceOptions(Frozen):
    """Classifier-free guidance. One of null_class and null_embedding is given."""

    scale: float = Field(ge=0, le=100, description="diffusers' guidance_scale = 1 + the papers' w; 1: no guidance")
    null_class: int | None = Field(None, ge=0, description="the label that stands for 'no class'")
    null_embedding: Path | None = Field(None, description=".npy file [tokens, width]: embedding of the empty text")

    @model_validator(mode="after")
    def _one(self) -> "GuidanceOptions":
        if (self.null_class is None) == (self.null_embedding is None):
            raise ValueError("give one of null_class (class-conditional) and null_embedding (text-conditional)")
        return self


class Head(Frozen):
    """A recipe without its passes."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", description="names the output folder")
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
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise RecipeError([f"{file}: cannot be read: {reason}"]) from None
    reader = _Reader(file)
    raw = reader.parse(text)
    reader.override(raw, overrides)
    if checkpoint is not None:
        try:
            raw["checkpoint"] = str(Path(checkpoint).resolve()) if Path(checkpoint).exists() else checkpoint
        except (OSError, ValueError):
            raw["checkpoint"] = checkpoint
    return reader.check(raw)


class _Reader:
    """Collects faults and knows on which line each key stands."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.faults: list[str] = []
        self.mapped: set[int] = set()
        self.places: dict[tuple[Any, ...], str] = {}

    def parse(self, text: str) -> dict[str, Any]:
        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            if node is not None:
                self._map(node, ())  # before construction, which merges `<<` into its mapping
            content = None if node is None else loader.construct_document(node)
        except _YAML_FAULTS as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or str(error)
            raise RecipeError([f"{self.file}{line}: is not YAML: {problem}"]) from None
        if not isinstance(content, dict):
            raise RecipeError([f"{self.file}: should be a mapping with the keys name, checkpoint, data, passes, …"])
        assert node is not None
        return content

    def _map(self, node: yaml.Node, path: tuple[Any, ...]) -> None:
        self.places[path] = f"{self.file}:{node.start_mark.line + 1}"
        if id(node) in self.mapped:  # an alias, perhaps of what it stands in
            return
        self.mapped.add(id(node))
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if key.value in seen:
                    self.faults.append(f"{self.file}:{key.start_mark.line + 1}: {key.value} is given twice")
                seen.add(key.value)
                self._map(value, (*path, key.value))
                self.places[(*path, key.value)] = f"{self.file}:{key.start_mark.line + 1}"
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                self._map(value, (*path, i))

    def override(self, raw: dict[str, Any], overrides: Sequence[str]) -> None:
        for text in overrides:
            key, equals, value = text.partition("=")
            keys = key.strip().split(".")
            if not equals or not all(keys):
                self.faults.append(f"--set {text}: should be key=value, e.g. passes.distill.steps=50")
                continue
            target: Any = raw
            path: tuple[Any, ...] = ()
            if keys[0] == "passes" and len(keys) > 1:
                found = [(i, kind) for i, name, kind in _pass_names(raw) if name == keys[1]]
                if not found:
                    known = [name for _, name, _ in _pass_names(raw)]
                    self.faults.append(f"--set {text}: no pass is called {keys[1]}{_suggest(keys[1], known)}")
                    continue
                index, kind = found[0]
                if not isinstance(raw["passes"][index], dict):
                    raw["passes"][index] = {kind: {}}
                if raw["passes"][index][kind] is None:
                    raw["passes"][index][kind] = {}
                target, path, keys = raw["passes"][index][kind], ("passes", index, kind), keys[2:]
            for name in keys[:-1]:
                path = (*path, name)
                if not isinstance(target, dict):
                    break
                if not isinstance(target.get(name), dict):
                    target[name] = {}
                    self.places[path] = f"--set {key}"
                target = target[name]
            if not keys or not isinstance(target, dict):
                self.faults.append(f"--set {text}: names no setting")
                continue
            try:
                target[keys[-1]] = yaml.safe_load(value)
            except _YAML_FAULTS:
                self.faults.append(f"--set {text}: the value is not YAML")
            self.places[(*path, keys[-1])] = f"--set {key}"

    def check(self, raw: dict[str, Any]) -> Recipe:
        rest = {key: value for key, value in raw.items() if key != "passes"}
        head = self._validate(Head, rest, (), extra=("passes",))
        steps = self._steps(raw)
        if not self.faults:
            self._chain(steps, has_checkpoint=raw.get("checkpoint") is not None)
        if isinstance(head, Head):
            head = self._resolve(head)
        if self.faults:
            raise RecipeError(self.faults)
        assert isinstance(head, Head)
        return Recipe(head, [step for step, _ in steps], self.file)

    def _steps(self, raw: dict[str, Any]) -> list[tuple[Step, tuple[Any, ...]]]:
        items = raw.get("passes")
        if not isinstance(items, list) or not items:
            self._fault(("passes",), "should be a list of passes, e.g. `- prune_channels: {target: {macs: 0.5}}`")
            return []
        steps: list[tuple[Step, tuple[Any, ...]]] = []
        taken: set[str] = set()
        for i, item in enumerate(items):
            item = {item: {}} if isinstance(item, str) else item
            kinds = [key for key in item if key != "as"] if isinstance(item, dict) else []
            if len(kinds) != 1 or not isinstance(kinds[0], str):
                self._fault(("passes", i), "should be one pass: `- name: {settings}`")
                continue
            kind = kinds[0]
            place = ("passes", i, kind)
            if kind not in passes.names():
                self._fault(place, f"unknown pass {kind!r}{_suggest(kind, passes.names())}")
                continue
            settings = {} if item[kind] is None else item[kind]
            if not isinstance(settings, dict):
                self._fault(place, f"{kind}: the settings should be a mapping; got {settings!r}")
                continue
            settings = dict(settings)
            name = settings.pop("as", item.get("as", kind))
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
                self._fault(place, f"as: {name!r} should be a plain name")
            elif name in taken:
                self._fault(place, f"a second pass called {name}; tell them apart with `as: another-name`")
            taken.add(str(name))
            config = self._validate(passes.module(kind).Config, settings, place, extra=("as",))
            if isinstance(config, PassConfig):
                steps.append((Step(str(name), kind, config), place))
        return steps

    def _chain(self, steps: Sequence[tuple[Step, tuple[Any, ...]]], has_checkpoint: bool) -> None:
        current: type = Denoiser if has_checkpoint else type(None)
        before = "the checkpoint" if has_checkpoint else "a recipe without checkpoint"
        for step, place in steps:
            accepted = passes.accepts(step.kind)
            if current not in accepted:
                wanted = " or ".join(sorted(_WORDS[kind] for kind in accepted if kind is not type(None)))
                self._fault(place, f"{step.name} needs {wanted}, and after {before} there is {_WORDS[current]}")
            current, before = passes.returns(step.kind), step.name

    def _resolve(self, head: Head) -> Head:
        """Make paths absolute, from the recipe's own folder, and check that they lead somewhere."""
        changes: dict[str, Any] = {}
        if head.checkpoint is not None:
            local = self._absolute(Path(head.checkpoint))
            if local is not None and local.exists():
                changes["checkpoint"] = str(local)
            elif not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", head.checkpoint):
                self._fault(("checkpoint",), f"checkpoint: {local or head.checkpoint} does not exist")
        for section, keys in (("data", ("path", "embeddings")), ("guidance", ("null_embedding",))):
            part = getattr(head, section)
            for key in keys:
                path = getattr(part, key, None)
                if path is not None:
                    full = self._absolute(path)
                    if full is None or not full.exists():
                        self._fault((section, key), f"{section}.{key}: {full or path} does not exist")
                    part = part.model_copy(update={key: full})
            changes[section] = part
        return head.model_copy(update=changes)

    def _absolute(self, path: Path) -> Path | None:
        """None: no path that could exist."""
        try:
            full = (self.file.parent / path.expanduser()).resolve()
            full.exists()
            return full
        except (OSError, ValueError, RuntimeError):
            return None

    def _validate(
        self, model: type[BaseModel], content: Mapping[str, Any], place: tuple[Any, ...], extra: Sequence[str] = ()
    ) -> BaseModel | None:
        try:
            return model.model_validate(content)
        except ValidationError as error:
            for fault in error.errors():
                self._explain(model, content, place, fault, extra)
            return None

    def _explain(
        self, model: type[BaseModel], content: Any, place: tuple[Any, ...], fault: Any, extra: Sequence[str]
    ) -> None:
        """One pydantic fault as one line."""
        real = []  # the location without the tags that pydantic adds for unions
        for i, part in enumerate(fault["loc"]):
            last = i == len(fault["loc"]) - 1
            inside = isinstance(content, dict) and part in content
            inside |= isinstance(content, list) and isinstance(part, int) and part < len(content)
            if inside:
                content = content[part]
            elif not last or fault["type"] not in ("missing", "invalid_key"):
                continue
            real.append(part)
        where = (*place, *real)
        name = ".".join(str(part) for part in (*place[2:], *real))
        if fault["type"] == "extra_forbidden":
            known = list(_fields(model, fault["loc"][:-1])) + (list(extra) if len(fault["loc"]) == 1 else [])
            message = f"unknown key {name!r}{_suggest(str(real[-1]), known)}"
        elif fault["type"] == "missing":
            message = f"{name} is missing"
        elif fault["type"] == "union_tag_not_found":
            message = f"{name}.source is missing; give digits, folder, npz or teacher"
        else:
            text = re.sub(r"^Value error, ", "", fault["msg"])
            text = text.replace("Input should", "should")
            message = f"{name or 'the recipe'}: {text}; got {fault['input']!r}"
        self._fault(where, message)

    def _fault(self, where: tuple[Any, ...], message: str) -> None:
        place = tuple(part if isinstance(part, int) and i else str(part) for i, part in enumerate(where))
        while place not in self.places and place:
            place = place[:-1]
        self.faults.append(f"{self.places.get(place, str(self.file))}: {message}")


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


def _fields(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Names of the fields of the model found at a pydantic location."""
    for part in location:
        options = [model, *_models(model.model_fields[part].annotation)] if part in model.model_fields else [model]
        tagged = [option for option in options if part in _tags(option)]
        model = tagged[0] if tagged else options[-1]
        if len(options) > 2 and not tagged:
            return sorted({name for option in options[1:] for name in option.model_fields})
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    source = model.model_fields.get("source")
    return get_args(source.annotation) if source else ()


def _suggest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


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
