"""How files of weights are named: in one file, in shards or as an index of these, each perhaps of a variant."""

import re
from collections.abc import Collection, Sequence

STOCK_WEIGHTS = "diffusion_pytorch_model"
# Of a net that its config.json does not describe. diffusers would load one without a word and draw at random what it
# does not find; of this name it finds nothing, and says so.
OWN_WEIGHTS = "needs_structure_json.safetensors"
CLASSIFIER = "classifier.pt"
_OTHER_WEIGHTS = (".bin", ".ckpt", ".pt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".xml")
_WEIGHTS = re.compile(  # as diffusers and transformers write them, today and once
    r"(?P<stem>\w+)(\.(?P<one>\w+))?(?P<shard>-\d+-of-\d+)?(\.(?P<two>\w+))?\.safetensors"
    r"(\.index(\.(?P<three>\w+))?\.json)?"
)


def weights_of(folder: str, names: Collection[str], variant: str) -> list[str]:
    """Names of the weights' files in a net's folder, of one variant: an index and its shards, or one file."""
    inside = sorted(name.removeprefix(folder) for name in names if name.startswith(folder))
    if OWN_WEIGHTS in inside and not variant:
        return [OWN_WEIGHTS]
    found: dict[str, list[str]] = {}
    for name in inside:
        one = variant_of(name)
        if one is not None and name.startswith(STOCK_WEIGHTS):
            found.setdefault(one, []).append(name)
    for one in [variant] if variant else sorted(found, key=lambda one: (one != "", "ema" in one, one)):
        index = [name for name in found.get(one, ()) if name.endswith(".json")]
        shards = [name for name in found.get(one, ()) if is_shard(name)]
        whole = [name for name in found.get(one, ()) if name not in (*index, *shards)]
        if index or whole:
            return [*index, *shards] if index else whole
    pickles = [name for name in inside if name.endswith((".bin", ".pt", ".pth", ".ckpt")) and name != CLASSIFIER]
    return [] if variant else [name for name in (f"{STOCK_WEIGHTS}.bin", *pickles) if name in pickles][:1]


def variant_of(name: str) -> str | None:
    """The variant of a file of weights in safetensors, "" for the plain one; None: it is no such file."""
    found = _WEIGHTS.fullmatch(name)
    return found and (found["one"] or found["two"] or found["three"] or "")


def is_shard(name: str) -> bool:
    """Whether a file holds some of the weights, and an index names it."""
    found = _WEIGHTS.fullmatch(name)
    return found is not None and found["shard"] is not None


def plain_name(name: str) -> str:
    """The name, within its folder, that a file of weights has where there are no variants. Shards keep theirs."""
    one = variant_of(name)
    return name.replace(f".{one}", "", 1) if one and not is_shard(name) else name


def best(names: Sequence[str], variant: str) -> list[str]:
    """A part's files: of its weights one variant, and those in safetensors alone, where there are such.

    The plain one, where there is none of the name that is asked for.
    """
    variants = {name: one for name in names if (one := variant_of(name.rpartition("/")[2])) is not None}
    if not variants:
        return list(names)
    chosen = min(variants.values(), key=lambda one: (one != variant, one != "", "ema" in one, one))
    return [n for n in names if variants.get(n, chosen) == chosen and not n.endswith(_OTHER_WEIGHTS)]
