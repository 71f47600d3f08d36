"""A whole pipeline, as diffusers keeps one: a denoiser and the parts around it, which no pass changes yet."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from compress.errors import CheckpointError, DataError, written
from compress.families.family import sides
from compress.families.texts import Texts
from compress.files import link, write_json
from compress.model.denoiser import Denoiser
from compress.model.reference import Progress
from compress.pipeline import checkpoint, decoder, text
from compress.pipeline.decoder import Decoder
from compress.pipeline.source import INDEX, family_of, locate, parts_of, read_object
from compress.pipeline.text import TextEncoders

AT_ONCE = 1000  # texts whose length is looked at


@dataclass(frozen=True)
class Parts:
    """What a model folder holds beside net and scheduler: its files are carried as they are.

    index: its model_index.json; {}: it holds a net alone. folders: name in the index → where that part lies. net: the
    config of the denoiser. made: a decoder in place of the one in its folder.
    """

    index: Mapping[str, Any] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    net: Mapping[str, Any] = field(default_factory=dict)
    made: Decoder | None = None

    @property
    def files(self) -> dict[str, Path]:
        """Path within a model folder → where that file lies now."""
        return {
            f"{name}/{file.relative_to(folder).as_posix()}": file
            for name, folder in self.folders.items()
            if self.made is None or name != self.made.name
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }

    @property
    def kinds(self) -> dict[str, str]:
        """The class of each part that there is."""
        return {name: kind for name, kind in parts_of(self.index, "").items() if name in self.folders}

    @property
    def parameters(self) -> int:
        """Of text encoders and decoder; 0 where a net stands alone."""
        nets = [one.net for one in self.text.encoders.values()] if self.text is not None else []
        nets += [self.decoder.net] if self.decoder is not None else []
        return sum(parameter.numel() for net in nets for parameter in net.parameters())

    @property
    def rule(self) -> Texts | None:
        """How the family of the denoiser makes conditions of texts, if it does."""
        family = family_of(self.net)
        return None if family is None else family.texts(self.net, self.index)

    @cached_property
    def text(self) -> TextEncoders | None:
        """What makes conditions of texts, if it is of a kind that is known. Raises CheckpointError."""
        if (rule := self.rule) is None:
            return None
        height, width = (side * (self.factor if rule.told else 1) for side in sides(self.net))
        return text.load(rule, self.folders, self.kinds, (height, width))

    @cached_property
    def decoder(self) -> Decoder | None:
        """What makes pixels of samples, if it is of a kind that is known. Raises CheckpointError."""
        return self.made or decoder.load(self.folders, self.kinds)

    def picture_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(c,h,w) of what is seen of a sample."""
        return sample_shape if self.decoder is None else self.decoder.shape(sample_shape)

    @property
    def factor(self) -> int:
        """By what the sides of a picture are longer than those of its sample."""
        return 1 if self.decoder is None else self.decoder.factor


def parts(reference: str | None, wanted: bool | None) -> Parts:
    """What a model folder holds beside its net. wanted: None: if there is anything.

    Raises CheckpointError if they are wanted, and the folder holds a net alone.
    """
    if reference is None or wanted is False:
        return Parts()
    source = locate(reference)
    if not (source.root / INDEX).is_file():
        if wanted:
            raise CheckpointError(
                f"{reference}: has no {INDEX}, so it is no whole pipeline; leave `pipeline: true` out"
            )
        return Parts()
    index = read_object(source.root / INDEX)
    names = parts_of(index, source.model.name)
    folders = {name: source.root / name for name in names if (source.root / name).is_dir()}
    return Parts(index, folders, read_object(source.model / "config.json"))


def index_of(model: Denoiser, parts: Parts) -> dict[str, Any]:
    """The model_index.json of a denoiser with what is around it."""
    scheduler = model.scheduler.get("_class_name")
    own = {model.family.folder: ["diffusers", model.family.name]}
    own |= {"scheduler": ["diffusers", scheduler]} if scheduler else {}
    own |= {parts.made.name: ["diffusers", type(parts.made.net).__name__]} if parts.made else {}
    return {**parts.index, **own}


def decoder_of(parts: Parts, name: str) -> Decoder:
    """The decoder that a pass of this name works on. Raises CheckpointError where there is none."""
    if parts.decoder is None:
        known, found = ", ".join(decoder.KINDS), ", ".join(f"{part}: {kind}" for part, kind in parts.kinds.items())
        raise CheckpointError(
            f"{name}: the model has no decoder; its checkpoint should be a pipeline with one of {known}; found "
            f"{found or 'a net alone'}"
        )
    return parts.decoder


def check_texts(parts: Parts) -> None:
    """Raise DataError where there is no text encoder. Reads no weights."""
    why = text.lacking(parts.rule, parts.kinds) if parts.index else "is a net alone"
    if why is not None:
        raise DataError(f"prompts and captions need a text encoder; the checkpoint {why}: give `embeddings` in an .npz")


def encode(
    parts: Parts, texts: Sequence[str], progress: Progress, log: Callable[[str], None]
) -> dict[str, torch.Tensor]:
    """The conditions [n,…] that are made of texts, by their names. Raises DataError without a text encoder."""
    found = encoders(parts, texts, log)
    with progress("encoding texts", len(texts)) as task:
        return found.encode(texts, task.advance)


def null(parts: Parts, negative: str, log: Callable[[str], None]) -> dict[str, torch.Tensor]:
    """What guidance leads away from, for one item; nothing without a text encoder, which a negative prompt needs."""
    if not negative and parts.text is None:
        return {}
    return encoders(parts, [negative], log).null(negative)


def encoders(parts: Parts, texts: Sequence[str], log: Callable[[str], None]) -> TextEncoders:
    """What encodes texts, of which it is told where they are cut. Raises DataError."""
    check_texts(parts)
    assert parts.text is not None, "nothing is lacking"
    cut: dict[str, int] = {}
    for start in range(0, len(texts), AT_ONCE):
        cut |= parts.text.cut(texts[start : start + AT_ONCE])
    if cut:
        first, tokens = next(iter(cut.items()))
        log(f"{len(cut)} texts are cut, e.g. {written(first)} to {tokens} tokens")
    return parts.text


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
            link(file, folder / name)
        if self.parts.made is not None:
            self.parts.made.net.save_pretrained(folder / self.parts.made.name)  # type: ignore[operator]
        write_json(folder / INDEX, index_of(self.denoiser, self.parts))
