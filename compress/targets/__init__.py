"""Places beside onnxruntime in which a bundle runs, by the names that `export_onnx: {targets: …}` gives them.

A target is a file here and its line in TARGETS. It has

    prepare(needs)        find out whether a bundle that needs this can run there, and fetch what that takes
    write(made, folder)   fill a folder of its own, which holds all that it takes
    judge(made, folder)   what was found when it ran there: figures, or why it did not
    engine                by which `verify` draws from its folder, a bundle like any other; None: it is not one

and each function raises a CompressError. Imports `judge` and what is below. Start reading with `openvino.py`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from compress.files import unwritable
from compress.folders import write_folder
from compress.runtime import Bundle
from compress.runtime.engine import Engine
from compress.targets import openvino, web
from compress.targets.made import Exported
from compress.targets.needs import Needs
from compress.targets.npu import Npu


class Target(Protocol):
    """As the docstring of this package says."""

    @property
    def engine(self) -> Engine | None: ...
    def prepare(self, needs: Needs) -> None: ...
    def write(self, made: Exported, folder: Path) -> None: ...
    def judge(self, made: Exported, folder: Path) -> Mapping[str, Any]: ...


ITSELF: Literal["onnxruntime"] = "onnxruntime"  # the bundle as it is
NOT_JUDGED = "not judged"
TARGETS: dict[str, Target] = {
    "web": web,
    "openvino": openvino,
    "npu": Npu("w8a16", 21, ("qualcomm", "intel")),
    "npu_int8": Npu("w8a8", 19, ("qualcomm", "rockchip", "intel")),
}


def prepare(names: Collection[str], needs: Callable[[], Needs]) -> None:
    """See that a bundle can be written for these targets, before it is. Raises TargetError."""
    for target in (target for name, target in TARGETS.items() if name in names):
        target.prepare(needs())


def write(name: str, made: Exported, folder: Path) -> Mapping[str, Any]:
    """Write a bundle for a target, in a folder of ours; what was found there. Raises a CompressError."""
    target = TARGETS[name]

    def fill(part: Path) -> Mapping[str, Any]:
        target.write(made, part)
        return target.judge(made, part)

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return write_folder(folder, fill)
    except OSError as error:
        raise unwritable(folder, error) from error


def beside(bundle: Bundle) -> Iterator[tuple[str, Path, Engine]]:
    """(name, folder, engine) of what lies beside a bundle for other engines, and is a bundle itself."""
    for name in bundle.manifest.get("targets") or {}:
        engine = TARGETS[name].engine if name in TARGETS else None
        places = (parent / name for parent in (bundle.path.parent, bundle.path.parent / "files"))
        folder = next((place for place in places if (place / "bundle.json").is_file()), None)
        if engine is not None and folder is not None:
            yield name, folder, engine
