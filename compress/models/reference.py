"""Images drawn from a model, in place of a data set or to compare with."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.data import Dataset, FromTeacher, generator, read_npz
from compress.errors import DataError
from compress.files import write_atomically
from compress.models.denoiser import AnyDenoiser, Denoiser, draw

BATCH = 100


def noise_like(model: AnyDenoiser, count: int, *key: int) -> torch.Tensor:
    """Standard normal noise [count,c,h,w], determined by `key`."""
    return torch.randn(count, *model.sample_shape, generator=generator(*key))


def cycled_labels(classes: int, count: int) -> torch.Tensor:
    """Labels 0, 1, …, classes−1, 0, … int64 [count]: every class as often as any other."""
    return torch.arange(count) % classes


def conditions_for(
    model: AnyDenoiser, count: int, dataset: Callable[[], Dataset], seed: int
) -> dict[str, torch.Tensor]:
    """Conditions to draw `count` samples for: labels in turn; text embeddings from the data set."""
    if not model.conditions:
        return {}
    if model.classes is not None:
        return {"class_labels": cycled_labels(model.classes, count)}
    return dict(dataset().batch(count, seed, 0).conditions)


def draw_many(
    model: AnyDenoiser,
    noise: torch.Tensor,
    conditions: Mapping[str, torch.Tensor],
    progress: Callable[[str, int], AbstractContextManager[Any]],
    title: str,
) -> torch.Tensor:
    """Samples [n,c,h,w] on the CPU, drawn in batches, with progress."""
    device = next(model.net.parameters()).device
    parts = []
    batches = range(0, len(noise), BATCH)
    with progress(title, len(batches) * len(model.sampling.timesteps)) as task:
        for start in batches:
            chosen = {name: value[start : start + BATCH].to(device) for name, value in conditions.items()}
            parts.append(draw(model, noise[start : start + BATCH].to(device), chosen, task.advance).cpu())
    return torch.cat(parts)


def draw_dataset(
    teacher: Denoiser,
    config: FromTeacher,
    seed: int,
    file: Path,
    progress: Callable[[str, int], AbstractContextManager[Any]],
) -> Dataset:
    """A data set drawn once from the teacher and kept in `file`. Raises DataError."""
    conditions: dict[str, torch.Tensor] = {}
    if teacher.classes is not None:
        conditions["class_labels"] = cycled_labels(teacher.classes, config.count)
    if "encoder_hidden_states" in teacher.conditions:
        if config.embeddings is None:
            raise DataError("data: the model is text-conditional; name an .npz with `embeddings` to draw images for")
        arrays = read_npz(config.embeddings)
        if "embeddings" not in arrays:
            raise DataError(f"{config.embeddings}: has no `embeddings` (found: {', '.join(arrays) or 'nothing'})")
        embeddings = torch.from_numpy(arrays["embeddings"].astype(np.float32))
        wanted = teacher.conditions["encoder_hidden_states"].shape
        if tuple(embeddings.shape[1:]) != wanted:
            raise DataError(f"{config.embeddings}: embeddings should be [n, {wanted}]; got {list(embeddings.shape)}")
        conditions["encoder_hidden_states"] = embeddings[torch.arange(config.count) % len(embeddings)]
    if file.is_file():
        images = torch.from_numpy(read_npz(file)["images"])
    else:
        noise = noise_like(teacher, config.count, seed, 0)
        images = draw_many(teacher, noise, conditions, progress, "drawing images from the teacher")
        write_atomically(file, lambda part: _write_npz(part, images))
    return Dataset(images, conditions)


def _write_npz(part: Path, images: torch.Tensor) -> None:
    with part.open("wb") as stream:
        np.savez(stream, images=images.numpy())
