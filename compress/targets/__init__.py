"""Places beside onnxruntime in which a bundle runs, by the names that `export_onnx: {targets: …}` gives them.

A target is a file here and its line in TARGETS. It has

    prepare(needs)         find out whether a bundle that needs this can run there, and fetch what that takes
    write(bundle, folder)  fill a folder of its own, which holds all that it takes
    judge(bundle, folder)  what was found when it ran there: figures, or why it did not

and each raises TargetError. Imports `judge` and what is below. Start reading with `web.py`.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from compress.files import unwritable
from compress.folders import write_folder
from compress.runtime import Bundle
from compress.targets import web
from compress.targets.needs import Needs

TARGETS = {"web": web}


def prepare(names: Collection[str], needs: Callable[[], Needs]) -> None:
    """See that a bundle can be written for these targets, before it is. Raises TargetError."""
    for target in (target for name, target in TARGETS.items() if name in names):
        target.prepare(needs())


def write(name: str, bundle: Bundle, folder: Path) -> Mapping[str, Any]:
    """Write a bundle for a target, in a folder of ours; what was found there. Raises TargetError, OutputError."""
    target = TARGETS[name]

    def fill(part: Path) -> Mapping[str, Any]:
        target.write(bundle, part)
        return target.judge(bundle, part)

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return write_folder(folder, fill)
    except OSError as error:
        raise unwritable(folder, error) from error
