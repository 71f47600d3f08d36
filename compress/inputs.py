"""What a recipe reads: its teacher, its data, and the identity of both."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from compress import data, passes
from compress.contract import Context, Stage, Task
from compress.diffusion.sampling import Guidance
from compress.errors import DataError, RecipeError
from compress.files import sha256
from compress.models import checkpoint, noise_classifier
from compress.models.denoiser import Denoiser, QuantizedDenoiser
from compress.models.reference import draw_dataset
from compress.recipe import Recipe, Step

Progress = Callable[[str, int], AbstractContextManager[Task]]


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run, as opposed to what."""

    device: torch.device
    progress: Progress
    log: Callable[[str], None]
    fresh: bool = False
    allow_pickle: bool = False


class Inputs:
    """What the recipe reads, loaded when first needed and then kept."""

    def __init__(self, recipe: Recipe, options: Options, cache_folder: Path) -> None:
        self.recipe, self.options, self.cache_folder = recipe, options, cache_folder
        self.teacher = cache(self._teacher)
        self.dataset = cache(self._dataset)

    @property
    def guidance(self) -> Guidance:
        """The recipe's guidance in the form that models carry."""
        asked = self.recipe.head.guidance
        if asked is None:
            return Guidance()
        kind: Literal["cfg", "classifier"] = "cfg" if asked.classifier is None else "classifier"
        return Guidance(kind=kind, scale=asked.scale, null_class=asked.null_class)

    def _null_embedding(self) -> torch.Tensor | None:
        asked = self.recipe.head.guidance
        if asked is None or asked.null_embedding is None:
            return None
        return torch.from_numpy(data.read_npy(asked.null_embedding))

    def _teacher(self) -> Denoiser:
        """The checkpoint, loaded afresh, frozen, on the device, with the recipe's guidance and sampling."""
        head = self.recipe.head
        if head.checkpoint is None:
            raise RecipeError([f"{self.recipe.path}: has no checkpoint, so there is no teacher"])
        model = checkpoint.load(
            head.checkpoint,
            self.options.allow_pickle,
            head.sampling,
            self.guidance if head.guidance else None,
            self._null_embedding(),
        )
        if isinstance(model, QuantizedDenoiser):
            raise RecipeError(
                [f"{self.recipe.path}: checkpoint: {head.checkpoint} is quantized; a teacher is a float model"]
            )
        self._check_guidance(model)
        return dataclasses.replace(model, kept={}, classifier=self._classifier(model)).to(self.options.device)

    def _classifier(self, model: Denoiser) -> nn.Module | None:
        asked = self.recipe.head.guidance
        if asked is None or asked.classifier is None:
            return model.classifier
        if model.classes is None or len(model.conditions) > 1:
            raise RecipeError([f"{self.recipe.path}: guidance.classifier: needs a model with class labels alone"])
        if float(model.sampling.alphas_cumprod[model.sampling.timesteps[0]]) == 0:
            raise RecipeError([f"{self.recipe.path}: guidance.classifier: no class is told at zero terminal SNR"])
        return noise_classifier.load(asked.classifier, model.sample_shape, model.classes)

    def _check_guidance(self, model: Denoiser) -> None:
        guidance, where = model.sampling.guidance, f"{self.recipe.path}: guidance"
        if guidance.kind in ("none", "classifier"):
            return
        count = model.family.classes(model.net)
        if guidance.null_class is not None and (count is None or guidance.null_class >= count):
            has = "takes no class labels" if count is None else f"has the labels 0…{count - 1}"
            raise RecipeError([f"{where}.null_class: {guidance.null_class}, but the model {has}"])
        if guidance.null_class is not None:
            return
        if model.dropped is None:
            kind = "unconditional and cannot be guided; remove guidance"
            raise RecipeError(
                [f"{where}: the model is {kind if count is None else 'class-conditional; give null_class'}"]
            )
        wanted = model.conditions[model.dropped].shape
        found = None if model.null_embedding is None else tuple(model.null_embedding.shape)
        if found != wanted:
            shape = ["tokens", wanted[1]] if len(wanted) == 2 else list(wanted)
            raise RecipeError([f"{where}.null_embedding: should be [{', '.join(map(str, shape))}]; got {found}"])

    def _dataset(self) -> data.Dataset:
        config = self.recipe.head.data
        if config is None:
            raise DataError(
                f"{self.recipe.path}: a pass needs images; add e.g. `data: {{source: teacher, count: 2000}}`"
            )
        if not isinstance(config, data.FromTeacher):
            model = self._shape_giver()
            embeddings = {name: one.shape for name, one in model.conditions.items() if name in data.KEYS}
            return data.load(config, model.sample_shape, model.classes, embeddings)
        file = self.cache_folder / f"teacher-{self.identity()[:16]}.npz"
        return draw_dataset(self.teacher(), config, self.recipe.head.seed, file, self.options.progress)

    def _shape_giver(self) -> Denoiser:
        if self.recipe.head.checkpoint is not None:
            return self.teacher()
        first = self.recipe.steps[0]
        context = self.context(first, Path(), Path())
        return passes.module(first.kind).build(first.config, context)

    def context(self, step: Step, workdir: Path, output: Path, stages: Sequence[Stage] = ()) -> Context:
        """What a pass is given."""
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
            progress=options.progress,
            log=options.log,
            stages=stages,
        )

    def identity(self) -> str:
        """Hash of everything the recipe reads besides the settings of its passes."""
        head = self.recipe.head
        parts: dict[str, Any] = {
            "head": head.model_dump(mode="json", exclude={"name"}),
            "device": self.options.device.type,
        }
        read = []
        if head.checkpoint is not None:
            source = checkpoint.locate(head.checkpoint)
            read += [p for folder in {source.root, source.model} for p in folder.iterdir()]
            read += [source.scheduler] if source.scheduler else []
        for path in (
            getattr(head.data, "path", None),
            getattr(head.data, "embeddings", None),
            getattr(head.guidance, "null_embedding", None),
            getattr(head.guidance, "classifier", None),
        ):
            read += [] if path is None else sorted(path.rglob("*")) if path.is_dir() else [path]
        parts["files"] = {str(p): sha256(p) for p in sorted(read) if p.is_file() and not p.name.startswith("README")}
        return digest(parts)


def digest(content: Any) -> str:
    """SHA-256 of JSON-able content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
