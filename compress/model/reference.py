"""Images drawn from a model, in place of a data set or to compare with."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from compress.data import Dataset, FromTeacher, Items, chosen, key, read_embeddings, read_npz, read_prompts
from compress.errors import DataError
from compress.files import cache_folder, write_npz
from compress.model.denoiser import Denoiser, draw
from compress.processes import ALONE, Processes
from compress.randomness import Draw, generator

BATCH = 100
Progress = Callable[[str, int], AbstractContextManager[Any]]
Encode = Callable[[Sequence[str]], Mapping[str, Items]]  # texts → conditions [n,…] by their names


class _Silence:
    def advance(self, count: int = 1, **shown: float) -> None:
        """Nothing."""


def silent(_title: str, _total: int) -> AbstractContextManager[_Silence]:
    """Progress without a bar: for what runs beside others."""
    return nullcontext(_Silence())


@dataclass(frozen=True)
class Drawn:
    """Samples float32 [n,c,h,w] with the noise [n,c,h,w] and the conditions [n,...] that they come from."""

    noise: torch.Tensor
    conditions: dict[str, torch.Tensor]
    samples: torch.Tensor

    def __getitem__(self, part: slice) -> "Drawn":
        conditions = {name: value[part] for name, value in self.conditions.items()}
        return Drawn(self.noise[part], conditions, self.samples[part])


def noise_like(model: Denoiser, count: int, *key: int | str) -> torch.Tensor:
    """Standard normal noise [count,c,h,w], determined by `key`."""
    return torch.randn(count, *model.sample_shape, generator=generator(*key))


def cycled_labels(classes: int, count: int) -> torch.Tensor:
    """Labels 0, 1, …, classes−1, 0, … int64 [count]: every class as often as any other."""
    return torch.arange(count) % classes


def conditions_for(model: Denoiser, count: int, dataset: Callable[[], Dataset], seed: int) -> dict[str, torch.Tensor]:
    """Conditions to draw `count` samples for: labels in turn; embeddings, and labels beside them, from the data set."""
    if not model.conditions:
        return {}
    if model.classes is not None and len(model.conditions) == 1:
        return {"class_labels": cycled_labels(model.classes, count)}
    return dict(dataset().batch(count, seed, Draw.CONDITIONS).conditions)


def draw_many(
    model: Denoiser,
    noise: torch.Tensor,
    conditions: Mapping[str, torch.Tensor],
    progress: Progress,
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


@dataclass(frozen=True)
class Drawer:
    """What draws a model's samples.

    draw: (model, noise [b,c,h,w], conditions, advance) -> samples [b,c,h,w], all on the CPU; calls `advance` with the
    number of evaluations as they are done.
    """

    name: str
    draw: Callable[[Denoiser, torch.Tensor, Mapping[str, torch.Tensor], Callable[[int], None]], torch.Tensor]


def _in_pytorch(
    model: Denoiser, noise: torch.Tensor, conditions: Mapping[str, torch.Tensor], advance: Callable[[int], None]
) -> torch.Tensor:
    on_device = {name: value.to(model.device) for name, value in conditions.items()}
    return draw(model, noise.to(model.device), on_device, lambda: advance(len(noise))).cpu()


PYTORCH = Drawer("PyTorch", _in_pytorch)


def kept_folder(model: Denoiser, drawer: str) -> Path:
    """Where the samples of a model are kept that this drawer drew."""
    return cache_folder() / "samples" / f"{identity(model)[:24]}-{drawer}"


def draw_kept(
    model: Denoiser,
    count: int,
    seed: int,
    dataset: Callable[[], Dataset],
    progress: Progress,
    title: str,
    drawer: Drawer = PYTORCH,
) -> Drawn:
    """`count` samples that are drawn once and then kept in the cache, in files of a hundred.

    Sample i is determined by the model, its sampling, `seed`, i and, to rounding, the drawer: a smaller count is the
    beginning of a larger one. Stopped and called again, it goes on with the first file that is missing.
    """
    random = [noise_like(model, BATCH, seed, Draw.REFERENCE, start) for start in range(0, count, BATCH)]
    noise = torch.cat(random)[:count]
    conditions = _kept_conditions(model, count, dataset, seed)
    bar = partial(progress, title)
    return Drawn(noise, conditions, _in_files(model, noise, conditions, str(seed), bar, drawer, ALONE))


def _in_files(
    model: Denoiser,
    noise: torch.Tensor,
    conditions: Mapping[str, Items],
    name: str,
    bar: Callable[[int], AbstractContextManager[Any]],
    drawer: Drawer,
    processes: Processes,
) -> torch.Tensor:
    """Samples [n,c,h,w], a hundred a file in the cache; name: of the noise, at the beginning of each file's name."""
    kept, evaluations = kept_folder(model, drawer.name), len(model.sampling.timesteps)

    def samples(start: int, advance: Callable[[int], None]) -> torch.Tensor:
        given = {name: value[start : start + BATCH] for name, value in conditions.items()}
        mine = noise[start : start + BATCH]
        file = kept / f"{name}-{start:06d}-{len(mine)}-{key_of(given)}.npz"
        found = _read_kept(file, mine.shape)
        if found is None:
            found = drawer.draw(model, mine, given, advance)
            write_npz(file, {"samples": found.numpy()})
        else:
            advance(len(mine) * evaluations)
        return found

    starts = range(0, len(noise), BATCH)
    share = processes.mine(starts)
    with bar(sum(len(noise[start : start + BATCH]) for start in share) * evaluations) as task:
        parts = {start: samples(start, task.advance) for start in share}
    processes.wait()
    return torch.cat([parts[start] if start in parts else samples(start, lambda _: None) for start in starts])


