"""Pictures for people."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from compress.files import write_atomically

COLUMNS = 10


def draw_pairs(source: Path, target: Path) -> None:
    """Teacher's and student's samples from the same noise, one above the other, labelled.

    source: .npz with `teacher` and `student` [n,c,h,w] in [-1, 1] and perhaps `labels` [n].
    """
    with np.load(source, allow_pickle=False) as arrays:
        pairs = {name: arrays[name] for name in ("teacher", "student")}
        labels = arrays["labels"] if "labels" in arrays.files else None
    count = len(pairs["student"])
    columns = min(COLUMNS, count)
    rows = 2 * -(-count // columns)
    figure = Figure(figsize=(0.9 * columns + 0.8, 0.95 * rows))
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i in range(count):
        for j, (name, images) in enumerate(pairs.items()):
            axis = axes[2 * (i // columns) + j][i % columns]
            show(axis, images[i])
            if i % columns == 0:
                axis.text(-0.15, 0.5, name, transform=axis.transAxes, ha="right", va="center", fontsize=9)
            if j == 0 and labels is not None:
                axis.set_title(str(labels[i]), fontsize=8, pad=2)
    figure.suptitle("same noise, same label: teacher above student", fontsize=10)
    figure.tight_layout(pad=0.4, rect=(0.02, 0, 1, 0.98))
    save(figure, target)


def grid(images: np.ndarray, target: Path, titles: list[str] | None = None) -> None:
    """Images [n,c,h,w] in [-1, 1] in rows of ten."""
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(0.9 * columns, 0.95 * rows))
    axes = figure.subplots(rows, columns, squeeze=False)
    for i, axis in enumerate(axes.flat):
        axis.axis("off")
        if i < len(images):
            show(axis, images[i])
            if titles:
                axis.set_title(titles[i], fontsize=8, pad=2)
    figure.tight_layout(pad=0.3)
    save(figure, target)


def show(axis: Axes, image: np.ndarray) -> None:
    """One image [c,h,w]; of latents, the first channel."""
    pixels = np.clip((image + 1) / 2, 0, 1)
    axis.imshow(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0], cmap="gray", vmin=0, vmax=1)


def save(figure: Figure, target: Path) -> None:
    """Write a PNG atomically."""
    FigureCanvasAgg(figure)  # needs no screen
    write_atomically(target, lambda part: figure.savefig(part, dpi=120, format="png"))
