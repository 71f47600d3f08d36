"""The pictures that emoji are judged by: the teacher's README says where they are from; they are not in the repository.

A folder with `captions.json` and a sheet of tiles for each style. Some pairs of a concept and a style are held out: no
teacher and no judge was trained on them.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64
BACKGROUND = 0.97  # of red, green and blue, from which a pixel counts as paper
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "grey", "black", "white")
HUES = {15: "red", 42: "orange", 68: "yellow", 165: "green", 255: "blue", 290: "purple", 345: "pink", 361: "red"}


@dataclass(frozen=True)
class Picture:
    """One picture uint8 [64,64,3], what it is asked for by, and its attributes."""

    pixels: np.ndarray
    text: str
    subgroup: str
    attributes: dict[str, str]


def read(folder: Path, held_out: bool) -> list[Picture]:
    """The pictures of the folder, those held out or all others."""
    about = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    found = []
    for style in about["styles"]:
        apart = set(about["held_out"][style])
        sheet = np.asarray(Image.open(folder / about["sheets"][style]).convert("RGB"))
        tiles = sheet.reshape(about["rows"], SIZE, about["columns"], SIZE, 3).swapaxes(1, 2).reshape(-1, SIZE, SIZE, 3)
        for item in about["items"]:
            if (item["index"] in apart) == held_out:
                pixels = tiles[item["index"]]
                named = {"style": style, "group": item["group"], "colour": dominant_colour(pixels)}
                found.append(Picture(pixels, f"{style}, {item['name']}", item["subgroup"], named))
    return found


def dominant_colour(pixels: np.ndarray) -> str:
    """The colour of COLOURS that most of the drawing has, pixels uint8 [h,w,3] on white paper.

    By hue, and where there is none or little light by brightness alone; brown is dark orange or dark red.
    """
    colours = pixels.reshape(-1, 3) / 255
    drawn = colours[(colours < BACKGROUND).any(axis=1)]
    if len(drawn) < 0.02 * len(colours):
        return "white"
    high, low = drawn.max(axis=1), drawn.min(axis=1)
    chroma = high - low
    red, green, blue = drawn.T
    safe = np.maximum(chroma, 1e-9)
    hue = np.select(
        [high == red, high == green], [(green - blue) / safe % 6, (blue - red) / safe + 2], (red - green) / safe + 4
    )
    names = np.array(list(HUES.values()))[np.searchsorted(list(HUES), 60 * hue, side="right")]
    names = np.where(np.isin(names, ("red", "orange")) & (high < 0.65) & (chroma < 0.55), "brown", names)
    plain = np.select([high < 0.3, high < 0.85], ["black", "grey"], "white")
    names = np.where((chroma < 0.12) | (high < 0.22), plain, names)
    kinds, counts = np.unique(names, return_counts=True)
    return str(kinds[counts.argmax()])
