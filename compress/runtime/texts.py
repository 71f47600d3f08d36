"""From texts to conditions: tokenizers, text encoders, and what becomes of what these find."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import BundleError
from compress.runtime.engine import Feeds, Graph

Arrays = dict[str, np.ndarray]
Run = Callable[[Feeds], Sequence[np.ndarray]]
BATCH = 16  # texts in one call
IDS, MASK = "input_ids", "attention_mask"


@dataclass(frozen=True)
class TextEncoder:
    """about: of `text.encoders` of a bundle.json. run: its outputs [b,…], in order, from int64 [b,tokens]."""

    folder: Path
    about: Mapping[str, Any]
    run: Run

    @cached_property
    def tokenizer(self) -> Any:
        """Of the library tokenizers. Raises BundleError."""
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise BundleError(f"{self.folder}: texts need a tokenizer: pip install tokenizers") from None
        file = self.folder / self.about["tokenizer"]
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exceptions
            raise BundleError(f"{file}: cannot be read: {error}; copy or export it again") from None
        tokens, pad = self.about["tokens"], self.about["pad"]
        tokenizer.enable_truncation(tokens)
        tokenizer.enable_padding(length=tokens, pad_id=pad, pad_token=tokenizer.id_to_token(pad))
        return tokenizer

    def _read(self, texts: Sequence[str]) -> Any:
        lowered = self.about.get("lowered")
        return self.tokenizer.encode_batch([text.lower().strip() if lowered else text for text in texts])

    def cut(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts that are longer than the encoder takes; it sees their beginnings alone."""
        return [text for text, tokens in zip(texts, self._read(texts), strict=True) if tokens.overflowing]

    def tokens(self, texts: Sequence[str]) -> Arrays:
        """Ids and mask of their tokens: int64 [n,tokens]."""
        found = self._read(texts)
        return {
            name: np.array([getattr(one, key) for one in found], np.int64) for name, key in ((IDS, "ids"), (MASK, MASK))
        }

    def encode(self, texts: Sequence[str]) -> Arrays:
        """What it finds in texts, by the names of its outputs, and the mask of their tokens: [n,…]."""
        ids, mask = self.tokens(texts).values()
        parts = []
        for start in range(0, len(ids), BATCH):
            given = {IDS: ids[start : start + BATCH], MASK: mask[start : start + BATCH]}
            parts.append(self.run({name: given[name] for name in self.about["inputs"]}))
        outputs = (np.concatenate(values) for values in zip(*parts, strict=True))
        return {**dict(zip(self.about["outputs"], outputs, strict=True)), MASK: mask.astype(np.float32)}


@dataclass(frozen=True)
class TextEncoders:
    """All of a pipeline. about: `text` of a bundle.json. picture: its height and width."""

    about: Mapping[str, Any]
    encoders: Mapping[str, TextEncoder]
    picture: tuple[int, int]

    def cut(self, texts: Sequence[str]) -> dict[str, int]:
        """The texts that are too long for an encoder → how many tokens of them the most patient one sees."""
        return cut_by({one.about["tokens"]: one.cut(texts) for one in self.encoders.values()})

    def tokens(self, texts: Sequence[str]) -> Arrays:
        """What the graph from token ids to pixels takes of texts [n,…], by its inputs' names."""
        found = {f"{name}.{key}": ids for name, one in self.encoders.items() for key, ids in one.tokens(texts).items()}
        return {name: found[name] for name in token_inputs(self.about)} | told(self.about, len(texts), self.picture)

    def encode(self, texts: Sequence[str]) -> Arrays:
        """Conditions float32 [n,…] by their names; of a long text its beginning."""
        found = {name: encoder.encode(texts) for name, encoder in self.encoders.items()}
        return conditions_of(self.about, found, len(texts), self.picture)


