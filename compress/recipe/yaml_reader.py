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

VALUES = 5_000  # of a document once its aliases are written out
DIGITS = 15  # of an integer; longer ones fit into no 64 bits, or hardly
FAULTS = 100  # of one mapping that are told one by one


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader for documents of bounded size and depth, in which nothing holds itself."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.level = 0
        self.sizes: dict[int, tuple[int, int]] = {}  # node → number and depth of its values, aliases written out

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        alias = self.check_event(yaml.AliasEvent)
        if self.level == NESTING:
            raise ComposerError(None, None, f"is nested more than {NESTING} deep", mark)
        self.level += 1
        node = super().compose_node(parent, index)
        self.level -= 1
        if not alias:
            inner = [self.sizes[id(child)] for child in _children(node)]
            self.sizes[id(node)] = (1 + sum(count for count, _ in inner), 1 + max((d for _, d in inner), default=0))
        elif id(node) not in self.sizes:
            raise ComposerError(None, None, "holds itself", mark)
        count, depth = self.sizes[id(node)]
        if depth > NESTING:
            raise ComposerError(None, None, f"is nested more than {NESTING} deep", mark)
        if max(count, len(self.sizes)) > VALUES:
            raise ComposerError(None, None, f"holds more than {VALUES:,} values, aliases written out", mark)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        kind = node.tag.rpartition(":")[2]
        if kind == "int" and len(node.value) > DIGITS:
            raise ConstructorError(None, None, f"an integer of more than {DIGITS} digits", node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):  # as for the date 2024-13-45
            raise ConstructorError(None, None, f"{short(node.value)} is no {kind}", node.start_mark) from None


# PyYAML takes 1e-3 for text, YAML 1.2 for a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$", re.ASCII), list("-+.0123456789")
)


def _children(node: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _problem(error: Exception, text: str) -> tuple[str, str]:
    """(":line" or nothing, what is wrong) of an error of the loader."""
    mark = getattr(error, "problem_mark", None)
    line = mark.line if mark else text.count("\n", 0, getattr(error, "position", 0))
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return f":{line + 1}" if mark or hasattr(error, "position") else "", problem.splitlines()[0]


def parse_value(text: str) -> Any:
    """The value that a line of YAML holds. Raises ValueError."""
    try:
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter two by escapes beyond Unicode
        raise ValueError(_problem(error, text)[1]) from None


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
            loader = _Loader(text)
            node = loader.get_single_node()
            if node is not None:
                self._map(node, ())  # before construction, which merges `<<` into its mapping
            content = None if node is None else loader.construct_document(node)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            line, problem = _problem(error, text)
            raise RecipeError([f"{self.file}{line}: is not YAML that is read here: {problem}"]) from None
        if not isinstance(content, dict):
            raise RecipeError([f"{self.file}: should be a mapping with the keys name, checkpoint, data, passes, …"])
        own: dict[str, Any] = _unshared(content)
        return own

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
                    self.faults.append(f"{self.file}:{key.start_mark.line + 1}: {written(key.value)} is given twice")
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
            last = i == len(fault["loc"]) - 1
            inside = isinstance(content, dict) and part in content
            inside |= isinstance(content, list) and isinstance(part, int) and part < len(content)
            if inside:
                content = content[part]
            elif not last or fault["type"] not in ("missing", "invalid_key"):
                continue
            real.append(part)
        where = (*place, *real)
        name = ".".join(written(part) for part in (*place[2:], *real))
        inner = fault.get("ctx", {}).get("error")
        if isinstance(inner, KeyFaults):
            for key, message in inner.faults.items():
                self.fault((*where, key), f"{name}.{written(key)}: {message}")
            return
        if fault["type"] == "extra_forbidden":
            known = list(_fields(model, fault["loc"][:-1])) + (list(extra) if len(fault["loc"]) == 1 else [])
            message = f"unknown key {short(name)}{suggest(str(real[-1]), known)}"
        elif fault["type"] == "missing":
            message = f"{name} is missing"
        elif fault["type"] == "union_tag_not_found":
            message = f"{name}.source is missing; give digits, folder, npz or teacher"
        elif fault["type"] == "union_tag_invalid":
            where = (*where, "source")
            message = f"{name}.source: {words(fault)}"
        else:
            message = f"{name or 'the recipe'}: {words(fault)}"
        self.fault(where, message)

    def fault(self, where: tuple[Any, ...], message: str) -> None:
        """Note a fault at the innermost known place of `where`."""
        place = tuple(part if isinstance(part, int) and i else str(part) for i, part in enumerate(where))
        while place not in self.places and place:
            place = place[:-1]
        self.faults.append(f"{self.places.get(place, str(self.file))}: {message}")


def _unshared(value: Any) -> Any:
    """A value without parts that stand in two places, so that an override changes one of them."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def _fields(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Names of the fields of the model found at a pydantic location."""
    for part in location:
        options = [model, *models(model.model_fields[part].annotation)] if part in model.model_fields else [model]
        tagged = [option for option in options if part in _tags(option)]
        model = tagged[0] if tagged else options[-1]
        if len(options) > 2 and not tagged:
            return sorted({name for option in options[1:] for name in option.model_fields})
    return list(model.model_fields)


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    source = model.model_fields.get("source")
    return get_args(source.annotation) if source else ()
