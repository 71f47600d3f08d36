"""Recipes: YAML in, checked `Recipe` out. All faults are found at once, with their lines.

Before any weight is loaded: every pass exists, every key is known, every value is in range, every path leads
somewhere, and every pass can take what the one before it gives.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress import passes
from compress.contract import PassConfig
from compress.errors import RecipeError, short, suggest, written
from compress.files import NESTING, raising, read_text
from compress.model.denoiser import Denoiser, Quantized
from compress.recipe.head import Head
from compress.recipe.yaml_reader import NoYaml, YamlReader, load
from compress.runtime import Bundle

BYTES = 2**16  # of a recipe file
_WORDS: dict[object, str] = {
    Denoiser: "a float model",
    Quantized: "a quantized model",
    Bundle: "an exported bundle",
    type(None): "no model yet",
}


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
    reader = _RecipeReader(file)
    with raising(RecipeError, file):
        text = read_text(file, BYTES)
    return reader.check(reader.parse(text), overrides, checkpoint)


@dataclass
class _Item:
    """One pass as it is written. place: keys that lead to its settings."""

    name: Any
    kind: str
    settings: Any
    place: tuple[Any, ...]


class _RecipeReader(YamlReader):
    """Reads the parts of a recipe. items: its passes; None: what is no pass."""

    items: Sequence[_Item | None] = ()

    def check(self, raw: dict[str, Any], overrides: Sequence[str], checkpoint: str | None) -> Recipe:
        of_passes = [text for text in overrides if text.lstrip().startswith("passes.")]
        for text in overrides:
            if text not in of_passes:
                self._override(raw, text)
        items = raw.pop("passes", None)
        if not isinstance(items, list) or not items:
            self.fault(("passes",), "should be a list of passes, e.g. `- prune_channels: {target: {macs: 0.5}}`")
            items = []
        self.items = [self._item(i, item) for i, item in enumerate(items)]
        for text in of_passes:
            self._override(raw, text)
        if checkpoint is not None:
            here = Path(checkpoint).absolute()
            raw["checkpoint"] = str(here) if os.path.lexists(here) else checkpoint
        head = self.validate(Head, raw, (), extra=("passes",))
        steps = self._steps(has_checkpoint=raw.get("checkpoint") is not None)
        if isinstance(head, Head):
            self._by_classifier(head, steps)
        if self.faults:
            raise RecipeError(self.faults)
        assert isinstance(head, Head)
        return Recipe(head, steps, self.file)

    def _item(self, i: int, item: Any) -> _Item | None:
        item = {item: {}} if isinstance(item, str) else item
        kinds = [key for key in item if key != "as"] if isinstance(item, dict) else []
        if len(kinds) != 1 or not isinstance(kinds[0], str):
            self.fault(("passes", i), "should be one pass: `- name: {settings}`")
            return None
        (kind,) = kinds
        settings = {} if item[kind] is None else item[kind]
        name = item.get("as", kind)
        if isinstance(settings, dict) and "as" in settings:
            if "as" in item:
                self.fault(("passes", i, "as"), f"as is given twice, within {kind} and beside it; leave one out")
            name = settings.pop("as")
        return _Item(name, kind, settings, ("passes", i, kind))

    def _override(self, raw: dict[str, Any], text: str) -> None:
        key, equals, value = text.partition("=")
        keys = key.strip().split(".")
        shown, option = f"--set {written(text)}", f"--set {written(key)}"
        if not equals or not all(keys):
            self.faults.append(f"{shown}: should be key=value, e.g. passes.distill.steps=50")
            return
        target: Any = raw
        place: tuple[Any, ...] = ()
        if keys[0] == "passes" and len(keys) > 1:
            items = {item.name: item for item in self.items if item and isinstance(item.name, str)}
            if keys[1] not in items:
                self.faults.append(f"{shown}: no pass is called {written(keys[1])}{suggest(keys[1], [*items])}")
                return
            item, keys = items[keys[1]], keys[2:]
            target, place = item.settings, item.place
        if not 0 < len(keys) < NESTING or not isinstance(target, dict):
            self.faults.append(f"{shown}: names no setting")
            return
        for name in keys[:-1]:
            place = (*place, name)
            if not isinstance(target.get(name), dict):
                target[name] = {}
                self.places[place] = option
            target = target[name]
        try:
            target[keys[-1]] = load(value)[0]
        except NoYaml as error:
            self.faults.append(f"{shown}: the value is not YAML that is read here: {error}")
        self.places[(*place, keys[-1])] = option

    def _steps(self, has_checkpoint: bool) -> list[Step]:
        steps: list[Step] = []
        chain: list[_Item] = []
        for item in filter(None, self.items):
            kind, name, place = item.kind, item.name, item.place
            if kind not in passes.names():
                self.fault(place, f"unknown pass {short(kind)}{suggest(kind, passes.names())}")
                continue
            if not isinstance(item.settings, dict):
                self.fault(place, f"{kind}: the settings should be a mapping; got {short(item.settings)}")
                continue
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w-]{,99}", name):
                self.fault(place, f"as: {short(name)} should be a plain name")
            elif name in (other.name for other in chain):
                self.fault(place, f"a second pass called {name}; tell them apart with `as: another-name`")
            chain.append(item)
            config = self.validate(passes.module(kind).Config, item.settings, place, extra=("as",))
            if isinstance(config, PassConfig):
                steps.append(Step(str(name), kind, config))
        if len(chain) == len(self.items):  # with an unknown pass nobody knows what the next one is given
            self._chain(chain, has_checkpoint)
        return steps

    def _chain(self, chain: Sequence[_Item], has_checkpoint: bool) -> None:
        current: object = Denoiser if has_checkpoint else type(None)
        before = "the checkpoint" if has_checkpoint else "a recipe without checkpoint"
        for item in chain:
            accepted = passes.accepts(item.kind)
            accepted = {Denoiser, Quantized} if passes.on_decoder(item.kind) else accepted
            if current not in accepted:
                wanted = " or ".join(sorted(_WORDS[one] for one in accepted - {type(None)}))
                self.fault(item.place, f"{item.name} needs {wanted}, and after {before} there is {_WORDS[current]}")
            if not passes.on_decoder(item.kind):
                current, before = passes.returns(item.kind), item.name

    def _by_classifier(self, head: Head, steps: Sequence[Step]) -> None:
        """A classifier guides a trained model, and a bundle only when its guidance has been distilled."""
        if head.guidance is None or head.guidance.classifier is None:
            return
        place = ("guidance", "classifier")
        if head.checkpoint is None:
            self.fault(place, "guidance.classifier: guides a trained model; give its checkpoint")
        for step in steps:
            if step.kind == "distill_guidance" or getattr(step.config, "bake_guidance", False):
                return
            if step.kind == "export_onnx":
                remedy = "put `distill_guidance`, or `distill_steps: {bake_guidance: true}`, before export_onnx"
                self.fault(place, f"guidance.classifier: a bundle cannot follow a classifier's gradient; {remedy}")
                return
