"""What a recipe may say, for people and for editors."""

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from compress import passes
from compress.recipe import describe
from compress.recipe.head import Head


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model that an annotation mentions, with those inside it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models(field.annotation)
    for inner in get_args(annotation):
        yield from models(inner)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_schema_is_a_json_schema() -> None:
    schema = describe.schema()
    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"].endswith("draft/2020-12/schema")
    assert schema["type"] == "object" and schema["additionalProperties"] is False
    assert set(schema["required"]) == {"name", "passes"}
    assert set(schema["properties"]) == {*Head.model_fields, "passes"}


def test_schema_mentions_every_pass() -> None:
    schema = describe.schema()
    items = [schema["$defs"][ref.rpartition("/")[2]] for ref in references(schema["properties"]["passes"])]
    named = {name for item in items for name in item.get("properties", {})} - {"as"}
    assert named == set(passes.names())


@pytest.mark.parametrize("name", passes.names())
def test_schema_holds_every_description(name: str) -> None:
    described = set(strings(describe.schema()))
    fields = [field for model in models(passes.module(name).Config) for field in model.model_fields.values()]
    wanted = [field.description for field in fields if field.description]
    assert wanted and set(wanted) <= described
    assert passes.summary(name) in described


def test_schema_holds_every_description_of_the_head() -> None:
    described = set(strings(describe.schema()))
    wanted = {field.description for model in models(Head) for field in model.model_fields.values()} - {None}
    assert len(wanted) > 8 and wanted <= described


def test_every_reference_of_the_schema_leads_somewhere() -> None:
    schema = describe.schema()
    found = set(references(schema))
    assert found and found <= {f"#/$defs/{name}" for name in schema["$defs"]}


def test_only_passes_that_need_no_settings_may_be_written_bare() -> None:
    items = describe.schema()["properties"]["passes"]["items"]["anyOf"]
    bare = {item["const"] for item in items if "const" in item}
    needy = {
        name
        for name in passes.names()
        if any(field.is_required() for field in passes.module(name).Config.model_fields.values())
    }
    assert "prune_channels" in needy
    assert bare == set(passes.names()) - needy
