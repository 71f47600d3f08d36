"""Values that a field cannot be, by the JSON schema of its model."""

import copy
import datetime
import math
import random
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

Place = tuple[str, ...]
POOL: tuple[Any, ...] = (
    *(True, False, None, "", "x", -1, 0, 0.5, -0.5, 1e300, -(10**30), math.nan, math.inf, -math.inf),
    *([], [[1]], [None], ["x"], [math.nan], {}, {"a": 1}, {"a": {"b": [1]}}, datetime.date(2024, 1, 1), b"bytes"),
)
KINDS: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def fits(value: Any, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> bool | None:
    """Whether a field can be `value`; None: it is for the field to say (a word for a number, one item for a list)."""
    if "$ref" in schema:
        return fits(value, definitions[schema["$ref"].rpartition("/")[2]], definitions)
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        found = [fits(value, option, definitions) for option in options]
        return True if True in found else None if None in found else False
    if "const" in schema or "enum" in schema:
        return type(value) is str and value in (schema.get("enum") or [schema["const"]])
    kind = str(schema.get("type"))
    if kind in KINDS and (isinstance(value, bool) or not isinstance(value, KINDS[kind])):
        return _by_courtesy(value, kind, schema, definitions)
    if kind in ("integer", "number"):
        return _in_range(float(value), schema)
    if kind == "string" and "pattern" in schema:
        return re.search(schema["pattern"], str(value)) is not None
    return True if kind == "null" else None


def _by_courtesy(value: Any, kind: str, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> bool | None:
    """Of a value of another kind."""
    if kind == "boolean":
        return True if isinstance(value, bool) else None if value in (0, 1) else False
    if kind == "array" and isinstance(value, int | float | str):
        inner = fits(value, schema.get("items") or {}, definitions)
        return False if inner is False else None
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return None if _in_range(value, schema) else False
    if kind == "string" and isinstance(value, bytes):
        return None
    return False


def _in_range(value: float, schema: Mapping[str, Any]) -> bool:
    return (
        math.isfinite(value)
        and value >= schema.get("minimum", -math.inf)
        and value <= schema.get("maximum", math.inf)
        and value > schema.get("exclusiveMinimum", -math.inf)
        and value < schema.get("exclusiveMaximum", math.inf)
    )


def wrong_for(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Any]:
    """The values of the pool that a field of this schema must refuse."""
    return [value for value in POOL if fits(value, schema, definitions) is False]


def fields(model: type[BaseModel]) -> dict[Place, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Every field of a model and of the models in it → (its schema, the definitions that it refers to)."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    return {place: (field, definitions) for place, field in _walk(schema, definitions, ())}


def _walk(schema: Mapping[str, Any], definitions: Mapping[str, Any], place: Place) -> Iterator[tuple[Place, Any]]:
    for name, field in schema.get("properties", {}).items():
        yield (*place, name), field
        for option in field.get("anyOf", [field]):
            if "$ref" in option:
                yield from _walk(definitions[option["$ref"].rpartition("/")[2]], definitions, (*place, name))


def put(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of nested dictionaries and lists with `value` at `place`, which is made where it is missing."""
    found = copy.deepcopy(content)
    target = found
    for key in place[:-1]:
        if isinstance(target, dict) and not isinstance(target.get(key), dict | list):
            target[key] = {}
        target = target[key]
    target[place[-1]] = value
    return found


def misspelt(name: str, choose: random.Random) -> str:
    """A word with one letter doubled, left out or changed for its neighbour."""
    at = choose.randrange(1, len(name)) if len(name) > 1 else 0
    return choose.choice((name[:at] + name[at - 1 : at] + name[at:], name[:at] + name[at + 1 :], name + "s"))


def nested(depth: int, kind: str = "list") -> str:
    """YAML and JSON of so many lists, or mappings, in each other."""
    return "[" * depth + "]" * depth if kind == "list" else '{"a": ' * depth + "1" + "}" * depth


def places(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value in nested dictionaries and lists stands; of a list, its first item alone."""
    items = (
        content.items() if isinstance(content, dict) else enumerate(content[:1]) if isinstance(content, list) else ()
    )
    for key, value in items:
        yield (*place, key)
        yield from places(value, (*place, key))
