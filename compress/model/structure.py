"""`structure.json`: what a diffusers `config.json` cannot say about a net.

A structure is the difference between a net and the one that its config builds: edits (modules taken
out or of lower rank), shapes of parameters and plain attributes of modules. It is measured, never kept
by hand, so a pass may change a net as it likes. Applying it to a freshly built net gives the net back,
ready for its weights.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from compress.errors import CheckpointError
from compress.families.family import Family
from compress.model import edits

Structure = dict[str, dict[str, Any]]
_VALUES = 2**35  # of one parameter


def describe(net: nn.Module, stock: nn.Module, family: Family) -> Structure:
    """How `net` differs from `stock`.

    {"edits": {module: edit}, "shapes": {parameter: shape}, "attributes": {module: {name: value}}}, without empty parts.
    """
    edited = edits.found(net)
    if edited:
        stock = copy.deepcopy(stock)
        for path, edit in edited.items():
            edits.put(stock, family, path, edit)
    shapes = {name: list(tensor.shape) for name, tensor in net.state_dict(keep_vars=True).items()}
    for name, tensor in stock.state_dict(keep_vars=True).items():
        if shapes.get(name) == list(tensor.shape):
            del shapes[name]
    attributes = {}
    originals = dict(stock.named_modules())
    for path, module in net.named_modules():
        original = _plain(originals[path])
        changed = {key: value for key, value in _plain(module).items() if original.get(key) != value}
        if changed:
            attributes[path] = changed
    parts: Structure = {"edits": edited, "shapes": shapes, "attributes": attributes}
    return {name: part for name, part in parts.items() if part}


def apply(net: nn.Module, family: Family, structure: Mapping[str, Any], where: str) -> None:
    """Give `net` (on the meta device) the shapes and attributes of a structure as read from JSON.

    where: the file it came from, for messages. Raises CheckpointError if it is none, or does not fit the net.
    """
    parts: dict[str, Any] = {"edits": {}, "attributes": {}, "shapes": {}, **structure}
    whole = len(parts) == 3 and all(isinstance(part, dict) for part in parts.values())
    items = [*parts["edits"].values(), *parts["attributes"].values()] if whole else []
    if not whole or not all(isinstance(item, dict) for item in items):
        raise CheckpointError(f"{where}: is damaged; save the model again")
    for path, edit in parts["edits"].items():
        try:
            with torch.device("meta"):
                edits.put(net, family, path, edit)
        except ValueError as error:
            raise CheckpointError(f"{where}: {path}: {error}; it does not exist in the model of config.json") from None
    if parts["edits"]:
        family.repair(net)
    modules = dict(net.named_modules())
    for path, changes in parts["attributes"].items():
        known = _plain(modules[path]) if path in modules else {}
        for name, value in changes.items():
            if name not in known or not _is_plain(value):
                raise CheckpointError(f"{where}: {path}.{name} does not exist in the model that config.json describes")
            setattr(modules[path], name, tuple(value) if isinstance(value, list) else value)
    for name, shape in parts["shapes"].items():
        path, _, parameter = name.rpartition(".")
        old = getattr(modules.get(path), parameter, None)
        if not isinstance(old, torch.Tensor) or not _is_shape(shape, old.ndim):
            raise CheckpointError(f"{where}: {name} does not exist in the model that config.json describes")
        setattr(modules[path], parameter, nn.Parameter(torch.empty(shape, dtype=old.dtype, device="meta")))


def _plain(module: nn.Module) -> dict[str, Any]:
    """The JSON-able attributes of a module itself; tuples as lists."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in vars(module).items()
        if not key.startswith("_") and key != "training" and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(item, int) for item in value)
    return isinstance(value, bool | int | float | str | None)


def _is_shape(value: Any, dimensions: int) -> bool:
    sizes = isinstance(value, list) and len(value) == dimensions and all(map(edits.is_size, value))
    return sizes and math.prod(value) <= _VALUES
