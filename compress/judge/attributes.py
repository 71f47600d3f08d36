"""What a picture shows (its style, its kind, its colour), named by a classifier that the user brings.

It should have been trained on real pictures and have seen no model's. Where the prompts say what was asked for, a
picture is named rightly or not; a teacher's picture of the same noise and prompt tells how often that can be had.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from pydantic import Field, ValidationError

from compress.data import read_asked
from compress.errors import VerifyError, suggest
from compress.judge.features import BATCH, explained
from compress.judge.metrics import named_alike, named_as_asked
from compress.report.text_to_image import Attribute
from compress.runtime import Bundle
from compress.runtime.engines import ONNXRUNTIME
from compress.settings import Frozen, Listed, plain

KEY = "attributes"  # of the metadata of a file


class Known(Frozen):
    """What a file says of an attribute: its classes, and the share of `count` real pictures that were not trained on
    and are named rightly."""

    classes: Listed[str] = Field(min_length=2)
    accuracy: float = Field(ge=0, le=1)
    count: int = Field(ge=1)


@dataclass(frozen=True)
class AttributeClassifier:
    """name: pictures float32 [b,c,h,w] → what they are taken for, int64 [b], by attribute.

    asked: of attributes that the prompts speak of, which class each text asks for.
    """

    known: Mapping[str, Known]
    name: Callable[[np.ndarray], dict[str, np.ndarray]]
    asked: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def compare(
        self, student: np.ndarray, twin: np.ndarray, texts: Sequence[str], paired: bool
    ) -> dict[str, Attribute]:
        """Of every attribute: are the student's pictures [n,c,h,w] named as its texts ask, and, if `paired`, as the
        twin's are?"""
        sides, found = [self._named(images) for images in (student, twin)], {}
        for attribute, known in self.known.items():
            own, metrics = [side[attribute] for side in sides], {}
            if attribute in self.asked:
                wanted = np.array([self.asked[attribute][text] for text in texts])
                metrics["attribute_accuracy"] = named_as_asked(own, wanted)
            if paired:
                metrics["attribute_agreement"] = named_alike(own)
            found[attribute] = Attribute(
                classes=len(known.classes), accuracy=known.accuracy, count=known.count, metrics=metrics
            )
        return found

    def _named(self, images: np.ndarray) -> dict[str, np.ndarray]:
        parts = [self.name(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        return {attribute: np.concatenate([part[attribute] for part in parts]) for attribute in self.known}


def named(path: Path | None, shape: Sequence[int], least: float, prompts: Path | None) -> AttributeClassifier | None:
    """The classifier of a recipe, if it names one, for pictures of `shape` (c,h,w). Raises VerifyError or DataError."""
    if path is None:
        return None
    return load(path, shape, least, read_asked(prompts) if prompts else ())


def picture_shape(bundle: Bundle) -> tuple[int, ...]:
    """(c,h,w) of what is seen of a sample."""
    decoder = bundle.manifest.get("decoder")
    return tuple(decoder["pixels"]) if decoder else bundle.sample_shape


def load(
    path: Path, shape: Sequence[int], least: float, prompts: Sequence[Mapping[str, str]] = ()
) -> AttributeClassifier:
    """A classifier from an ONNX file, for pictures of `shape` (c,h,w). Raises VerifyError.

    The file takes float32 [n,c,h,w] in [-1, 1], n being free, and has an output of logits [n,classes] for each
    attribute, by its name. Its metadata say under KEY, as JSON, what it knows of itself: attribute → `Known`. least:
    accuracy of each attribute without which it is not believed. prompts: texts with the attributes that they ask for.
    """
    if path.suffix.lower() != ".onnx":
        raise VerifyError(f"{path}: a classifier of attributes is an ONNX file (.onnx)")
    with explained(f"{path}: cannot be read as a classifier of attributes"):
        kept = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
        graph = ONNXRUNTIME.open(path)
    known = _known(path, kept.get(KEY))
    for attribute, about in known.items():
        if about.accuracy < least:
            raise VerifyError(
                f"{path}: names {attribute} rightly for {about.accuracy:.1%} of held-out pictures; judge_accuracy is "
                f"{least:g}: lower it to {int(100 * about.accuracy) / 100:g}, or take another classifier"
            )
    (pixels, *others), outputs = graph.inputs, list(graph.outputs)
    if others or not set(known) <= set(outputs):
        found = f"inputs {', '.join(graph.inputs)} and outputs {', '.join(outputs)}"
        raise VerifyError(f"{path}: should have one input, and outputs {', '.join(known)}; got {found}")

    def name(images: np.ndarray) -> dict[str, np.ndarray]:
        with explained(f"{path}: fails on pictures {list(images.shape)}"):
            logits = dict(zip(outputs, graph.run({pixels: np.ascontiguousarray(images, np.float32)}), strict=True))
        for attribute, about in known.items():
            wanted, found = [len(images), len(about.classes)], list(np.shape(logits[attribute]))
            if found != wanted:
                raise VerifyError(f"{path}: {len(images)} pictures should give {attribute} {wanted}; got {found}")
        return {attribute: np.asarray(logits[attribute]).argmax(axis=1) for attribute in known}

    name(np.zeros((2, *shape), np.float32))  # what is wrong shows now rather than after an hour of drawing samples
    return AttributeClassifier(known, name, _asked(path, known, prompts))


def _known(path: Path, said: str | None) -> dict[str, Known]:
    """What a file says of itself."""
    example = '{"style": {"classes": ["flat", "3d"], "accuracy": 0.98, "count": 500}}'
    if said is None:
        raise VerifyError(f"{path}: has no {KEY!r} among its metadata; write JSON there like {example}")
    try:
        content = json.loads(said)
        found = {attribute: Known.model_validate(about) for attribute, about in content.items()}
    except ValidationError as error:
        raise VerifyError(f"{path}: metadata {KEY!r}: {plain(error)}; should be like {example}") from None
    except (ValueError, AttributeError, RecursionError):
        found = {}
    if not found:
        raise VerifyError(f"{path}: metadata {KEY!r} should be JSON like {example}")
    return found


def _asked(path: Path, known: Mapping[str, Known], prompts: Sequence[Mapping[str, str]]) -> dict[str, dict[str, int]]:
    """attribute → text → the class that is asked for; of attributes that no prompt speaks of there is none."""
    found: dict[str, dict[str, int]] = {}
    spoken = {attribute for row in prompts for attribute in row} - {"text"}
    if spoken and not spoken & set(known):
        raise VerifyError(f"prompts: ask for {', '.join(sorted(spoken))}; {path} names {', '.join(known)} alone")
    for attribute in (name for name in known if name in spoken):
        classes = known[attribute].classes
        for row in prompts:
            value = row.get(attribute)
            if value not in classes:
                said = f"asks for no {attribute}" if value is None else f"asks for {attribute} {value!r}"
                hint = "" if value is None else suggest(value, classes)
                raise VerifyError(f"prompts: {row['text']!r} {said}, of which {path} names the classes{hint}")
            if found.setdefault(attribute, {}).setdefault(row["text"], classes.index(value)) != classes.index(value):
                raise VerifyError(f"prompts: {row['text']!r} stands twice, with another {attribute}")
    return found
