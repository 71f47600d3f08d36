"""Pictures in files and bytes: what is read of them, and what is refused."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from compress.data.dataset import fitting
from compress.data.items import Decoded, Items
from compress.errors import DataError
from compress.files import check_regular, raising

PIXELS = 2**26  # of one image: what is decoded is held in memory
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")


def pictures(where: Path, count: int, shape: tuple[int, ...], read: Callable[[int], np.ndarray]) -> Items:
    """Pictures float32 [count, *shape]: decoded once if all can be held in memory, or else when they are asked for.

    read: a picture of its number. Raises DataError if samples of this shape are no pictures.
    """
    check_shape(where, shape)
    found = Decoded((count, *shape), read)
    return found[:] if count <= fitting(shape) else found


def check_shape(where: Path, shape: tuple[int, ...]) -> None:
    """Raises DataError if samples of this shape are no pictures."""
    if len(shape) != 3:
        raise DataError(f"data: {where}: holds pictures; samples of the model are {list(shape)}: give an .npz")


def read_image(file: Path, shape: tuple[int, ...], resize: bool | None = None) -> np.ndarray:
    """One image as float32 (c,h,w) in [-1, 1]. resize: None: nobody may ask for it. Raises DataError."""
    with raising(DataError, file):
        check_regular(file)
    return decode(file, str(file), shape, resize)


def decode(content: Path | bytes, where: str, shape: tuple[int, ...], resize: bool | None) -> np.ndarray:
    """As `read_image`, of what a file holds, or of an ordinary file. where: for messages."""
    if shape[0] not in (1, 3):
        raise DataError(f"{where}: the model takes {shape[0]} channels (latents?); give it an .npz of `images` instead")
    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=_FORMATS) as opened:
            if opened.width * opened.height > PIXELS:
                raise Image.DecompressionBombError
            deep = opened.mode.startswith("I;16")  # convert() would clip 16 bits, not scale them
            image = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8)) if deep else opened
            image = image.convert("L" if channels == 1 else "RGB")
    except Image.DecompressionBombError:
        raise DataError(f"{where}: holds more than {PIXELS:,} pixels, the most that are read; scale it down") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{where}: cannot be read as an image: {error}") from None
    if image.size != (width, height):
        if not resize:
            how = "scale it" if resize is None else "write `resize: true` under `data` to scale and crop"
            raise DataError(f"{where}: is {image.height}×{image.width}; the model takes {height}×{width} ({how})")
        scale = max(width / image.width, height / image.height)
        size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        image = image.resize(size, Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))
    pixels = np.asarray(image, dtype=np.float32) / 127.5 - 1
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
