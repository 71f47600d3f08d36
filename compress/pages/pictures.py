"""Images for people, in rows of ten."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from compress.files import write_atomically

COLUMNS = 10


def draw_pairs(source: Path, target: Path) -> None:
    """Teacher's and student's samples from the same noise, one above the other, labelled.

    source: .npz with `teacher` and `student` [n,c,h,w] in [-1, 1] and perhaps `labels` [n].
    """
    with np.load(source, allow_pickle=False) as arrays:
        pairs = {name: arrays[name] for name in ("teacher", "student")}
        titles = [str(label) for label in arrays["labels"]] if "labels" in arrays.files else None
    draw(pairs, target, titles, "same noise, same label: teacher above student")


def draw(sets: Mapping[str, np.ndarray], target: Path, titles: list[str] | None = None, heading: str = "") -> None:
    """Images [n,c,h,w] in [-1, 1], those of the named sets above each other; of latents, the first channel. A PNG."""
    count = min(map(len, sets.values()))
    columns = min(COLUMNS, count)
    rows = len(sets) * -(-count // columns)
    figure = Figure(figsize=(0.9 * columns + 0.8 * bool(heading), 0.95 * rows))
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, (j, (name, images)) in itertools.product(range(count), enumerate(sets.items())):
        axis = axes[len(sets) * (i // columns) + j][i % columns]
        pixels = np.clip((np.nan_to_num(images[i], nan=-1) + 1) / 2, 0, 1)
        shown = pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0]
        axis.imshow(shown, cmap="gray", vmin=0, vmax=1)
        if i % columns == 0:
            axis.text(-0.15, 0.5, name, transform=axis.transAxes, ha="right", va="center", fontsize=9)
        if j == 0 and titles:
            axis.set_title(titles[i], fontsize=8, pad=2)
    figure.suptitle(heading, fontsize=10)
    figure.tight_layout(pad=0.4, rect=(0.02, 0, 1, 0.98) if heading else (0, 0, 1, 1))
    write_atomically(target, lambda part: figure.savefig(part, dpi=120, format="png"))


def picture(image: np.ndarray, target: Path) -> None:
    """One image [c,h,w] in [-1, 1] as it is, pixel by pixel."""
    pixels = np.clip((image + 1) * 127.5, 0, 255).round().astype(np.uint8)
    drawn = Image.fromarray(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0])
    write_atomically(target, lambda part: drawn.save(part, format="PNG"))
