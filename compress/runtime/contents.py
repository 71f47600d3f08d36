"""What lies beside a `bundle.json`: the files that it vouches for, and the null condition among them."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import BundleError
from compress.files import sha256
from compress.runtime.external import external_files

# What lies in bundles to draw by without this package, tokens.py where they take texts.
SCRIPTS = {"sample.py": "standalone.py", "tokens.py": "standalone_tokens.py"}


def write_scripts(folder: Path, texts: bool) -> None:
    """Lay what draws without this package into a bundle. texts: whether it takes some."""
    for name, source in SCRIPTS.items():
        if texts or name == "sample.py":
            shutil.copyfile(Path(__file__).with_name(source), folder / name)


def find(path: Path) -> Path:
    """The bundle's folder: `path`, or within it where `path` is the result folder of a recipe."""
    return path / "onnx" if os.path.lexists(path / "onnx" / "bundle.json") else path


def verify_files(path: Path, manifest: Mapping[str, Any], check_hashes: bool = True) -> None:
    """See that what a bundle names lies in its folder and is what was exported. Raises BundleError.

    check_hashes: compare every file with its size and SHA-256.
    """
    inside = path.resolve()
    for name, entry in manifest["files"].items():
        file = path / name
        if not file.resolve().is_relative_to(inside):
            raise BundleError(f"{file}: is a link out of the folder; copy the file itself")
        if not file.is_file():
            raise BundleError(f"{file}: is missing; copy the whole bundle folder")
        if check_hashes and (file.stat().st_size != entry["bytes"] or sha256(file) != entry["sha256"].lower()):
            raise BundleError(f"{file}: differs from what was exported (SHA-256); copy or export it again")
    for name in graphs(manifest):
        for other in external_files(path / name):
            if (Path(name).parent / other).as_posix() not in manifest["files"]:
                raise BundleError(
                    f"{path / name}: reads its weights from {other!r}, which is not among `files` in bundle.json; "
                    "export the model again"
                )


def graphs(manifest: Mapping[str, Any]) -> list[str]:
    """Names of all graphs of a bundle: of one evaluation, of the whole sampler, of the parts around them."""
    around = [one["model"] for one in parts_around(manifest).values()]
    return [name for name in (manifest["model"], manifest.get("sampler"), *around) if name]


def parts_around(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a `bundle.json` says of each graph around the net, by the part's name."""
    named = {
        **(manifest.get("text") or {"encoders": {}})["encoders"],
        **{key: manifest.get(key) for key in ("decoder", "encoder")},
    }
    return {name: about for name, about in named.items() if about}


def null_condition(path: Path, value: int | str, shape: Sequence[int]) -> np.ndarray:
    """What guidance puts in place of a condition: a class, or what an .npy file in the folder holds; or BundleError."""
    if isinstance(value, int):
        return np.asarray(value)
    file = path / value
    try:
        found = np.array(np.load(file, mmap_mode="r", allow_pickle=False))  # no longer than the file, so
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{file}: cannot be read as .npy: {error}; copy or export it again") from None
    if found.shape != tuple(shape) or found.dtype.kind != "f" or not np.isfinite(found).all():
        raise BundleError(f"{file}: should hold finite numbers {list(shape)}; got {found.dtype} {list(found.shape)}")
    return found
