"""Reading YAML so that every fault can be shown with the place it stands at."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from compress.errors import RecipeError, suggest

# PyYAML lets errors of its constructors through, as for the date 2024-13-45.
YAML_FAULTS = (yaml.YAMLError, ValueError, AttributeError)


class YamlReader:
    """Collects the faults of one file and knows on which line each of its keys stands.

    faults: one message each. places: path of keys and indices → "file:line".
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.faults: list[str] = []
        self.places: dict[tuple[Any, ...], str] = {}
        self._mapped: set[int] = set()

    def parse(self, text: str) -> dict[str, Any]:
        """The file's mapping. Raises RecipeError if it is not one."""
        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            if node is not None:
                self._map(node, ())  # before construction, which merges `<<` into its mapping
            content = None if node is None else loader.construct_document(node)
        except YAML_FAULTS as error:
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
        if id(node) in self._mapped:  # an alias, perhaps of what it stands in
            return
        self._mapped.add(id(node))
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

    def validate(
        self, model: type[BaseModel], content: Mapping[str, Any], place: tuple[Any, ...], extra: Sequence[str] = ()
    ) -> BaseModel | None:
        """`content`, which stands at `place`, as a `model`; None if it has faults. extra: keys beside the model's."""
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
            message = f"unknown key {name!r}{suggest(str(real[-1]), known)}"
        elif fault["type"] == "missing":
            message = f"{name} is missing"
        elif fault["type"] == "union_tag_not_found":
            message = f"{name}.source is missing; give digits, folder, npz or teacher"
        else:
            text = re.sub(r"^Value error, ", "", fault["msg"])
            text = text.replace("Input should", "should")
            options = re.findall(r"'([^']*)'", fault["ctx"]["expected"]) if fault["type"] == "literal_error" else []
            near = difflib.get_close_matches(str(fault["input"]), options, n=1, cutoff=0.5)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            message = f"{name or 'the recipe'}: {text}; got {fault['input']!r}{meant}"
        self.fault(where, message)

    def fault(self, where: tuple[Any, ...], message: str) -> None:
        """Note a fault at the innermost known place of `where`."""
        place = tuple(part if isinstance(part, int) and i else str(part) for i, part in enumerate(where))
        while place not in self.places and place:
            place = place[:-1]
        self.faults.append(f"{self.places.get(place, str(self.file))}: {message}")


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
