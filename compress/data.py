"""Images and their conditions. A batch is a pure function of (seed, step), so training can be resumed."""

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

from compress.errors import DataError, short, written
from compress.files import Unreadable, check_regular
from compress.randomness import Draw, generator
from compress.settings import Directory, File, Frozen

HELD_OUT = 0.2  # share of the images that no training ever sees
SPLIT_SEED = 0
KEYS = {"encoder_hidden_states": "embeddings", "class_embedding": "class_embeddings"}  # of an .npz, by condition
PIXELS = 2**26  # of one image: what is decoded is held in memory
NUMBERS = 2**30  # of one file of arrays
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class Digits(Frozen):
    """scikit-learn's 1,797 handwritten digits, at 16×16, labels 0…9."""

    source: Literal["digits"]


class Folder(Frozen):
    """A folder of images with one subfolder a class (sorted by name), or flat for an unconditional model."""

    source: Literal["folder"]
    path: Directory
    resize: bool = Field(False, description="scale and centre-crop images that have another size than the model's")


class Npz(Frozen):
    """An .npz file with `images` and, as the model needs, `labels`, `embeddings` (of texts) or `class_embeddings`.

    images: [n,h,w], [n,h,w,c] or [n,c,h,w]; uint8 0…255, or float as the model takes them.
    """

    source: Literal["npz"]
    path: File


class FromTeacher(Frozen):
    """No images of one's own: drawn once from the teacher and cached."""

    source: Literal["teacher"]
    count: int = Field(2000, ge=1)
    embeddings: File | None = Field(None, description=".npz with `embeddings` to draw for; for text-conditional models")


DataConfig = Annotated[Digits | Folder | Npz | FromTeacher, Field(discriminator="source")]


@dataclass(frozen=True)
class Batch:
    """images: float32 [b,c,h,w]. conditions: name → [b,...]."""

    images: torch.Tensor
    conditions: Mapping[str, torch.Tensor]

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.images.to(device), {name: value.to(device) for name, value in self.conditions.items()})


@dataclass(frozen=True)
class Dataset(Batch):
    """All images (pixels in [-1, 1]) and conditions of a source."""

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: torch.Tensor) -> Batch:
        """The items at `index` int64 [b]."""
        return Batch(self.images[index], {name: value[index] for name, value in self.conditions.items()})

    def batch(self, size: int, *key: int | str) -> Batch:
        """`size` items drawn with replacement, determined by `key`: (seed, a Draw, further numbers)."""
        return self.take(torch.randint(len(self), (size,), generator=generator(*key, Draw.ITEMS)))

    def split(self) -> tuple["Dataset", "Dataset"]:
        """(training, held-out) parts, stratified by label where there are labels; always the same."""
        labels = self.conditions.get("class_labels")
        index = np.arange(len(self))
        stratify = None
        if labels is not None and int(torch.bincount(labels).clamp(max=2)[labels.unique()].min()) > 1:
            stratify = labels.numpy()
        classes = 1 if stratify is None else len(np.unique(stratify))
        if len(self) * HELD_OUT < classes or len(self) < 2:
            return self, self  # too few images to hold any back
        parts = train_test_split(index, test_size=HELD_OUT, random_state=SPLIT_SEED, stratify=stratify)
        train, held_out = (self.take(torch.from_numpy(np.sort(part))) for part in parts)
        return Dataset(train.images, train.conditions), Dataset(held_out.images, held_out.conditions)


def load(
    config: Digits | Folder | Npz,
    shape: tuple[int, ...],
    classes: int | None,
    embeddings: Mapping[str, tuple[int, ...]] | None = None,
) -> Dataset:
    """Read a source for a model of this sample shape with `classes` labels (None: takes no label).

    embeddings: the conditions of real numbers that the model takes, with the shape of one; None: whatever there is.

    Raises DataError if something is missing, unreadable, of the wrong shape or out of range.
    """
    if isinstance(config, Digits):
        dataset, where = _digits(), "data: digits"
    elif isinstance(config, Folder):
        if len(shape) != 3:
            raise DataError(
                f"data: {config.path}: holds pictures; samples of the model are {list(shape)}: give an .npz"
            )
        dataset, where = _folder(config, (shape[0], shape[1], shape[2]), classes is not None), f"data: {config.path}"
    else:
        dataset, where = _npz(config), f"data: {config.path}"
    return check(dataset, shape, classes, embeddings, where)


