"""Data: pictures and arrays that are damaged, enormous, of the wrong kind, or of another model."""

import io
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.hostile import good
from benchmarks.hostile.case import Case, Lay, after, pipe

BOTH = (("plan", "recipe.yaml"), ("apply", "recipe.yaml", "--output", "out"))
TAYLOR = {"prune_channels": {"target": {"channels": 0.8}, "batches": 1}}  # which looks at images
PIXELS = 12_000


def of(name: str, data: Mapping[str, Any], change: Lay, **expected: Any) -> Case:
    """A recipe that prunes by these data, which `change` lays out."""
    recipe = {"data": dict(data), "passes": [TAYLOR]}

    def lay(folder: Path) -> None:
        good.checkpoint(folder / "model")
        good.write_recipe(folder, good.recipe(**recipe))
        change(folder)

    return Case(name, lay, BOTH, **expected)


def of_arrays(name: str, changes: Mapping[str, Any], **expected: Any) -> Case:
    """An .npz with other arrays; None: one left out."""

    def change(folder: Path) -> None:
        arrays = {key: value for key, value in {**good.arrays(), **changes}.items() if value is not None}
        np.savez(folder / "data.npz", **arrays)

    return of(f"npz: {name}", {"source": "npz", "path": "data.npz"}, change, **expected)


def of_npz(name: str, write: Callable[[Path], object], **expected: Any) -> Case:
    """Another file in place of an .npz."""
    return of(
        f"npz: {name}", {"source": "npz", "path": "data.npz"}, lambda folder: write(folder / "data.npz"), **expected
    )


def of_picture(name: str, write: Callable[[Path], object], resize: bool = True, **expected: Any) -> Case:
    """One picture of a folder is another file."""

    def change(folder: Path) -> None:
        good.images(folder / "images")
        (folder / "images" / "a" / "1.png").unlink()
        write(folder / "images" / "a" / "1.png")

    data = {"source": "folder", "path": "images", **({"resize": True} if resize else {})}
    return of(f"picture: {name}", data, change, **{"mentions": ("1.png",), **expected})


def of_folder(name: str, write: Callable[[Path], object], **expected: Any) -> Case:
    """Another folder of pictures."""
    return of(f"pictures: {name}", {"source": "folder", "path": "images"}, lambda f: write(f / "images"), **expected)


