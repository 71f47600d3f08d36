"""What a recipe reads: its teacher, its data, and the identity of both."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from compress import data, passes
from compress.contract import Context, Finished
from compress.diffusion.sampling import Guidance
from compress.errors import CompressError, DataError, RecipeError
from compress.files import cache_folder, sha256
from compress.model import noise_classifier, torchscript
from compress.model.denoiser import Denoiser
from compress.model.reference import Progress, draw_dataset, silent
from compress.pipeline import checkpoint, encoded
from compress.pipeline.pipeline import Parts, check_texts, null, parts
from compress.pipeline.reference import folder_of
from compress.pipeline.source import locate
from compress.processes import ALONE, Processes, joined
from compress.recipe.guidance import read_null
from compress.recipe.identity import contents, digest
from compress.recipe.recipe import Recipe, Step
from compress.settings import paths


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run, as opposed to what."""

    device: torch.device
    progress: Progress
    log: Callable[[str], None]
    fresh: bool = False
    allow_pickle: bool = False
    processes: Processes = ALONE
    track: Callable[[str], Any] | None = None

    @classmethod
    def on(cls, device: str, *others: Any, **more: Any) -> "Options":
        """device: cpu, cuda, or auto for the better of those that are there. Raises CompressError."""
        if device not in ("auto", "cpu", "cuda"):
            raise CompressError(f"--device {device}: should be auto, cpu or cuda")
        found = torch.cuda.is_available()
        if device == "cuda" and not found:
            raise CompressError("--device cuda: PyTorch finds no CUDA device; use --device cpu")
        return cls(torch.device("cuda" if found and device != "cpu" else "cpu"), *others, **more)

    def shared(self) -> "Options":
        """The same for this one of the processes that the command was started in: a GPU of its own, and silence but for
        the first."""
        processes = joined(self.device.type == "cpu")
        if processes.count == 1:
            return self
        device = torch.device("cuda", processes.local) if self.device.type == "cuda" else self.device
        shared = dataclasses.replace(self, device=device, processes=processes)
        return shared if processes.main else dataclasses.replace(shared, progress=silent, log=_unheard, track=None)


def _unheard(_message: str) -> None:
    """What another process says already."""


