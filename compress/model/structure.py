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
_PLAIN = (bool, int, float, str, type(None))


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


def apply(net: nn.Module, family: Family, structure: Structure, where: str) -> None:
    """Give `net` (on the meta device) the shapes and attributes of a structure.

    where: the file it came from, for messages. Raises CheckpointError if it does not fit the net.
    """
    for path, edit in structure.get("edits", {}).items():
        try:
            with torch.device("meta"):
                edits.put(net, family, path, edit if isinstance(edit, dict) else {})
        except ValueError as error:
            raise CheckpointError(f"{where}: {path}: {error}; it does not exist in the model of config.json") from None
    if structure.get("edits"):
        family.repair(net)
    modules = dict(net.named_modules())
    for path, changes in structure.get("attributes", {}).items():
        known = _plain(modules[path]) if path in modules else None
        if not isinstance(changes, dict):
            raise CheckpointError(f"{where}: is damaged; save the model again")
        for name, value in changes.items():
            if known is None or name not in known or not _is_plain(value):
                raise CheckpointError(f"{where}: {path}.{name} does not exist in the model that config.json describes")
            setattr(modules[path], name, tuple(value) if isinstance(value, list) else value)
    for name, shape in structure.get("shapes", {}).items():
        path, _, parameter = name.rpartition(".")
        module = modules.get(path)
        old = getattr(module, parameter, None)
        if module is None or not isinstance(old, torch.Tensor) or not _is_shape(shape, old.ndim):
            raise CheckpointError(f"{where}: {name} does not exist in the model that config.json describes")
        setattr(module, parameter, nn.Parameter(torch.empty(shape, dtype=old.dtype, device="meta")))


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
    return isinstance(value, _PLAIN)


def _is_shape(value: Any, dimensions: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == dimensions
        and all(type(size) is int and 0 < size <= edits.LARGEST for size in value)
        and math.prod(value) <= _VALUES
    )


def check(structure: Any, where: str) -> Structure:
    """A structure as read from JSON, its outer form checked. Raises CheckpointError."""
    parts: Mapping[str, Any] = structure if isinstance(structure, dict) else {"": None}
    if any(key not in ("edits", "shapes", "attributes") or not isinstance(value, dict) for key, value in parts.items()):
        raise CheckpointError(f"{where}: is damaged; save the model again")
    return dict(parts)
