"""Where the parts of a model lie: in a folder, or on the hub, of which no more is downloaded than is read."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import list_repo_files, snapshot_download
from torch import nn

from compress.errors import CheckpointError
from compress.families import FAMILIES
from compress.families.family import Family
from compress.files import raising, read_json
from compress.model import trial
from compress.pipeline.variants import CLASSIFIER, best, variant_of, weights_of

INDEX = "model_index.json"  # of a whole pipeline
_BESIDE = (
    "structure.json",
    "sampling.json",
    "quantization.safetensors",
    "null_embedding.safetensors",
    CLASSIFIER,
    "scheduler/scheduler_config.json",
    "scheduler_config.json",
)
NETS = tuple(dict.fromkeys(family.folder for family in FAMILIES.values()))
_ADAPTER = re.compile(r"(pytorch_\w+_weights|adapter_model|.*lora.*)\.(safetensors|bin|pt)", re.IGNORECASE)
_SINGLE = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Source:
    """Where the files of a model folder lie.

    root: the folder; model: where the net's config and weights lie; weights: their files, an index first; files: all
    that is read.
    """

    root: Path
    model: Path
    scheduler: Path | None
    weights: tuple[Path, ...]
    files: tuple[Path, ...]


def locate(reference: str | Path, whole: bool = False, subfolder: str = "", variant: str = "") -> Source:
    """Find the model folder that a path or a hub id ("owner/name") means. whole: download the rest of its pipeline too.

    subfolder: of the net, where it is not its family's; variant: of the weights, as in `model.fp16.safetensors`.
    Raises CheckpointError if it is neither a diffusers pipeline with a net nor a bare model folder.
    """
    root = Path(reference)
    try:
        if not root.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(reference)):
            root = _download(str(reference), whole, subfolder, variant)
        if root.is_file() and root.suffix in _SINGLE:
            raise CheckpointError(f"{root}: {_single(root.name)}")
        if not root.is_dir():
            reason = "no such folder; give a diffusers model folder or a hub id (owner/name)"
            raise CheckpointError(f"{reference}: {reason}")
        folder, read = _choose(_names(root, subfolder), str(root), subfolder, variant)
    except (OSError, ValueError) as error:  # a path may be too long, hold a null character or be unreadable
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CheckpointError(f"{str(reference)[:200]}: cannot be read: {reason.lower()}") from None
    files = tuple(root / name for name in read)
    model = root / folder
    scheduler = next((file for file in files if file.name == "scheduler_config.json"), None)
    return Source(root, model, scheduler, tuple(model / name for name in weights_of(folder, read, variant)), files)


def _names(root: Path, subfolder: str) -> list[str]:
    """Paths of a folder's files within it, as a hub would list them; an empty folder ends in a slash."""
    found = []
    for child in sorted(root.iterdir()):
        if child.name in (*NETS, subfolder, "scheduler") and child.is_dir():
            found += [f"{child.name}/", *(f"{child.name}/{inner.name}" for inner in child.iterdir())]
        else:
            found.append(child.name)
    return found


