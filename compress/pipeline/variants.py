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
    stock = [name for name in inside if name.startswith(STOCK_WEIGHTS) and variant_of(name) is not None]
    known = sorted({variant_of(name) or "" for name in stock}, key=lambda one: (one != "", "ema" in one, one))
    for one in [variant] if variant else known:
        own = [name for name in stock if variant_of(name) == one and not is_shard(name)]
        index = [name for name in own if name.endswith(".json")]
        shards = [name for name in stock if is_shard(name)]  # an index without a variant may name those of one
        if own:
            return [*index, *([name for name in shards if variant_of(name) == one] or shards)] if index else own
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
