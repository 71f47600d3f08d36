"""What a recipe says of its checkpoint, and the one folder with all that is read of it.

Where files do not lie as they ought to (one file for all, weights of a variant, the net in another subfolder), or LoRAs
are to be fused, that folder is made once in the cache, of links where nothing changes.
"""

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator, model_validator

from compress.errors import CheckpointError
from compress.files import cache_folder, link, sha256, unwritable
from compress.folders import write_folder
from compress.pipeline import single_file, weights
from compress.pipeline.lora import Change, Lora, placed
from compress.pipeline.lora import read as read_lora
from compress.pipeline.source import INDEX, NETS, Source, build, locate, parts_of, read_object
from compress.pipeline.variants import OWN_WEIGHTS, STOCK_WEIGHTS, best, plain_name, variant_of
from compress.settings import Directory, Frozen, Listed, absolute


class Reference(Frozen):
    """Where a model lies, and what of it is read."""

    checkpoint: str | None = Field(
        None, description="diffusers folder or .safetensors file, relative to the recipe, or hub id (owner/name)"
    )
    config: Directory | None = Field(
        None, description="of a single file: folder of a pipeline, or of a net, whose configs and tokenizer it has"
    )
    subfolder: str = Field("", pattern=r"^[\w-]*$", description="of the net, as unet_ema; default: its own")
    variant: str = Field("", pattern=r"^\w*$", description="of weights, as fp16 of model.fp16.safetensors")
    lora: Listed[Lora] = Field((), description="fused into the weights before all else")
    pipeline: bool | None = Field(
        None, description="keep text encoders, VAE …; default: where there is a model_index.json"
    )

    @field_validator("checkpoint")
    @classmethod
    def _folder_file_or_hub_id(cls, name: str | None, info: ValidationInfo) -> str | None:
        try:
            return name if name is None else str(absolute(Path(name), info))
        except ValueError:
            if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name or ""):
                return name
            raise

    @model_validator(mode="after")
    def _of_a_checkpoint(self) -> "Reference":
        named = [name for name in ("config", "subfolder", "variant", "lora") if getattr(self, name)]
        if named and self.checkpoint is None:
            raise ValueError(f"{', '.join(named)}: of a checkpoint, and there is none")
        return self


# File that a part's weights are written to → its tensors, and what every LoRA changes of them.
_Fusion = dict[str, tuple[dict[str, weights.Tensor], list[dict[str, Change]]]]


def folder_of(asked: Reference, allow_pickle: bool, log: Callable[[str], None]) -> Path:
    """The folder with all that is read of a checkpoint, by the names that its parts have in any pipeline.

    allow_pickle: whether LoRAs may be fused into pickled weights. Raises CheckpointError, before weights are read where
    headers tell.
    """
    whole = asked.pipeline is not False
    file = Path(str(asked.checkpoint))
    if file.suffix == ".safetensors" and _is_file(file):
        source = locate(_converted(file, asked.config or file.parent, whole, log))
    elif asked.config is not None:
        raise CheckpointError(f"{asked.checkpoint}: is no single .safetensors file, and `config` is of such alone")
    else:
        source = locate(str(asked.checkpoint), whole, asked.subfolder, asked.variant)
    files = _files(source, whole, asked.variant)
    if not asked.lora and all(source.root / name == file for name, file in files.items()):
        return source.root
    about = [{name: sha256(file) for name, file in files.items()}, [[sha256(a.path), a.scale] for a in asked.lora]]
    fusion = _fusion(asked.lora, source, files, allow_pickle, log) if asked.lora else {}

    def write(folder: Path) -> None:
        for name, file in files.items():
            link(file, folder / name)
        for name, (tensors, changes) in fusion.items():
            for layer, change in (item for one in changes for item in one.items()):
                tensors[layer] = change.added(tensors[layer])
            (folder / name).parent.mkdir(exist_ok=True)
            weights.save(tensors, folder / name)

    return _kept(about, write)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no path that could exist
        return False


