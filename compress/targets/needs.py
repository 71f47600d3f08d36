"""What drawing from a bundle takes, as it is known before and after the bundle is written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compress.measure import counts
from compress.model.denoiser import Denoiser
from compress.pipeline.manifest import input_names
from compress.pipeline.pipeline import Parts
from compress.runtime import Bundle
from compress.runtime.bundle import SCALARS
from compress.runtime.schemes import SCHEMES


@dataclass(frozen=True)
class Needs:
    """conditions: that are neither a class nor made of texts. encoders: inputs of each that reads texts.

    pixels: sizes of what is drawn. bytes: of the weights, about. whole_timesteps: whether the net is told whole
    numbers.
    """

    conditions: Sequence[str]
    encoders: Mapping[str, Sequence[str]]
    pixels: Sequence[int]
    bytes: int
    whole_timesteps: bool

    @classmethod
    def of_model(cls, model: Denoiser, parts: Parts) -> "Needs":
        """Of a model that is to be exported."""
        text, size = parts.text, counts.parameters(model) * SCHEMES[model.scheme].bytes + parts.parameters
        given = _others(input_names(model), model.classes, text.about if text else {})
        encoders = {name: one.inputs for name, one in text.encoders.items()} if text else {}
        whole = model.sampling.dtype == torch.int64
        return cls(given, encoders, parts.picture_shape(model.sample_shape), size, whole)

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> "Needs":
        """Of a bundle that is there."""
        about, text = bundle.manifest, bundle.manifest.get("text") or {}
        pixels = (about.get("decoder") or {"pixels": bundle.sample_shape})["pixels"]
        encoders = {name: one["inputs"] for name, one in text.get("encoders", {}).items()}
        whole = bundle.inputs["timestep"]["dtype"] == "int64"
        return cls(_others(bundle.inputs, about["classes"], text), encoders, pixels, bundle.size_bytes, whole)


def _others(inputs: Iterable[str], classes: int | None, text: Mapping[str, Any]) -> list[str]:
    known = {"sample", "timestep", *SCALARS, *text.get("made", ()), *text.get("told", ())}
    return [name for name in inputs if name not in known and not (name == "class_labels" and classes)]