def open_texts(
    path: Path,
    about: Mapping[str, Any],
    opened: Callable[..., Graph],
    run: Callable[..., Sequence[np.ndarray]],
    picture: tuple[int, int],
) -> TextEncoders:
    """The text encoders of the bundle in `path`. about: its `text`. opened, run: as a Bundle opens and runs graphs."""
    encoders = {}
    for name, one in about["encoders"].items():
        ids = {"dtype": "int64", "shape": ["batch", one["tokens"]]}
        found = {output: {"dtype": "float32", "shape": ["batch", *sizes]} for output, sizes in one["outputs"].items()}
        graph = opened(one["model"], dict.fromkeys(one["inputs"], ids), found, one["scheme"])
        encoders[name] = TextEncoder(path, one, partial(run, graph, batch=None))
    return TextEncoders(about, encoders, picture)


def cut_by(cut: Mapping[int, Sequence[str]]) -> dict[str, int]:
    """Texts → tokens that are seen of them, of tokens → the texts that are longer."""
    return {text: max(n for n, others in cut.items() if text in others) for texts in cut.values() for text in texts}


def conditions_of(
    about: Mapping[str, Any],
    found: Mapping[str, Mapping[str, np.ndarray]],
    count: int,
    picture: tuple[int, int],
) -> Arrays:
    """Conditions float32 [count,…] of what encoders found, by encoder and output.

    about: `made`: condition → rows, which follow one another along the tokens: names "encoder.output" whose values are
    joined along the width, or a number of tokens that are zeros; `width`: to which states are filled up with zeros;
    `told`: condition → numbers about the picture.
    """
    made = {}
    for name, rows in about["made"].items():
        parts = []
        for row in rows:
            if isinstance(row, int):
                parts.append(np.zeros((count, row, about["width"]), np.float32))
                continue
            whole = np.concatenate([found[one][output] for one, _, output in (key.partition(".") for key in row)], -1)
            more = max(0, about["width"] - whole.shape[-1]) if whole.ndim == 3 else 0
            parts.append(np.pad(whole, ((0, 0), (0, 0), (0, more))) if more else whole)
        made[name] = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
    return made | told(about, count, picture)


def told(about: Mapping[str, Any], count: int, picture: tuple[int, int]) -> Arrays:
    """Conditions float32 [count,…] that tell of the picture."""
    height, width = picture
    known = {"height": height, "width": width, "aspect": height / width}
    return {
        name: np.tile(np.array([known.get(one, one) for one in numbers], np.float32), (count, 1))
        for name, numbers in about["told"].items()
    }


def token_inputs(about: Mapping[str, Any], batch: int | str = "batch") -> dict[str, dict[str, Any]]:
    """Types and shapes of the token ids, and masks, that the graph from them to pixels takes: "encoder.input"."""
    read = {key for rows in about["made"].values() for row in rows if not isinstance(row, int) for key in row}
    return {
        f"{name}.{key}": {"dtype": "int64", "shape": [batch, one["tokens"]]}
        for name, one in about["encoders"].items()
        for key in (IDS, MASK)
        if key in one["inputs"] or f"{name}.{key}" in read
    }


def found_shapes(about: Mapping[str, Any]) -> dict[str, list[int]]:
    """The shape of one item of all that encoders find: "encoder.output"."""
    return {
        f"{name}.{output}": shape
        for name, one in about["encoders"].items()
        for output, shape in {**one["outputs"], MASK: [one["tokens"]]}.items()
    }


def shapes_of(about: Mapping[str, Any]) -> dict[str, list[int]]:
    """The shape of one item of each condition that `conditions_of` makes. KeyError, ValueError: it makes none."""
    known, found = found_shapes(about), dict[str, list[int]]()
    for condition, rows in about["made"].items():
        shapes = []
        for row in rows:
            if isinstance(row, int):
                shapes.append([row, about["width"]])
                continue
            beside = [known[key] for key in row]
            if any(shape[:-1] != beside[0][:-1] for shape in beside):
                raise ValueError(f"{row} cannot be joined: {beside}")
            width = sum(shape[-1] for shape in beside)
            shapes.append([*beside[0][:-1], max(width, about["width"]) if len(beside[0]) == 2 else width])
        if len(shapes) > 1 and any(len(shape) != 2 or shape[1] != shapes[0][1] for shape in shapes):
            raise ValueError(f"rows of {condition} cannot follow one another: {shapes}")
        found[condition] = [sum(shape[0] for shape in shapes), *shapes[0][1:]]
    return found | {name: [len(numbers)] for name, numbers in about["told"].items()}