def check(
    dataset: Dataset,
    shape: tuple[int, ...],
    classes: int | None,
    embeddings: Mapping[str, tuple[int, ...]] | None,
    where: str,
) -> Dataset:
    """The part of the data set that a model uses, after checking that it fits. Raises DataError."""
    if tuple(dataset.images.shape[1:]) != shape:
        found = "×".join(map(str, dataset.images.shape[1:]))
        raise DataError(
            f"{where}: images are {found} (channels×height×width); the model takes {'×'.join(map(str, shape))}"
        )
    if not torch.isfinite(dataset.images).all():
        raise DataError(f"{where}: images hold NaN or infinity")
    used = {
        n: v
        for n, v in dataset.conditions.items()
        if n != "class_labels" and n in (KEYS if embeddings is None else embeddings)
    }
    for name, wanted in (embeddings or {}).items():
        if name not in used:
            raise DataError(f"{where}: has no {KEYS[name]}, which the model takes; add them to an .npz")
        one = tuple(used[name].shape[1:])
        if len(one) != len(wanted) or one[-1:] != wanted[-1:]:
            raise DataError(f"{where}: {KEYS[name]} should be {['n', *wanted]}; got {list(used[name].shape)}")
    if classes is None:
        return Dataset(dataset.images, used)
    labels = dataset.conditions.get("class_labels")
    if labels is None:
        raise DataError(f"{where}: has no labels, and the model is class-conditional; add them, or use source: teacher")
    first, last = int(labels.min()), int(labels.max())
    if first < 0 or last >= classes:
        raise DataError(f"{where}: labels run from {first} to {last}; the model has the classes 0…{classes - 1}")
    return Dataset(dataset.images, {"class_labels": labels, **used})


def _digits() -> Dataset:
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    images = functional.interpolate(images, size=16, mode="bicubic", align_corners=False).clamp(0, 1)
    return Dataset(images * 2 - 1, {"class_labels": torch.from_numpy(digits.target).long()})