def _choose(names: Collection[str], where: str, subfolder: str, variant: str) -> tuple[str, list[str]]:
    """("unet/", …, or "", the files that are read) of a listing. Raises CheckpointError if that is no model of ours."""
    nets = (subfolder,) if subfolder else NETS
    folder = next((f"{one}/" for one in nets if any(name.startswith(f"{one}/") for name in names)), "")
    if subfolder and not folder:
        raise CheckpointError(f"{where}: has no folder {subfolder} (subfolder)")
    supported = f"supported models: {', '.join(FAMILIES)}"
    if f"{folder}config.json" not in names:
        inside = ", ".join(dict.fromkeys(name.split("/")[0] for name in sorted(names)[:200]))[:200] or "nothing"
        single = next((name for name in names if "/" not in name and name.endswith(_SINGLE)), None)
        if single is not None:
            reason = f"{single} {_single(single)}"
        else:
            inner = ", ".join(f"{one}/config.json" for one in NETS)
            reason = f"is no diffusers checkpoint: neither {inner} nor config.json"
        raise CheckpointError(f"{where}: {reason} (found: {inside}); {supported}")
    for name in names:
        place, _, file = name.rpartition("/")
        if place in ("", folder.rstrip("/")) and _ADAPTER.fullmatch(file):
            raise CheckpointError(
                f"{where}: {name} looks like a LoRA or another adapter, which is not applied by itself; take it out of "
                "the folder, and name it under `lora` in the recipe if it is to be fused into the net"
            )
    found = weights_of(folder, names, variant)
    if variant and not found:
        known = {variant_of(name.removeprefix(folder)) for name in names if name.startswith(folder)} - {None, ""}
        there = ", ".join(sorted(map(str, known))) or "none"
        raise CheckpointError(f"{where}: {folder}: no weights of the variant {variant!r}; there are: {there}")
    own = [f"{folder}config.json", *(folder + name for name in found)]
    return folder, own + [name for name in _BESIDE if name in names]


def _single(name: str) -> str:
    if Path(name).suffix != ".safetensors":
        return "is a single file and a pickle, which can run code when it is opened; convert it to safetensors first"
    return (
        "is a single file, which has no config beside it; name it as `checkpoint` of a recipe, and as its `config` the "
        "folder of a pipeline of the same architecture, whose configs and tokenizer it shall have"
    )


def family_of(config: Mapping[str, Any]) -> Family | None:
    """The family of a net with this config, by its class; None: it is of none."""
    named = [one for one in FAMILIES.values() if config.get("_class_name") in (one.name, *one.once)]
    return next((one for one in named if one.refuse(config) is None), named[0] if named else None)


def build(config: Mapping[str, Any], where: str) -> tuple[Family, nn.Module]:
    """The net on the meta device that a config in the folder `where` describes. Raises CheckpointError."""
    name, family = str(config.get("_class_name")), family_of(config)
    if family is None:
        raise CheckpointError(f"{where}: architecture {name[:100]} is not supported; supported: {', '.join(FAMILIES)}")
    try:
        net = trial.build(family, config)
        trial.check_samples(family, net)
    except ValueError as error:
        raise CheckpointError(f"{where}/config.json: {error}") from None
    return family, net


def read_object(file: Path) -> dict[str, Any]:
    """What a JSON file of a model folder holds. Raises CheckpointError."""
    with raising(CheckpointError, file):
        content = read_json(file)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: should hold a JSON object")
    return content


def parts_of(index: Mapping[str, Any], net: str) -> dict[str, str]:
    """Folders beside those of net and scheduler, by a pipeline's model_index.json → the class of what each holds."""
    named = {name: value[1] for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    return {
        name: str(kind)
        for name, kind in named.items()
        if kind and name.isidentifier() and name not in (net, "scheduler")
    }


def _download(name: str, whole: bool, subfolder: str, variant: str) -> Path:
    """The snapshot of a repository on the hub: what is read, and nothing else. Raises CheckpointError."""
    try:
        names = list_repo_files(name)
    except Exception as error:  # the hub client raises many kinds; what was downloaded before serves without it
        try:
            return Path(snapshot_download(name, local_files_only=True))
        except Exception:
            raise CheckpointError(_no_download(name, error)) from None
    folder, wanted = _choose(names, name, subfolder, variant)
    root = _snapshot(name, [f"{folder}config.json", *([INDEX] if whole and INDEX in names else [])])
    build(read_object(root / folder / "config.json"), f"{name}/{folder}".rstrip("/"))  # before its weights
    if whole and INDEX in names:
        for part in parts_of(read_object(root / INDEX), folder.rstrip("/")):
            wanted += best([one for one in names if one.startswith(f"{part}/") and part not in NETS], variant)
        wanted.append(INDEX)
    return _snapshot(name, wanted)


def _snapshot(name: str, wanted: Sequence[str]) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:
        raise CheckpointError(_no_download(name, error)) from None


def _no_download(name: str, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{name}: is no folder here and could not be downloaded: {reason}"
