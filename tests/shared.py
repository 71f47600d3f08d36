"""Work that many tests ask for is done once, for all of them and for every process of pytest-xdist."""

import copy
import fcntl
import hashlib
import io
import operator
import pickle
from collections.abc import Callable
from pathlib import Path
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
    """Sees type, shape and bytes of a tensor, code and tensors of a traced graph, and of all else what pickle sees.

    weights: whether it looks at the bytes of parameters.
    """

    weights = True

    def persistent_id(self, value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return None
        seen = str(value.dtype), tuple(value.shape), value.requires_grad
        if isinstance(value, nn.Parameter) and not self.weights:
            return seen
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return *seen, hashlib.sha256(data).hexdigest()

    def reducer_override(self, value: object) -> object:
        if not isinstance(value, fx.GraphModule):
            return NotImplemented
        read = [str(node.target) for node in value.graph.nodes if node.op == "get_attr"]
        return list, ([value.code, *((name, operator.attrgetter(name)(value)) for name in read)],)


def fingerprint(*values: object, weights: bool = True) -> str | None:
    """SHA-256 of all that the values consist of; None: of something that pickle cannot write, as a nameless class."""
    written = io.BytesIO()
    pickler = _Pickler(written)
    pickler.weights = weights
    pickler.fast = True  # equal strings count as equal, one object or not
    try:
        pickler.dump(values)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError):
        return None
    return hashlib.sha256(written.getvalue()).hexdigest()


def shared_export(export: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """`torch.onnx.export`, which takes seconds for the smallest net, once for each net, its inputs and settings."""

    def shared(module: nn.Module, inputs: tuple[torch.Tensor, ...], **settings: Any) -> Any:
        key = fingerprint(module, inputs, {name: repr(value) for name, value in settings.items()})
        if key is None:
            return export(module, inputs, **settings)
        file = once(folder, key, lambda path: ir.save(export(module, inputs, **settings).model, path))
        return torch.onnx.ONNXProgram(ir.load(file), None)

    return shared


def shared_trace(export: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.export.export` once for all nets that differ in their weights alone: a trace never looks at them."""
    traced: dict[str, Any] = {}

    def shared(module: nn.Module, inputs: tuple[torch.Tensor, ...], *more: Any, **settings: Any) -> Any:
        own = dict(module.named_parameters())
        key = fingerprint(module, inputs, [*own], repr(more), repr(settings), weights=False)
        if key is None:
            return export(module, inputs, *more, **settings)
        if key not in traced:
            traced[key] = export(module, inputs, *more, **settings)
        program = copy.copy(traced[key])
        program._state_dict = program.state_dict | own
        return program

    return shared
