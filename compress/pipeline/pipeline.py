"""A whole pipeline, as diffusers keeps one: a denoiser and the parts around it, which no pass changes yet."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.errors import CheckpointError
from compress.files import write_json
from compress.model.denoiser import Denoiser
from compress.pipeline import checkpoint
from compress.pipeline.source import INDEX, locate, parts_of, read_object

_DECODERS = ("Autoencoder", "VQModel", "ConsistencyDecoder")


@dataclass(frozen=True)
class Parts:
    """What a model folder holds beside net and scheduler; its files are carried as they are.

    index: its model_index.json; {}: it holds a net alone. conditioners: text encoders with their tokenizers, and what
    else there is; decoder: what makes pixels of latents. Both: name in the index → folder.
    """

    index: Mapping[str, Any] = field(default_factory=dict)
    conditioners: Mapping[str, Path] = field(default_factory=dict)
    decoder: Mapping[str, Path] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, Path]:
        """Path within a model folder → where that file lies now."""
        return {
            f"{name}/{file.relative_to(folder).as_posix()}": file
            for name, folder in {**self.conditioners, **self.decoder}.items()
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }


def parts(reference: str | None, wanted: bool | None) -> Parts:
    """What a checkpoint holds beside its net. wanted: None: if it is a folder; of a hub id it would be downloaded.

    Raises CheckpointError if they are wanted, and the checkpoint holds a net alone.
    """
    if reference is None or not (Path(reference).is_dir() if wanted is None else wanted):
        return Parts()
    source = locate(reference, whole=True)
    if not (source.root / INDEX).is_file():
        if wanted:
            raise CheckpointError(
                f"{reference}: has no {INDEX}, so it is no whole pipeline; leave `pipeline: true` out"
            )
        return Parts()
    index = read_object(source.root / INDEX)
    kinds = parts_of(index, source.model.name)
    folders = {name: source.root / name for name in kinds if (source.root / name).is_dir()}
    decoder = {name: folder for name, folder in folders.items() if kinds[name].startswith(_DECODERS)}
    return Parts(index, {name: folder for name, folder in folders.items() if name not in decoder}, decoder)


@dataclass(frozen=True)
class Pipeline:
    """What passes change, and what is around it."""

    denoiser: Denoiser
    parts: Parts = Parts()

    def save(self, folder: Path) -> None:
        """Write a folder from which `checkpoint.load` gives the denoiser back, and diffusers the whole pipeline.

        Files of parts are links to where they lie, if those can be made, so nobody should write to them.
        """
        checkpoint.save(self.denoiser, folder)
        if not self.parts.index:
            return
        for name, file in self.parts.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.hardlink_to(file.resolve())
            except OSError:  # on another disk, or somebody else's
                shutil.copyfile(file, target)
        family, scheduler = self.denoiser.family, self.denoiser.scheduler.get("_class_name")
        own = {family.folder: ["diffusers", family.name]} | (
            {"scheduler": ["diffusers", scheduler]} if scheduler else {}
        )
        write_json(folder / INDEX, {**self.parts.index, **own})
