"""What a recipe may say, for people and for editors."""

from collections.abc import Iterator
from typing import Any, Literal, Union

from pydantic import BaseModel, Field, create_model

from compress import passes
from compress.contract import PassConfig
from compress.errors import short
from compress.recipe.head import Head
from compress.settings import Frozen, choices, models


def of_passes() -> Iterator[tuple[str, str, Iterator[str]]]:
    """(name, summary, lines of settings) of every pass."""
    return ((name, passes.summary(name), _settings(passes.module(name).Config)) for name in passes.names())


def _settings(model: type[BaseModel]) -> Iterator[str]:
    """One line a setting, those of settings within settings below them."""
    for key, info in model.model_fields.items():
        inner = list(models(info.annotation))
        allowed = choices(info.annotation)
        values = f" ({', '.join(allowed)})" if allowed else ""
        default = "required" if info.is_required() else "see below" if info.default and inner else short(info.default)
        yield f"{key}: {info.description or ''}{values} [{default}]"
        for part in inner:
            yield from (f"    {line}" for line in _settings(part))


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of recipes, for editors."""
    items: list[Any] = []
    another: Any = {"as": (str, Field("", description="another name, for a pass that appears twice"))}
    for name in passes.names():
        config: type[PassConfig] = passes.module(name).Config
        settings = create_model(name, __base__=config, __doc__=passes.summary(name), **another)
        needed = any(field.is_required() for field in config.model_fields.values())
        items += [] if needed else [Literal[name]]
        fields: Any = {name: (settings if needed else settings | None, ...), **another}
        items.append(create_model(f"{name} pass", __base__=Frozen, **fields))
    any_pass: Any = Union[tuple(items)]  # noqa: UP007
    whole = create_model("compress recipe", __base__=Head, passes=(list[any_pass], Field(min_length=1)))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole.model_json_schema()}
