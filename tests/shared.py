"""Work that many tests ask for is done once, for all of them and for every process of pytest-xdist."""

import fcntl
import hashlib
import io
import operator
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import torch
from torch import fx, nn


def once(folder: Path, key: str, make: Callable[[Path], None]) -> Path:
    """The file `key` of `folder`: whoever asks first makes it, by `make(path)`; who asks meanwhile waits."""
    file, part = folder / key, folder / f"{key}.part"
    with (folder / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            make(part)
            part.replace(file)
    return file


class _Pickler(pickle.Pickler):
    """Sees of a tensor its type, shape and bytes, of a traced graph its code and tensors, of all else what pickle sees."""

    def persistent_id(self, value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return None
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return str(value.dtype), tuple(value.shape), hashlib.sha256(data).hexdigest()

    def reducer_override(self, value: object) -> object:
        if not isinstance(value, fx.GraphModule):
            return NotImplemented
        read = [str(node.target) for node in value.graph.nodes if node.op == "get_attr"]
        return list, ([value.code, *((name, operator.attrgetter(name)(value)) for name in read)],)


def fingerprint(*values: object) -> str:
    """SHA-256 of all that the values consist of. Raises what pickle raises if that cannot be written down."""
    written = io.BytesIO()
    pickler = _Pickler(written)
    pickler.fast = True  # equal strings count as equal, one object or not
    pickler.dump(values)
    return hashlib.sha256(written.getvalue()).hexdigest()


def shared_export(export: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """`torch.onnx.export`, which takes seconds for the smallest net, once for each net, its inputs and settings."""

    def shared(module: nn.Module, inputs: tuple[torch.Tensor, ...], **settings: Any) -> Any:
        try:
            key = fingerprint(module, inputs, {name: repr(value) for name, value in settings.items()})
        except (pickle.PicklingError, AttributeError):  # of a class or function that has no name
            return export(module, inputs, **settings)
        file = once(folder, key, lambda path: ir.save(export(module, inputs, **settings).model, path))
        return SimpleNamespace(model=ir.load(file))

    return shared
