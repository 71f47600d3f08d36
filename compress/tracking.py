"""Where figures and pictures of a training go while it runs: to any tracker that Accelerate knows."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compress.errors import CompressError


def tracker(name: str, folder: Path) -> Callable[[str], Any]:
    """What opens a tracker of Accelerate's for a run of a given name. folder: of those that write files.

    Raises CompressError for a name that Accelerate does not know, or whose package is not installed.
    """
    from accelerate import tracking  # takes seconds to import

    known = sorted(tracking.LOGGER_TYPE_TO_CLASS)
    if name not in known:
        raise CompressError(f"--track {name}: should be one of {', '.join(known)}")
    if name not in map(str, tracking.get_available_trackers()):
        raise CompressError(f"--track {name}: is not installed; pip install {name}")
    return functools.partial(_opened, tracking.LOGGER_TYPE_TO_CLASS[name], folder)


def _opened(kind: Any, folder: Path, run: str) -> Any:
    given = {"logging_dir": folder} if kind.requires_logging_directory else {}
    opened = kind(run, **given)
    opened.start()
    return opened