def _converted(file: Path, config: Path, whole: bool, log: Callable[[str], None]) -> Path:
    texts = [one for one in (*config.glob("*"), *config.glob("*/*")) if one.suffix in (".json", ".txt")]
    configs = {str(one.relative_to(config)): sha256(one) for one in sorted(texts)}

    def write(folder: Path) -> None:
        log(f"{file}: taken apart, once, with the configs in {config}")
        single_file.convert(file, config, whole, folder)

    return _kept([sha256(file), configs, whole], write)


def _files(source: Source, whole: bool, variant: str) -> dict[str, Path]:
    """Path within a model folder as it ought to be → where that file lies."""
    root, net = source.root, source.model.relative_to(source.root).as_posix()
    if net not in (".", *NETS):
        net = build(read_object(source.model / "config.json"), str(source.model))[0].folder
    found = {}
    for file in source.files:
        place = net if file.parent == source.model else file.parent.relative_to(root).as_posix()
        found[(Path(place) / plain_name(file.name)).as_posix()] = file
    if not whole or not (root / INDEX).is_file():
        return found
    found[INDEX] = root / INDEX
    for part in parts_of(read_object(root / INDEX), net):
        names = [one.relative_to(root).as_posix() for one in sorted((root / part).rglob("*")) if one.is_file()]
        for name in best(names, variant) if part not in NETS else ():
            found[Path(name).with_name(plain_name(Path(name).name)).as_posix()] = root / name
    return found


def _fusion(
    loras: Sequence[Lora], source: Source, files: dict[str, Path], allow_pickle: bool, log: Callable[[str], None]
) -> _Fusion:
    """What is to be written anew, whose files are taken out of `files`. Raises CheckpointError."""
    family, net = build(read_object(source.model / "config.json"), str(source.model))
    given = {part: _weights(files, part) for part in {name.partition("/")[0] for name in files}}
    given = {part: own for part, own in given.items() if own} | {family.folder: list(source.weights)}
    folders = {part: own[0].parent if own else source.model for part, own in given.items()}
    opened = cache(lambda part: weights.open_files(given[part], folders[part], allow_pickle))
    found: dict[str, list[dict[str, Change]]] = {}
    for one in loras:
        changes = read_lora(one, family, net)
        left = sorted(changes.keys() - given.keys())
        if len(left) == len(changes):
            raise CheckpointError(f"{one.path}: fits nothing of this model, which has no {' or '.join(left)}")
        for part in changes.keys() - left:
            found.setdefault(part, []).append(placed(one, part, changes[part], opened(part)))
        told = [f"{len(layers)} layers of {part}" for part, layers in changes.items() if part not in left]
        told += [f"none of {part}, which the checkpoint has not" for part in left]
        log(f"{one.path}: fused at {one.scale:g}: {', '.join(told)}")
    for name in [name for name, file in files.items() if any(file in given[part] for part in found)]:
        del files[name]
    return {_target(part, source, part == family.folder): (opened(part), changes) for part, changes in found.items()}


def _target(part: str, source: Source, net: bool) -> str:
    """The file that a part's fused weights are written to."""
    if not net:
        return f"{part}/model.safetensors"
    name = OWN_WEIGHTS if source.weights[0].name == OWN_WEIGHTS else f"{STOCK_WEIGHTS}.safetensors"
    return name if source.model == source.root else f"{part}/{name}"


def _weights(files: Mapping[str, Path], part: str) -> list[Path]:
    """A part's files of weights, an index first."""
    own = [file for name, file in files.items() if name.startswith(f"{part}/") and variant_of(file.name) is not None]
    return sorted(own, key=lambda file: (file.suffix != ".json", file.name))


def _kept(about: object, write: Callable[[Path], None]) -> Path:
    """A folder of the cache that is made where there is none for what it is about, and for the code that makes it."""
    code = [sha256(one) for one in sorted(Path(__file__).parent.glob("*.py"))]
    versions = [importlib.metadata.version(name) for name in ("diffusers", "transformers")]
    key = hashlib.sha256(json.dumps([about, code, versions]).encode()).hexdigest()
    folder = cache_folder() / "checkpoints" / key[:24]
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_folder(folder, write)
        except OSError as error:
            raise unwritable(folder, error) from error
    return folder
