"""Samples as small pictures inside the page."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

LARGEST = 96  # pixels a side; larger images are shrunk, so that the page stays small
PER_CLASS = 4
MOST = 40  # pairs of a model without classes


def pairs(source: Path) -> list[dict[str, object]]:
    """Teacher's and student's samples from the same noise, by class: {label, pairs: [(teacher, student)]} as data URIs.

    source: .npz with `teacher` and `student` [n,c,h,w] in [-1, 1] and perhaps `labels` [n]. Without
    labels there is one group, whose label is None.
    """
    with np.load(source, allow_pickle=False) as arrays:
        given: Mapping[str, np.ndarray] = {name: arrays[name] for name in arrays.files}
    teacher, student, labels = given["teacher"], given["student"], given.get("labels")
    chosen: dict[object, np.ndarray] = {None: np.arange(min(len(student), MOST))}
    if labels is not None:
        chosen = {int(label): np.flatnonzero(labels == label)[:PER_CLASS] for label in np.unique(labels)[:MOST]}
    return [
        {"label": label, "pairs": [(picture(teacher[i]), picture(student[i])) for i in places]}
        for label, places in chosen.items()
    ]


def picture(image: np.ndarray) -> str:
    """One image [c,h,w] in [-1, 1] as the data URI of a PNG, black where it is NaN; of latents, the first channel."""
    pixels = np.rint(255 * np.clip((np.nan_to_num(image, nan=-1) + 1) / 2, 0, 1)).astype(np.uint8)
    shown = Image.fromarray(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0])
    shown.thumbnail((LARGEST, LARGEST))
    stream = io.BytesIO()
    shown.save(stream, format="PNG", optimize=True)
    return data_uri(stream.getvalue())


def data_uri(png: bytes) -> str:
    """A PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