def zipped(**members: bytes) -> bytes:
    """An archive of these, compressed."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return made.getvalue()


def npy(shape: tuple[int, ...], data: bytes = b"", kind: str = "'<f4'") -> bytes:
    """An array's file with a header that may lie."""
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header = header.ljust(-(len(header) + 11) % 64 + len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def picture(width: int, height: int) -> bytes:
    """A black PNG of one bit a pixel, however large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, size_bytes = zlib.compressobj(1), min(height * (1 + -(-width // 8)), 2**25)  # the rest is missing
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(-(-size_bytes // 2**20))) + packer.flush()
    size = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def png(mode: str = "L", size: tuple[int, int] = (8, 8)) -> bytes:
    """A picture of this mode."""
    made = io.BytesIO()
    Image.new(mode, size).save(made, "PNG")
    return made.getvalue()


def _bomb(path: Path) -> None:
    """Eight gigabytes of zeros in eight megabytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as stream:
            stream.write(npy((2**25, 8, 8)))
            for _ in range(16):
                stream.write(bytes(2**25))
        archive.writestr("labels.npy", npy((2**25,), kind="'<i8'"))


def _nested(folder: Path) -> None:
    good.images(folder)
    (folder / "a" / "deeper").symlink_to("..")


def _with_teacher(embeddings: Callable[[Path], object], **expected: Any) -> Case:
    """A text-conditional teacher that draws for the embeddings in texts.npz."""

    def lay(folder: Path) -> None:
        good.checkpoint(folder / "model", good.TEXT, tensors=good.weights("text"))
        data = {"source": "teacher", "count": 4, "embeddings": "texts.npz"}
        good.write_recipe(folder, good.recipe(data=data, passes=[TAYLOR], sampling={"steps": 1}))
        embeddings(folder / "texts.npz")

    return Case("embeddings", lay, BOTH, **expected)


def _null(write: Callable[[Path], object], **expected: Any) -> Case:
    """A text-conditional net with a null embedding."""

    def lay(folder: Path) -> None:
        good.checkpoint(folder / "model", good.TEXT, tensors=good.weights("text"))
        good.write_recipe(folder, good.recipe(guidance={"scale": 2, "null_embedding": "null.npy"}))
        write(folder / "null.npy")

    return Case("null embedding", lay, BOTH, **expected)


def _save(array: Any) -> Callable[[Path], object]:
    return lambda path: np.save(path, array, allow_pickle=True)


def _savez(**arrays: Any) -> Callable[[Path], object]:
    return lambda path: np.savez(path, **arrays)


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


IMAGES, LABELS = good.arrays()["images"], good.arrays()["labels"]
TEXTS = np.zeros((4, 77, 12), np.float32)


def _holed(value: float) -> np.ndarray:
    found = IMAGES.copy()
    found[3, 2, 1] = value
    return found


NAMED: dict[str, Case] = {
    "a PNG of 12,000 × 12,000": of_picture("12,000 × 12,000", lambda path: path.write_bytes(picture(PIXELS, PIXELS))),
    "a PNG of 12,000 × 12,000, not resized": of_picture(
        "12,000 × 12,000", lambda path: path.write_bytes(picture(PIXELS, PIXELS)), resize=False
    ),
    "a PNG of 12,000 × 1": of_picture("12,000 × 1", lambda path: path.write_bytes(picture(PIXELS, 1)), valid=None),
    "a PNG of a million × a million": of_picture("10⁶ × 10⁶", lambda path: path.write_bytes(picture(10**6, 10**6))),
    "a PNG of 2³¹ × 1": of_picture("2³¹ × 1", lambda path: path.write_bytes(picture(2**31 - 1, 1))),
    "a PNG of another size": of_picture("16 × 8", _bytes(png(size=(16, 8))), resize=False, mentions=("resize",)),
    "a truncated PNG": of_picture("truncated", _bytes(png(size=(64, 64))[:60])),
    "an empty PNG": of_picture("empty", _bytes(b"")),
    "a PNG of text": of_picture("text", _bytes(b"hello")),
    "an EPS as PNG": of_picture("EPS", _bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")),
    "a picture that is a named pipe": of_picture("pipe", pipe),
    "a picture that is a folder": of_picture("folder", Path.mkdir, valid=None),
    "a picture that is a dead link": of_picture("dead link", lambda path: path.symlink_to("nowhere"), valid=None),
    "a folder without pictures": of_folder("none", Path.mkdir),
    "a folder without classes": of_folder("flat", after(Path.mkdir, lambda path: (path / "a.png").write_bytes(png()))),
    "a folder that is a file": of_folder("file", lambda path: path.write_bytes(png())),
    "a folder that is a named pipe": of_folder("pipe", pipe),
    "a folder of 12 classes": of_folder("classes", lambda path: good.images(path, labels="abcdefghijkl")),
    "npz: an object": of_arrays("an object", {"images": np.array([{}], dtype=object)}),
    "npz: labels as objects": of_arrays("objects", {"labels": np.array([None] * 20, dtype=object)}),
    "npz: words": of_arrays("words", {"images": np.array(["x"] * 20)}),
    "npz: labels as words": of_arrays("words", {"labels": np.array(["x"] * 20)}),
    "npz: labels as floats": of_arrays("floats", {"labels": LABELS.astype(float)}),
    "npz: labels as booleans": of_arrays("booleans", {"labels": LABELS > 3}),
    "npz: labels below 0": of_arrays("below 0", {"labels": LABELS - 1}),
    "npz: labels out of range": of_arrays("out of range", {"labels": LABELS + 2}),
    "npz: labels beyond int64": of_arrays("beyond", {"labels": np.full(20, 2**64 - 1, np.uint64)}),
    "npz: labels of another length": of_arrays("length", {"labels": LABELS[:-1]}),
    "npz: labels of another rank": of_arrays("rank", {"labels": LABELS[:, None]}),
    "npz: one label": of_arrays("scalar", {"labels": np.array(3)}),
    "npz: no labels": of_arrays("none", {"labels": None}),
    "npz: no images": of_arrays("none", {"images": None}),
    "npz: images misspelt": of_arrays("misspelt", {"images": None, "image": IMAGES}),
    "npz: NaN": of_arrays("NaN", {"images": _holed(np.nan)}),
    "npz: infinity": of_arrays("infinity", {"images": _holed(np.inf)}),
    "npz: infinite in float32": of_arrays("float64", {"images": _holed(0).astype(float) + 1e300}),
    "npz: integers": of_arrays("integers", {"images": (IMAGES * 100).astype(np.int32)}),
    "npz: complex numbers": of_arrays("complex", {"images": IMAGES.astype(complex)}),
    "npz: booleans": of_arrays("booleans", {"images": IMAGES > 0}),
    "npz: dates": of_arrays("dates", {"images": np.zeros((20, 8, 8), "datetime64[s]")}),
    "npz: structures": of_arrays("structures", {"images": np.zeros((20, 8, 8), [("a", "f4")])}),
    "npz: of another size": of_arrays("size", {"images": np.zeros((20, 16, 16), np.float32)}),
    "npz: of three channels": of_arrays("channels", {"images": np.zeros((20, 3, 8, 8), np.float32)}),
    "npz: of another rank": of_arrays("rank", {"images": IMAGES[0]}),
    "npz: none": of_arrays("empty", {"images": IMAGES[:0], "labels": LABELS[:0]}),
    "npz: sizes of 0": of_arrays("empty", {"images": IMAGES[:, :0]}),
    "npz: far out of [-1, 1]": of_arrays("far out", {"images": IMAGES * 1e30}, valid=None),
    "npz: a bomb": of_npz("bomb", _bomb),
    "npz: a huge shape": of_npz("huge shape", _bytes(zipped(images=npy((10**12, 8, 8)), labels=npy((20,))))),
    "npz: a negative shape": of_npz("negative", _bytes(zipped(images=npy((-20, 8, 8)), labels=npy((20,))))),
    "npz: too few bytes": of_npz("too few", _bytes(zipped(images=npy((20, 8, 8), b"\0" * 100)))),
    "npz: a pickle in a member": of_npz("pickle", _bytes(zipped(images=b"\x80\x04K\x05."))),
    "npz: a type of lies": of_npz("type", _bytes(zipped(images=npy((20, 8, 8), kind="'|O'")))),
    "npz: nested header": of_npz("header", _bytes(zipped(images=npy((20,), kind="[" * 5000 + "]" * 5000)))),
    "npz: empty": of_npz("empty", _bytes(b"")),
    "npz: text": of_npz("text", _bytes(b"hello")),
    "npz: truncated": of_npz("truncated", after(good.write_arrays, lambda path: os.truncate(path, 500))),
    "npz: an .npy": of_npz("an .npy", _bytes(npy((20, 8, 8), bytes(20 * 8 * 8 * 4)))),
    "npz: a folder": of_npz("folder", Path.mkdir),
    "npz: a named pipe": of_npz("pipe", pipe),
    "npz: missing": of_npz("missing", lambda path: None),
    "digits for a model of 8 × 8": of("digits", {"source": "digits"}, lambda folder: None),
    "embeddings of another width": _with_teacher(_savez(embeddings=TEXTS[..., :5])),
    "embeddings of another rank": _with_teacher(_savez(embeddings=TEXTS[0])),
    "embeddings, none": _with_teacher(_savez(embeddings=TEXTS[:0])),
    "embeddings with NaN": _with_teacher(_savez(embeddings=TEXTS * np.nan)),
    "embeddings as words": _with_teacher(_savez(embeddings=np.array(["x"] * 4))),
    "embeddings as objects": _with_teacher(_savez(embeddings=np.array([{}] * 4))),
    "embeddings, misnamed": _with_teacher(_savez(embedding=TEXTS)),
    "embeddings, one pipe": _with_teacher(pipe),
    "embeddings beyond float32": _with_teacher(_savez(embeddings=TEXTS.astype(float) + 1e300)),
    "null embedding of another width": _null(_save(TEXTS[0, :, :5])),
    "null embedding of another rank": _null(_save(np.float32(5))),
    "null embedding with NaN": _null(_save(TEXTS[0] * np.nan)),
    "null embedding of objects": _null(_save(np.array([{}]))),
    "null embedding of words": _null(_save(np.array(["x"]))),
    "null embedding of complex numbers": _null(_save(TEXTS[0].astype(complex))),
    "null embedding of a huge shape": _null(_bytes(npy((10**12, 12)))),
    "null embedding, empty": _null(_bytes(b"")),
    "null embedding, a pipe": _null(pipe),
    "null embedding, an .npz": _null(lambda path: path.write_bytes(zipped(a=npy((5, 12), bytes(240))))),
    # what is right
    "good arrays": of_arrays("good", {}, valid=True),
    "good bytes": of_arrays("good", {"images": np.zeros((20, 8, 8), np.uint8)}, valid=True),
    "good doubles": of_arrays("good", {"images": IMAGES.astype(float)[:, None]}, valid=True),
    "good pictures": of_folder("good", good.images, valid=True),
    "good pictures, resized": of(
        "good",
        {"source": "folder", "path": "images", "resize": True},
        lambda f: good.images(f / "images", (20, 12)),
        valid=True,
    ),
    "good embeddings": _with_teacher(_savez(embeddings=TEXTS), valid=True),
    "good null embedding": _null(_save(TEXTS[0]), valid=True),
}


def draw(choose: random.Random) -> Case:
    """Arrays of another kind or shape, files with bytes that fell over, pictures of any mode and size, or good ones."""
    return choose.choice((_array, _array, _turned, _mode, _good, _named))(choose)


def _named(choose: random.Random) -> Case:
    return NAMED[choose.choice(sorted(set(NAMED) - {"npz: a bomb"}))]


def _good(choose: random.Random) -> Case:
    count = choose.randrange(1, 60)
    random = np.random.default_rng(choose.randrange(1000))
    images: np.ndarray = random.uniform(-1, 1, (count, 8, 8))
    kinds: tuple[np.ndarray, ...] = (
        images.astype(np.float32),
        images.astype(np.float16),
        (255 * abs(images)).astype(np.uint8),
        images[..., None],
    )
    labels = random.integers(11, size=count).astype(choose.choice((np.int64, np.uint8, np.int16)))
    return of_arrays(f"{count} good", {"images": choose.choice(kinds), "labels": labels}, valid=True)


def _array(choose: random.Random) -> Case:
    name = choose.choice(("images", "labels"))
    right = good.arrays()[name]
    wrong: dict[str, Any] = {
        "longer": np.concatenate([right, right]),
        "shorter": right[: choose.randrange(19)],
        "of another rank": right[..., None, None, None],
        "complex": right.astype(complex),
        "booleans": right > 0,
        "words": right.astype(str),
        "objects": right.astype(object),
        "of dates": right.astype(np.int64).astype("datetime64[s]"),
        "of structures": np.zeros(right.shape, [("a", "i4"), ("b", "f4")]),
        "empty": right[:0],
        "a scalar": right.flat[0],
        "swapped": good.arrays()["labels" if name == "images" else "images"],
    }
    what = choose.choice(sorted(wrong))
    return of_arrays(f"{name} {what}", {name: wrong[what]})


def _turned(choose: random.Random) -> Case:
    """Any file with a byte turned or its end cut off: it is refused, or still means something."""
    cut, places, byte = choose.random() < 0.5, [choose.random() for _ in range(3)], choose.randrange(1, 256)

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        if cut:
            del content[int(places[0] * len(content)) :]
        for place in () if cut else places:
            content[int(place * len(content))] ^= byte
        path.write_bytes(content)

    name = f"{'cut' if cut else 'turned'} at {places[0]:.3f}"
    if choose.random() < 0.5:
        return of_picture(name, after(_bytes(png()), damage), valid=None)
    return of_npz(name, after(good.write_arrays, damage), valid=None)


def _mode(choose: random.Random) -> Case:
    """A picture of any mode and size is made to fit."""
    mode = choose.choice(("1", "L", "LA", "P", "RGB", "RGBA", "I;16"))
    size = (choose.choice((1, 2, 8, 100, 1000)), choose.choice((1, 2, 8, 100, 1000)))
    return of_picture(f"{mode} of {size[0]} × {size[1]}", _bytes(png(mode, size)), valid=True)