class Inputs:
    """What the recipe reads, loaded when first needed and then kept."""

    def __init__(self, recipe: Recipe, options: Options) -> None:
        self.recipe, self.options = recipe, options
        named = [path for part in (*(step.config for step in recipe.steps), recipe.head) for path in paths(part)]
        for program in dict.fromkeys(path for path in named if path.suffix.lower() in torchscript.SUFFIXES):
            torchscript.check_trust(program, options.allow_pickle)
            options.log(f"{program}: TorchScript, a program, will be run, as --allow-pickle allows")
        self.teacher = cache(self._teacher)
        self.sha256, self.contents = cache(sha256), cache(contents)
        self.pictures, self.dataset = cache(self._pictures), cache(self._dataset)
        self.checkpoint = cache(lambda: str(folder_of(recipe.head, options.allow_pickle, options.log)))
        self.parts = cache(lambda: parts(self.checkpoint() if recipe.head.checkpoint else None, recipe.head.pipeline))

    @property
    def guidance(self) -> Guidance:
        """The recipe's guidance in the form that models carry."""
        asked = self.recipe.head.guidance
        return Guidance() if asked is None else asked.guidance

    def _teacher(self) -> Denoiser:
        """The checkpoint, loaded afresh, frozen, on the device, with the recipe's guidance and sampling."""
        head, where, asked = self.recipe.head, self.recipe.path, self.recipe.head.guidance
        if head.checkpoint is None:
            raise RecipeError(f"{where}: has no checkpoint, so there is no teacher")
        guidance, allow_pickle = self.guidance if asked else None, self.options.allow_pickle
        if isinstance(head.data, data.FromTeacher) and head.data.prompts is not None:
            check_texts(self.parts())  # before weights are read
        model = checkpoint.load(self.checkpoint(), allow_pickle, head.sampling, guidance)
        if asked is not None and asked.null_embedding is not None:
            model = dataclasses.replace(model, null=read_null(asked.null_embedding, model.dropped))
        elif asked is None or asked.by_text:
            left_out = null(self.parts(), asked.negative_prompt if asked else "", self.options.log)
            model = dataclasses.replace(model, null={**model.null, **left_out})
        if model.precision is not None:
            raise RecipeError(f"{where}: checkpoint: {head.checkpoint} is quantized; a teacher is a float model")
        fault = checkpoint.guidance_fault(model)
        if fault is not None:
            raise RecipeError(f"{where}: guidance{fault}")
        classifier = model.classifier
        if asked is not None and asked.classifier is not None:
            if model.sampling.levels()[0][0] == 0:
                raise RecipeError(f"{where}: guidance.classifier: no class is told at zero terminal SNR")
            classifier = noise_classifier.load(asked.classifier, model.sample_shape, model.classes, allow_pickle)
        return dataclasses.replace(model, kept={}, classifier=classifier).to(self.options.device)

    def _pictures(self) -> data.Dataset:
        """The data as they are given."""
        config = self.recipe.head.data
        if config is None:
            where = self.recipe.path
            raise DataError(f"{where}: a pass needs images; add e.g. `data: {{source: teacher, count: 2000}}`")
        if not isinstance(config, data.FromTeacher):
            if self.recipe.head.checkpoint is not None:
                model = self.teacher()
            else:
                first = self.recipe.steps[0]
                model = passes.module(first.kind).build(first.config, self.context(first, Path(), Path()))
            shape, decoder = model.sample_shape, self.parts().decoder
            if decoder is not None and isinstance(config, data.PICTURES):
                shape = decoder.shape(shape)
            embeddings = {name: one.shape for name, one in model.conditions.items() if name != "class_labels"}
            return data.load(config, shape, model.classes, embeddings, self._encode)
        return self._draw(config)

    def _draw(self, config: data.FromTeacher, processes: Processes = ALONE) -> data.Dataset:
        seed, progress = self.recipe.head.seed, self.options.progress
        encode = partial(self._encode, processes=processes)
        return draw_dataset(self.teacher(), config, seed, progress, encode, processes)

    def prepare(self) -> None:
        """What takes long of the data, for all processes of the command: each draws a share, or the first encodes."""
        processes, config = self.options.processes, self.recipe.head.data
        if processes.count == 1 or config is None:
            return
        if isinstance(config, data.FromTeacher):
            self._draw(config, processes)
        elif processes.main:
            self.dataset()
        processes.wait()

    def _encode(self, texts: Sequence[str], processes: Processes = ALONE) -> Mapping[str, data.Items]:
        """The conditions of texts, encoded once, by the first of the processes that ask together."""
        if not processes.main:
            processes.wait()
        parts, said = self.parts(), hashlib.sha256()
        check_texts(parts)
        for text in texts:
            said.update(json.dumps(text).encode())
        assert parts.text is not None, "nothing is lacking"
        key = [said.hexdigest(), parts.text.about, parts.text.picture, self._files("text_encoder", "tokenizer")]
        found = encoded.embeddings(parts, texts, _kept("texts", key), self.options.progress, self.options.log)
        if processes.main:
            processes.wait()
        return found

    def _dataset(self) -> data.Dataset:
        """The pictures, encoded once where the model draws latents."""
        config, pictures, decoder = self.recipe.head.data, self.pictures(), self.parts().decoder
        if decoder is None or not isinstance(config, data.PICTURES):
            return pictures
        device, shape = self.options.device, pictures.images.shape
        key = [
            config.model_dump(mode="json"),
            self.contents(config.path),
            shape,
            device.type,
            self._files(decoder.name),
        ]
        images = encoded.latents(decoder, pictures.images, _kept("latents", key), device, self.options.progress)
        return dataclasses.replace(pictures, images=images)

    def _files(self, *names: str) -> dict[str, str]:
        """SHA-256 of the files of some parts, by the beginnings of their names."""
        return {name: self.sha256(file) for name, file in self.parts().files.items() if name.startswith(names)}

    def context(
        self,
        step: Step,
        workdir: Path,
        output: Path,
        finished: Sequence[Finished] = (),
        parts: Callable[[], Parts] | None = None,
    ) -> Context:
        """What a pass is given. parts: around the model so far; default: around the teacher."""
        head, options = self.recipe.head, self.options
        return Context(
            name=step.name,
            recipe=head.name,
            seed=head.seed,
            device=options.device,
            workdir=workdir,
            output=output,
            guidance=self.guidance,
            sampling=head.sampling,
            data=head.data,
            teacher=self.teacher,
            dataset=self.dataset,
            pictures=self.pictures,
            around=self.parts,
            parts=parts or self.parts,
            progress=options.progress,
            log=options.log,
            finished=finished,
            allow_pickle=options.allow_pickle,
            processes=options.processes if passes.together(step.kind) else ALONE,
            track=options.track,
        )

    def identity(self) -> str:
        """Hash of everything the recipe reads besides the settings of its passes."""
        head = self.recipe.head
        read = [*locate(self.checkpoint()).files, *self.parts().files.values()] if head.checkpoint else []
        files = {str(file): self.sha256(file) for file in read if file.is_file() and not file.name.startswith("README")}
        for path in paths(head):
            files |= self.contents(path)
        return digest([head.model_dump(mode="json", exclude={"name"}), self.options.device.type, files])


def _kept(what: str, key: Any) -> Path:
    """Where something is kept that depends on `key`, JSON-able, alone."""
    return cache_folder() / what / digest(key)[:24]
