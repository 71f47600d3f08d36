"""What settings are made of: frozen models that take no value of another kind, and their faults in plain words.

Text is no number and neither is `true`; a whole number may stand where a fraction may.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import diffusers
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import CoreSchema, core_schema

from compress.errors import nearest, short, suggest, written
from compress.files import check_regular

Item = TypeVar("Item")

_WORDS = {
    "bool_type": "should be true or false",
    "dict_type": "should be a mapping",
    "finite_number": "should be a finite number",
    "float_type": "should be a number",
    "int_type": "should be a whole number",
    "invalid_key": "should be text",
    "model_attributes_type": "should be a mapping",
    "model_type": "should be a mapping",
    "path_type": "should be a path",
    "string_pattern_mismatch": "should be letters, digits, `_`, `.` and `-`, with a letter or a digit first",
    "string_type": "should be text",
    "too_short": "should hold something",
    "tuple_type": "should be a list",
}


class Frozen(BaseModel):
    """Base of all settings: immutable, without unknown keys, every value of its own kind, numbers finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class KeyFaults(ValueError):
    """Faults of keys of a mapping that is itself the value of a setting: key → message."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{written(key)}: {message}" for key, message in faults.items()))
        self.faults = faults


def unknown_keys(config: Mapping[str, Any], name: str, also: Iterable[str] = ()) -> dict[str, str]:
    """Faults of the keys of a diffusers config that its class, by name, does not take. also: keys that are known."""
    own = inspect.signature(getattr(diffusers, name).__init__).parameters
    known = [*sorted({*own, *also} - {"self"}), "_class_name", "_diffusers_version", "_name_or_path"]
    return {key: f"unknown key{suggest(key, known)}" for key in config if key not in known}


class _OneOrMore:
    """A tuple that may be written as its only item."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_listed, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        return {"anyOf": [found, found["items"]]}


def _listed(value: Any) -> Any:
    if isinstance(value, str | int | float | Path):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Listed = Annotated[tuple[Item, ...], Strict(False)]
Many = Annotated[tuple[Item, ...], _OneOrMore()]
Pair = Annotated[tuple[Item, Item], Strict(False)]


def absolute(path: Path, info: ValidationInfo) -> Path:
    """The path from the folder of its recipe, the context of the validation, if that has one.

    Raises ValueError if nothing stands there.
    """
    try:
        full = path if info.context is None else (info.context / path.expanduser()).resolve()
        if info.context is None or full.exists():
            return full
    except (OSError, ValueError, RuntimeError):  # no path that could exist
        full = path
    raise ValueError(f"{written(str(full), 400)} does not exist")


def _file(path: Path, info: ValidationInfo) -> Path:
    path = absolute(path, info)
    if info.context is not None:
        check_regular(path)
    return path


def _folder(path: Path, info: ValidationInfo) -> Path:
    path = absolute(path, info)
    if info.context is not None and not path.is_dir():
        raise ValueError("is no folder")
    return path


Existing = Annotated[Path, Strict(False), AfterValidator(absolute)]
File = Annotated[Path, Strict(False), AfterValidator(_file)]
Directory = Annotated[Path, Strict(False), AfterValidator(_folder)]


def paths(settings: BaseModel) -> list[Path]:
    """Every path in the settings."""
    values: list[Any] = [settings.model_dump()]
    for value in values:
        values += value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return [value for value in values if isinstance(value, Path)]


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models(inner)


def only(settings: BaseModel, *names: str) -> str:
    """Which of these settings is given. Raises ValueError unless it is exactly one."""
    found = [name for name in names if getattr(settings, name) is not None]
    if len(found) != 1:
        raise ValueError(f"give exactly one of {', '.join(names)}")
    return found[0]


def choices(annotation: Any) -> list[str]:
    """The words that a type allows, where it allows some words alone."""
    if get_origin(annotation) is Literal:
        return [str(word) for word in get_args(annotation)]
    return [word for inner in get_args(annotation) for word in choices(inner)]


def words(fault: Mapping[str, Any]) -> str:
    """What is wrong by one of pydantic's `errors()`, and what was found, without the place."""
    context, found = fault.get("ctx", {}), fault["input"]
    if fault["type"] == "union_tag_invalid":
        text, found = f"should be one of {context['expected_tags']}", context["tag"]
    else:
        text = _WORDS.get(fault["type"], re.sub(r"^Value error, ", "", fault["msg"]))
        text = re.sub(r"^(Input|String|Tuple|Dictionary) should", "should", text)
    options = re.findall(r"'([^']*)'", context.get("expected_tags", context.get("expected", "")))
    meant = nearest(found[:80], options) if isinstance(found, str) and options else ""
    return f"{text}; got {short(found)}{meant}"


def plain(error: ValidationError) -> str:
    """The first faults that pydantic found, in one line; a fault of the whole without its value."""
    found = [(".".join(map(str, fault["loc"])), fault) for fault in error.errors(include_url=False)[:3]]
    return "; ".join(f"{place}: {words(fault)}" if place else str(fault["ctx"]["error"]) for place, fault in found)