def key_of(conditions: Mapping[str, torch.Tensor]) -> str:
    """A short hash of conditions, for the name of a file that depends on them."""
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in conditions.values())).hexdigest()[:8]


def _kept_conditions(model: Denoiser, count: int, dataset: Callable[[], Dataset], seed: int) -> dict[str, torch.Tensor]:
    if set(model.conditions) <= {"class_labels"}:
        return conditions_for(model, count, dataset, seed)
    batches = [dataset().batch(BATCH, seed, Draw.REFERENCE, start).conditions for start in range(0, count, BATCH)]
    return {name: torch.cat([batch[name] for batch in batches])[:count] for name in model.conditions}


def _read_kept(file: Path, shape: torch.Size) -> torch.Tensor | None:
    """Samples of an earlier run; None if there are none that can be used."""
    try:
        samples = torch.from_numpy(read_npz(file)["samples"])
    except (DataError, KeyError):
        return None
    return samples if samples.shape == shape and samples.isfinite().all() else None


def identity(model: Denoiser) -> str:
    """SHA-256 of everything that a sample of the model depends on, besides noise and conditions."""
    idle: Any = {"others": True, "distilled": True, "guidance": {"scales"}}  # a sample in these steps depends on none
    parts = [model.sampling.model_dump_json(exclude=idle), model.device.type]
    tensors = {f"null.{name}": value for name, value in model.null.items()}
    if model.classifier is not None:
        parts.append(str(model.classifier.code))
        tensors |= {f"classifier.{name}": tensor for name, tensor in model.classifier.state_dict().items()}
    return net_identity(model, *parts, **tensors)


def net_identity(model: Denoiser, *parts: str, **more: torch.Tensor) -> str:
    """SHA-256 of the net, whatever it is sampled by, and of what else is given."""
    found = hashlib.sha256(json.dumps(dict(model.config), sort_keys=True, default=str).encode())
    for part in parts:
        found.update(part.encode())
    for name, tensor in sorted((model.net.state_dict() | more).items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def draw_dataset(
    teacher: Denoiser,
    config: FromTeacher,
    seed: int,
    progress: Progress,
    encode: Encode,
    processes: Processes = ALONE,
) -> Dataset:
    """A data set drawn from the teacher once and then kept in the cache. Raises DataError.

    Stopped and called again, it goes on with the first hundred that is missing. processes: that draw a share each.
    """
    conditions: dict[str, Items] = {}
    texts: list[str] = []
    encoded: Mapping[str, Items] = {}
    if config.prompts is not None and "encoder_hidden_states" in teacher.conditions:
        prompts = read_prompts(config.prompts)
        order = torch.randperm(len(prompts), generator=generator(seed, Draw.PROMPTS)).tolist()
        texts = [prompts[i] for i in order[: config.count]]
        encoded = encode(texts)
    for name, condition in teacher.conditions.items():
        if name == "class_labels":
            conditions[name] = cycled_labels(teacher.classes or 1, config.count)
            continue
        text = name == "encoder_hidden_states"
        if name in encoded:
            embeddings: Items = encoded[name]
        elif config.embeddings is not None:
            embeddings = torch.from_numpy(read_embeddings(config.embeddings, name))
        else:
            kind = "text-conditional; name a file of `prompts`, or" if text else f"conditioned on a {name}; name"
            raise DataError(f"data: the model is {kind} an .npz with `{key(name)}` to draw images for")
        if tuple(embeddings.shape[1:]) != tuple(condition.shape):
            wanted = ["n", *condition.shape]
            where, found = config.embeddings or config.prompts, list(embeddings.shape)
            raise DataError(f"{where}: {key(name)} should be {wanted}; got {found}")
        conditions[name] = chosen(embeddings, torch.arange(config.count) % len(embeddings))
    noise = noise_like(teacher, config.count, seed, Draw.DATASET)
    bar = partial(progress, "drawing images from the teacher")
    images = _in_files(teacher, noise, conditions, f"data-{config.count}-{seed}", bar, PYTORCH, processes)
    return Dataset(images, conditions, [texts[i % len(texts)] for i in range(config.count)] if texts else ())
