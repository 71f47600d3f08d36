"""What a result depends on, as hashes: settings, the files that are read, the code that is reached, the libraries."""

import ast
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from compress import __version__
from compress.errors import DataError
from compress.files import raising, sha256, walk
from compress.recipe.recipe import Step
from compress.settings import paths

LARGE, LARGE_BYTES = 10_000, 4 * 2**30  # files of a folder, and bytes of them, that are known by names and times

_ROOT = Path(__file__).parents[1]
# that compute, or write what computes
_LIBRARIES = (
    "torch", "diffusers", "transformers", "accelerate", "torch-pruning", "torchao", "onnx", "onnx-ir", "onnxscript",
    "onnxruntime", "safetensors", "torchmetrics", "scikit-learn", "numpy", "pillow",
)  # fmt: skip


def digest(content: Any) -> str:
    """SHA-256 of JSON-able content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def contents(path: Path) -> dict[str, str]:
    """What stands for the files at a path, by name: SHA-256 of each, without READMEs.

    Of more than LARGE files, or more than LARGE_BYTES, one of all names, sizes and times, as reading them would take
    hours. Raises DataError for a folder that cannot be listed.
    """
    names, count, size = hashlib.sha256(), 0, 0
    for file, found in _files(path):
        names.update(f"{file}\0{found.st_size}\0{found.st_mtime_ns}\n".encode("utf-8", "surrogatepass"))
        count, size = count + 1, size + found.st_size
    if count > LARGE or size > LARGE_BYTES:
        return {str(path): names.hexdigest()}
    return {file: sha256(Path(file)) for file, _ in _files(path)}


def _files(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """The path of each file that is no README, and what the system knows of it."""
    if path.is_file():
        yield str(path), path.stat()
    elif path.is_dir():
        with raising(DataError, path):
            for entry in walk(path):
                if entry.is_file() and not entry.name.startswith("README"):
                    yield entry.path, entry.stat()


def step_identity(step: Step, before: str) -> str:
    """Hash of everything that the result of a step depends on. before: that of what the step is given."""
    files = [sorted(path.rglob("*")) if path.is_dir() else [path] for path in paths(step.config)]
    read = [sha256(file) for each in files for file in each if not file.is_dir()]
    return digest([before, step.kind, step.name, step.config.model_dump(mode="json"), read, code_identity(step.kind)])


@cache
def code_identity(kind: str) -> str:
    """Hash of the code that a pass can reach, and of the libraries that compute."""
    return digest([{str(file.relative_to(_ROOT)): sha256(file) for file in sorted(code_of(kind))}, versions()])


def code_of(kind: str) -> set[Path]:
    """Files of this package that a pass can reach by imports; `inputs` reaches what loads and saves models."""
    files: set[Path] = set()
    waiting = [f"compress.passes.{kind}", "compress.recipe.inputs"]
    while waiting:
        package, *parts = waiting.pop().split(".")
        path = _ROOT.joinpath(*parts)
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if package == "compress" and file.is_file() and file not in files:
                files.add(file)
                waiting += _imports(file)
    return files


def _imports(file: Path) -> list[str]:
    """Modules that a file may import, and names in them, wherever they stand in it."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def versions() -> dict[str, str]:
    """Versions of this package and of the libraries that compute."""
    return {"compress": __version__, **{name: importlib.metadata.version(name) for name in _LIBRARIES}}
