"""What takes the place of a module that a pass took out of a net or made of lower rank.

An edit is data, {"kind": …, settings}, so that `structure.json` can hold it; `put` makes the module of an edit from the
one it replaces, and `found` reads the edits back off a net.
"""

from collections.abc import Mapping
from itertools import permutations
from typing import Any

from torch import nn

from compress.families.family import Family
from compress.families.replacements import Edit, LowRank, Replacement
from compress.model.scalars import VALUES, ScalarEmbedding

LARGEST = 2**20  # of any width; a product of four still has a size
NAMES = [list(names) for count in range(1, len(VALUES) + 1) for names in permutations(VALUES, count)]  # of scalars


def put(net: nn.Module, family: Family, path: str, edit: Mapping[str, Any]) -> None:
    """Edit `net` in place. Raises ValueError where the edit does not fit what is at `path`."""
    owner, _, name = path.rpartition(".")
    try:
        module = getattr(net.get_submodule(owner), name)
    except AttributeError:
        raise ValueError(f"{path} does not exist") from None
    if not path or not isinstance(module, nn.Module | None):
        raise ValueError("the net itself cannot be replaced" if not path else f"{path} is no module")
    made: nn.Module
    match edit:
        case _ if edit == family.blocks(net).get(path):
            made = family.left[edit["kind"]](module)
        case {"kind": LowRank.kind, "rank": rank, **more} if not more and is_size(rank) and can_be_low_rank(module):
            made = LowRank(module, rank)
        case {"kind": ScalarEmbedding.kind, "names": names, "width": width, **more} if (
            not more and names in NAMES and is_size(width) and path in family.scalars(net)
        ):
            made = ScalarEmbedding(module, names, width)
        case _:
            raise ValueError(f"cannot put {dict(edit)} in place of a {type(module).__name__}")
    setattr(net.get_submodule(owner), name, made)


def is_size(value: Any) -> bool:
    """Whether a value read from a file can be a width."""
    return type(value) is int and 0 < value <= LARGEST


def can_be_low_rank(module: nn.Module | None) -> bool:
    """Whether a layer can be made of low rank, or of still lower rank."""
    return isinstance(module, nn.Linear | LowRank) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def found(net: nn.Module) -> dict[str, Edit]:
    """The edits of a net by path, outer ones before those within them."""
    return {path: module.edit for path, module in net.named_modules() if isinstance(module, Replacement)}
