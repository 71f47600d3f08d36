"""Where the parts of a model lie: in a folder, or on the hub, of which no more is downloaded than is read."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import list_repo_files, snapshot_download

from compress.errors import CheckpointError
from compress.families import FAMILIES
from compress.families.family import Family
from compress.files import Unreadable, read_json

STOCK_WEIGHTS = "diffusion_pytorch_model"
# Of a net that its config.json does not describe. diffusers would load one without a word and draw at random what it
# does not find; of this name it finds nothing, and says so.
OWN_WEIGHTS = "needs_structure_json.safetensors"
CLASSIFIER = "classifier.pt"
_BESIDE = (
    "structure.json",
    "sampling.json",
    "quantization.safetensors",
    "null_embedding.safetensors",
    CLASSIFIER,
    "scheduler/scheduler_config.json",
    "scheduler_config.json",
)
_FOLDERS = tuple(dict.fromkeys(family.folder for family in FAMILIES.values()))
_ADAPTER = re.compile(r"(pytorch_\w+_weights|adapter_model|.*lora.*)\.(safetensors|bin|pt)", re.IGNORECASE)
_SINGLE = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Source:
    """The parts of a model folder.

    root: the folder; model: where the net's config and weights lie; weights: their files, an index first; files: all
    that is read.
    """

    root: Path
    model: Path
    scheduler: Path | None
    weights: tuple[Path, ...]
    files: tuple[Path, ...]


def locate(reference: str | Path) -> Source:
    """Find the model folder that a path or a hub id ("owner/name") means.

    Raises CheckpointError if it is neither a diffusers pipeline with a net nor a bare model folder.
    """
    root = Path(reference)
    try:
        if not root.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(reference)):
            root = _download(str(reference))
        if root.is_file() and root.suffix in _SINGLE:
            raise CheckpointError(f"{root}: {_single(root.name)}")
        if not root.is_dir():
            raise CheckpointError(
                f"{reference}: no such folder; give a diffusers model folder or a hub id (owner/name)"
            )
        folder, read = _parts(_names(root), str(root))
    except (OSError, ValueError) as error:  # a path may be too long, hold a null character or be unreadable
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CheckpointError(f"{str(reference)[:200]}: cannot be read: {reason.lower()}") from None
    files = tuple(root / name for name in read)
    model = root / folder
    scheduler = next((file for file in files if file.name == "scheduler_config.json"), None)
    return Source(root, model, scheduler, tuple(model / name for name in _weights(folder, read)), files)


def family_of(config: Mapping[str, Any], where: Path) -> Family:
    """The family of a net's config, which lies in the folder `where`. Raises CheckpointError."""
    name = str(config.get("_class_name"))
    family = next((one for one in FAMILIES.values() if name in (one.name, *one.once)), None)
    if family is None:
        raise CheckpointError(f"{where}: architecture {name[:100]} is not supported; supported: {', '.join(FAMILIES)}")
    reason = family.refuse(config)
    if reason:
        raise CheckpointError(f"{where / 'config.json'}: {reason}")
    return family


def json_object(file: Path) -> dict[str, Any]:
    """What a file holds. Raises CheckpointError."""
    try:
        content = read_json(file)
    except Unreadable as error:
        raise CheckpointError(f"{file}: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: should hold a JSON object")
    return content


def _names(root: Path) -> list[str]:
    """Paths of a folder's files within it, as a hub would list them; an empty folder ends in a slash."""
    found = []
    for child in sorted(root.iterdir()):
        if child.name in (*_FOLDERS, "scheduler") and child.is_dir():
            found += [f"{child.name}/", *(f"{child.name}/{inner.name}" for inner in child.iterdir())]
        else:
            found.append(child.name)
    return found


def _parts(names: Collection[str], where: str) -> tuple[str, list[str]]:
    """("unet/", …, or "", the files that are read) of a listing. Raises CheckpointError if that is no model of ours."""
    folder = next((f"{one}/" for one in _FOLDERS if any(name.startswith(f"{one}/") for name in names)), "")
    supported = f"supported models: {', '.join(FAMILIES)}"
    if f"{folder}config.json" not in names:
        inside = ", ".join(dict.fromkeys(name.split("/")[0] for name in sorted(names)[:200]))[:200] or "nothing"
        single = next((name for name in names if "/" not in name and name.endswith(_SINGLE)), None)
        if single is not None:
            reason = f"{single} {_single(single)}"
        else:
            inner = ", ".join(f"{one}/config.json" for one in _FOLDERS)
            reason = f"is no diffusers checkpoint: neither {inner} nor config.json"
        raise CheckpointError(f"{where}: {reason} (found: {inside}); {supported}")
    for name in names:
        place, _, file = name.rpartition("/")
        if place in ("", folder.rstrip("/")) and _ADAPTER.fullmatch(file):
            raise CheckpointError(
                f"{where}: {name} looks like a LoRA or another adapter, which is not applied here; fuse it into the "
                "net first (diffusers: load_lora_weights, fuse_lora, unload_lora_weights, then save_pretrained), or "
                "take it out of the folder to go without"
            )
    own = [f"{folder}config.json", *(folder + name for name in _weights(folder, names))]
    return folder, own + [name for name in _BESIDE if name in names]


def _weights(folder: str, names: Collection[str]) -> list[str]:
    """Names of the weights' files in a net's folder, in one precision: an index and its shards, or one file."""
    inside = {name.removeprefix(folder) for name in names if name.startswith(folder)}
    index = f"{STOCK_WEIGHTS}.safetensors.index.json"
    if index in inside and OWN_WEIGHTS not in inside:
        shard = re.compile(rf"{STOCK_WEIGHTS}-\d+-of-\d+\.safetensors")
        return [index, *sorted(name for name in inside if shard.fullmatch(name))]
    variants = [name for name in inside if re.fullmatch(rf"{STOCK_WEIGHTS}\.[\w-]+\.safetensors", name)]
    variants.sort(key=lambda name: ("ema" in name, name))
    pickles = sorted(n for n in inside if n.endswith((".bin", ".pt", ".pth", ".ckpt")) and n != CLASSIFIER)
    preferred = [OWN_WEIGHTS, f"{STOCK_WEIGHTS}.safetensors", *variants, *pickles]
    return [name for name in preferred if name in inside][:1]


def _single(name: str) -> str:
    kind = "UNet2DConditionModel"
    return (
        f"is a single file, which has no config beside it; convert it first, e.g. with diffusers: "
        f"{kind}.from_single_file({name!r}).save_pretrained(FOLDER), with its scheduler in FOLDER as well"
    )


def _download(name: str) -> Path:
    """The snapshot of a repository on the hub: what is read, and nothing else. Raises CheckpointError."""
    try:
        names = list_repo_files(name)
    except Exception as error:  # the hub client raises many kinds; what was downloaded before serves without it
        try:
            return Path(snapshot_download(name, local_files_only=True))
        except Exception:
            raise CheckpointError(_no_download(name, error)) from None
    folder, wanted = _parts(names, name)
    config = f"{folder}config.json"
    try:
        root = Path(snapshot_download(name, allow_patterns=[config]))
        family_of(json_object(root / config), root / folder)  # before gigabytes of weights that are of no use
        return Path(snapshot_download(name, allow_patterns=wanted))
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(_no_download(name, error)) from None


def _no_download(name: str, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{name}: is no folder here and could not be downloaded: {reason}"
