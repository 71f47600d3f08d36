"""Images for people, in rows of ten."""

import itertools
import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from compress.files import write_atomically

COLUMNS = 10


def draw_pairs(source: Path, target: Path) -> None:
    """Teacher's and student's samples from the same noise, one above the other, labelled.

    source: .npz with `teacher` and `student` [n,c,h,w] in [-1, 1] and perhaps `labels` or `texts` [n].
    """
    with np.load(source, allow_pickle=False) as arrays:
        pairs = {name: arrays[name] for name in ("teacher", "student")}
        named = next((name for name in ("texts", "labels") if name in arrays.files), None)
        titles = [textwrap.fill(str(title), 16, max_lines=3) for title in arrays[named]] if named else None
    draw(pairs, target, titles, f"same noise, same {'text' if named == 'texts' else 'label'}: teacher above student")


def draw(sets: Mapping[str, np.ndarray], target: Path, titles: list[str] | None = None, heading: str = "") -> None:
    """Images [n,c,h,w] in [-1, 1], those of the named sets above each other; of latents, the first channel. A PNG."""
    count = min(map(len, sets.values()))
    columns = min(COLUMNS, count)
    rows = len(sets) * -(-count // columns)
    more = max((title.count("\n") for title in titles or ()), default=0)  # lines of a title
    height = 0.95 * rows + 0.1 * more * (rows // len(sets))
    figure = Figure(figsize=(0.9 * columns + 0.8 * bool(heading), height))
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
            axis.set_title(titles[i], fontsize=6.5 if more else 8, pad=2)
    figure.suptitle(heading, fontsize=10)
    figure.tight_layout(pad=0.4, rect=(0.02, 0, 1, 0.98) if heading else (0, 0, 1, 1))
    write_atomically(target, lambda part: figure.savefig(part, dpi=120, format="png"))


def picture(image: np.ndarray, target: Path) -> None:
    """One image [c,h,w] in [-1, 1] as it is, pixel by pixel."""
    pixels = np.clip((image + 1) * 127.5, 0, 255).round().astype(np.uint8)
    drawn = Image.fromarray(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0])
    write_atomically(target, lambda part: drawn.save(part, format="PNG"))
