"""Reading YAML so that every fault can be shown with the place it stands at."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from compress.errors import RecipeError, short, suggest, written
from compress.files import NESTING
from compress.settings import KeyFaults, models, words

DIGITS = 15  # of an integer; longer ones fit into no 64 bits, or hardly
FAULTS = 100  # of one mapping that are told one by one


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader for documents of bounded depth, without aliases: a few can stand for billions of values."""

    level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(None, None, "aliases are not read here; write out what this one stands for", mark)
        if self.level == NESTING:
            raise ComposerError(None, None, f"is nested more than {NESTING} deep", mark)
        self.level += 1
        node = super().compose_node(parent, index)
        self.level -= 1
        return node

    def flatten_mapping(self, node: Any) -> None:
        """Merges nothing: `<<` is a key as any other, which no setting has."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        kind = node.tag.rpartition(":")[2]
        if kind == "int" and len(node.value) > DIGITS:
            raise ConstructorError(None, None, f"an integer of more than {DIGITS} digits", node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):  # as for the date 2024-13-45
            raise ConstructorError(None, None, f"{short(node.value)} is no {kind}", node.start_mark) from None


_Loader.add_constructor("tag:yaml.org,2002:merge", yaml.SafeLoader.construct_yaml_str)  # type: ignore[type-var]
# PyYAML takes 1e-3 for text, YAML 1.2 for a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$", re.ASCII), list("-+.0123456789")
)


class NoYaml(ValueError):
    """Why a text is not read, and on which line, where one is to blame."""

    def __init__(self, error: Exception, text: str) -> None:
        mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        super().__init__(problem.splitlines()[0])
        self.line = mark.line + 1 if mark else None if position is None else text.count("\n", 0, position) + 1


def load(text: str) -> tuple[Any, yaml.Node | None]:
    """What a YAML text holds, and the node that says where. Raises NoYaml."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else loader.construct_document(node), node
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter two by escapes beyond Unicode
        raise NoYaml(error, text) from None


class YamlReader:
    """Collects the faults of one file and knows on which line each of its keys stands.

    faults: one message each. places: path of keys and indices → "file:line".
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.faults: list[str] = []
        self.places: dict[tuple[Any, ...], str] = {}

    def parse(self, text: str) -> dict[str, Any]:
        """The file's mapping. Raises RecipeError if it is not one."""
        try:
            content, node = load(text)
        except NoYaml as error:
            line = f":{error.line}" if error.line else ""
            raise RecipeError(f"{self.file}{line}: is not YAML that is read here: {error}") from None
        if node is None or not isinstance(content, dict):
            raise RecipeError(f"{self.file}: should be a mapping with the keys name, checkpoint, data, passes, …")
        self._place(node, ())
        return content

    def _place(self, node: yaml.Node, path: tuple[Any, ...]) -> None:
        """Note where a node and all within it stand, and keys that are given twice."""
        self.places.setdefault(path, f"{self.file}:{node.start_mark.line + 1}")
        if isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                self._place(value, (*path, i))
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            place, inner = f"{self.file}:{key.start_mark.line + 1}", (*path, key.value)
            if inner in self.places:
                self.faults.append(f"{place}: {written(key.value)} is given twice")
            self.places[inner] = place
            self._place(value, inner)

    def validate(
        self, model: type[BaseModel], content: Mapping[str, Any], place: tuple[Any, ...], extra: Sequence[str] = ()
    ) -> BaseModel | None:
        """`content`, which stands at `place`, as a `model`; None if it has faults. extra: keys beside the model's."""
        try:
            return model.model_validate(content, context=self.file.parent)
        except ValidationError as error:
            found = error.errors(include_url=False)
            for fault in found[:FAULTS]:
                self._explain(model, content, place, fault, extra)
            if len(found) > FAULTS:
                self.fault(place, f"{len(found) - FAULTS:,} more faults of this kind")
            return None

    def _explain(
        self, model: type[BaseModel], content: Any, place: tuple[Any, ...], fault: Any, extra: Sequence[str]
    ) -> None:
        """One pydantic fault as one line."""
        real = []  # the location without the tags that pydantic adds for unions
        for i, part in enumerate(fault["loc"]):
            try:
                content = content[part]
            except (LookupError, TypeError):
                if i < len(fault["loc"]) - 1 or fault["type"] not in ("missing", "invalid_key"):
                    continue
            real.append(part)
        where = (*place, *real)
        name = ".".join(written(part) for part in (*place[2:], *real))
        inner = fault.get("ctx", {}).get("error")
        if isinstance(inner, KeyFaults):
            for key, message in inner.faults.items():
                self.fault((*where, key), f"{name}.{written(key)}: {message}")
        elif fault["type"] == "extra_forbidden":
            known = [field for option in _models(model, fault["loc"][:-1]) for field in option.model_fields]
            known += extra if len(fault["loc"]) == 1 else ()
            self.fault(where, f"unknown key {short(name)}{suggest(str(real[-1]), known)}")
        elif fault["type"] == "missing":
            self.fault(where, f"{name} is missing")
        elif fault["type"] == "union_tag_not_found":
            tags = ", ".join(tag for option in _models(model, fault["loc"]) for tag in _tags(option))
            self.fault(where, f"{name}.source is missing; give one of {tags}")
        elif fault["type"] == "union_tag_invalid":
            self.fault((*where, "source"), f"{name}.source: {words(fault)}")
        else:
            self.fault(where, f"{name or 'the recipe'}: {words(fault)}")

    def fault(self, where: tuple[Any, ...], message: str) -> None:
        """Note a fault at the innermost known place of `where`."""
        place = tuple(part if isinstance(part, int) and i else str(part) for i, part in enumerate(where))
        while place not in self.places and place:
            place = place[:-1]
        self.faults.append(f"{self.places.get(place, str(self.file))}: {message}")


def _models(model: type[BaseModel], location: Sequence[Any]) -> list[type[BaseModel]]:
    """What may stand at a pydantic location."""
    found = [model]
    for part in location:
        fields = [option.model_fields[part] for option in found if part in option.model_fields]
        inner = [one for field in fields for one in models(field.annotation)]
        found = inner or [option for option in found if part in _tags(option)] or found
    return found


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    source = model.model_fields.get("source")
    return get_args(source.annotation) if source else ()