def _folder(config: Folder, shape: tuple[int, int, int], labelled: bool) -> Dataset:
    if not config.path.is_dir():
        raise DataError(f"{config.path}: no such folder of images")
    folders = sorted(p for p in config.path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if labelled and not folders:
        raise DataError(f"{config.path}: has no subfolders; a class-conditional model needs one subfolder a class")
    files = [(file, label) for label, folder in enumerate(folders) for file in sorted(folder.rglob("*"))]
    files += [(file, 0) for file in sorted(config.path.iterdir()) if not labelled]
    files = [(file, label) for file, label in files if file.suffix.lower() in _SUFFIXES]
    if not files:
        raise DataError(f"{config.path}: holds no images ({', '.join(sorted(_SUFFIXES))})")
    images = np.stack([_image(file, shape, config.resize) for file, _ in files])
    labels = torch.tensor([label for _, label in files])
    return Dataset(torch.from_numpy(images), {"class_labels": labels})


def _image(file: Path, shape: tuple[int, int, int], resize: bool) -> np.ndarray:
    """One image as float32 (c,h,w) in [-1, 1]."""
    channels, height, width = shape
    if channels not in (1, 3):
        raise DataError(f"{file}: the model takes {channels} channels (latents?); give it an .npz of `images` instead")
    try:
        check_regular(file)
        with Image.open(file, formats=_FORMATS) as opened:
            if opened.width * opened.height > PIXELS:
                raise Image.DecompressionBombError
            deep = opened.mode.startswith("I;16")  # convert() would clip 16 bits, not scale them
            image = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8)) if deep else opened
            image = image.convert("L" if channels == 1 else "RGB")
    except Unreadable as error:
        raise DataError(f"{file}: {error}") from None
    except Image.DecompressionBombError:
        raise DataError(f"{file}: holds more than {PIXELS:,} pixels, the most that are read; scale it down") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as an image: {error}") from None
    if image.size != (width, height):
        if not resize:
            raise DataError(
                f"{file}: is {image.height}×{image.width}; the model takes {height}×{width} "
                "(write `resize: true` under `data` to scale and crop)"
            )
        scale = max(width / image.width, height / image.height)
        size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        image = image.resize(size, Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))
    pixels = np.asarray(image, dtype=np.float32) / 127.5 - 1
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file: numbers alone, at most NUMBERS of them. Raises DataError."""
    arrays: dict[str, np.ndarray] = {}
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as opened:
            for member in opened.infolist():
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise Unreadable(f"{short(member.filename)} is compressed in a way that numpy does not write")
                name = member.filename.removesuffix(".npy")
                left = NUMBERS - sum(array.size for array in arrays.values())
                with opened.open(member) as stream:
                    _check_header(stream, left, f"`{written(name)}` ")
                with opened.open(member) as stream:
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:  # zip and format errors of many kinds
        said = str(error) if isinstance(error, Unreadable) else f"cannot be read as .npz arrays: {_reason(error)}"
        raise DataError(f"{path}: {said}") from None
    return arrays


def read_npy(path: Path) -> np.ndarray:
    """The finite numbers of an .npy file as float32, at most NUMBERS of them. Raises DataError."""
    try:
        check_regular(path)
        with path.open("rb") as stream:
            _check_header(stream, NUMBERS)
        return _finite(np.load(path, allow_pickle=False), str(path))
    except (OSError, ValueError, EOFError) as error:
        said = str(error) if isinstance(error, Unreadable) else f"cannot be read as .npy: {_reason(error)}"
        raise DataError(f"{path}: {said}") from None


def _check_header(stream: IO[bytes], most: int, name: str = "") -> None:
    """Raise ValueError unless at most `most` numbers follow."""
    if np.lib.format.read_magic(stream) != (1, 0):  # other versions have headers of gigabytes
        raise Unreadable(f"{name}holds something else than plain numbers")
    shape, _, kind = np.lib.format.read_array_header_1_0(stream)
    if kind.kind not in "biuf":
        raise Unreadable(f"{name}holds {kind}; only plain numbers are read")
    if min(shape, default=0) < 0 or math.prod(shape) > most:
        found = "×".join(map(str, shape[:8]))
        raise Unreadable(f"{name}holds {written(found)} numbers; at most {NUMBERS:,} are read of a file")


def _finite(array: np.ndarray, where: str) -> np.ndarray:
    """The array as float32. Raises DataError if it is not of real, finite numbers."""
    with np.errstate(over="ignore"):
        found = array.astype(np.float32) if array.dtype.kind == "f" else array
    if found.dtype != np.float32 or not np.isfinite(found).all():
        raise DataError(f"{where}: should be finite floats; got {array.dtype}")
    return found


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def read_embeddings(path: Path, condition: str) -> np.ndarray:
    """The embeddings [n,…] float32 that an .npz holds for a condition. Raises DataError."""
    arrays, key = read_npz(path), KEYS[condition]
    if key not in arrays:
        raise DataError(f"{path}: has no `{key}` (found: {short(list(arrays)) if arrays else 'nothing'})")
    if not arrays[key].ndim or not len(arrays[key]):
        raise DataError(f"{path}: `{key}` should be [n, …], for one item at least; got {list(arrays[key].shape)}")
    return _finite(arrays[key], f"{path}: `{key}`")


def _npz(config: Npz) -> Dataset:
    arrays = read_npz(config.path)
    if "images" not in arrays:
        raise DataError(f"{config.path}: has no `images` (found: {', '.join(arrays) or 'nothing'})")
    images = arrays["images"]
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not len(images):
        raise DataError(f"{config.path}: `images` should be [n,h,w], [n,h,w,c] or [n,c,h,w]; got {list(images.shape)}")
    if images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / 127.5 - 1
    elif not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"{config.path}: `images` should be uint8 or float; got {images.dtype}")
    conditions = {}
    for name, key in {"class_labels": "labels", **KEYS}.items():
        if key in arrays:
            count = len(arrays[key]) if arrays[key].ndim else 0
            if count != len(images):
                raise DataError(f"{config.path}: {len(images)} images but {count} {key}")
            if key == "labels" and not (arrays[key].ndim == 1 and np.issubdtype(arrays[key].dtype, np.integer)):
                raise DataError(
                    f"{config.path}: `labels` should be integers [n]; got {arrays[key].dtype} {arrays[key].shape}"
                )
            found = arrays[key].astype(np.int64) if key == "labels" else _finite(arrays[key], f"{config.path}: `{key}`")
            conditions[name] = torch.from_numpy(found)
    return Dataset(torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)), conditions)
