"""Reading and writing model folders: diffusers' own format, plus `structure.json` and `sampling.json`."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from compress.diffusion.sampling import Guidance, Sampling
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.errors import CheckpointError
from compress.families import FAMILIES
from compress.families.family import Family
from compress.files import Unreadable, read_json
from compress.model import noise_classifier, trial
from compress.model import structure as structures
from compress.model.denoiser import Denoiser, guidance_fault
from compress.pipeline import weights
from compress.pipeline.source import CLASSIFIER, OWN_WEIGHTS, STOCK_WEIGHTS, Source, locate
from compress.runtime.schemes import SCHEMES

_DAMAGED = "is damaged; save the model again"


def load(
    reference: str | Path,
    allow_pickle: bool = False,
    options: SamplingOptions | None = None,
    guidance: Guidance | None = None,
    null_embedding: torch.Tensor | None = None,
) -> Denoiser:
    """Read a model folder, strictly: every weight is used, none is missing, shapes agree, all are finite.

    options, guidance, null_embedding: instead of what the folder says. allow_pickle: read pickled weights, and run a
    classifier. Float weights are held in float32. Raises CheckpointError.
    """
    source = locate(reference)
    config = _json(source.model / "config.json")
    family = _family(config, source.model)
    where = source.root / "structure.json"
    structure = _json(where) if where in source.files else {}
    quantization, kept = structure.pop("quantization", None), _kept(structure.pop("kept", {}), where)
    scheme, float_layers = _quantization(quantization, where)
    try:
        net = trial.build(family, config)
        trial.check_samples(family, net.config)  # type: ignore[arg-type]
    except ValueError as error:
        raise CheckpointError(f"{source.model / 'config.json'}: {error}") from None
    structures.apply(net, family, structures.check(structure, str(where)), str(where))
    for tap, (_, writer) in family.stages(net).items():
        if len(kept.get(tap, ())) > net.get_submodule(writer).weight.shape[0]:  # type: ignore[index]
            raise CheckpointError(f"{where}: kept {_DAMAGED}")
    model = Denoiser(
        net=net,
        family=family,
        sampling=_sampling(source, options or SamplingOptions(), guidance),
        scheduler=(options and options.scheduler) or (_json(source.scheduler) if source.scheduler else {}),
        null_embedding=_null_embedding(source) if null_embedding is None else null_embedding,
        kept=kept,
    )
    fault = guidance_fault(model) if guidance is None else None
    if fault is not None:
        raise CheckpointError(f"{source.root / 'sampling.json'}: guidance{fault}")
    weights.fill(net, family.renamed, source.weights, source.model, allow_pickle)
    net.eval().requires_grad_(False)
    try:
        trial.run(model)
    except ValueError as error:
        raise CheckpointError(f"{where if structure else source.model / 'config.json'}: {error}") from None
    if model.sampling.guidance.kind == "classifier" and guidance is None:
        found = noise_classifier.load(source.root / CLASSIFIER, model.sample_shape, model.classes, allow_pickle)
        model = dataclasses.replace(model, classifier=found)
    return model if scheme is None else _quantized(model, scheme, float_layers, source)


def save(model: Denoiser, folder: Path) -> None:
    """Write a model folder that `load` gives back exactly.

    diffusers reads it too where config.json says all of the net; where it does not, diffusers finds no weights.
    """
    own = folder / model.family.folder
    own.mkdir(parents=True, exist_ok=True)
    structure: dict[str, Any] = dict(_structure(model.net, model.family))
    model.net.save_config(own)  # type: ignore[operator]
    name = OWN_WEIGHTS if structure else f"{STOCK_WEIGHTS}.safetensors"
    weights.save(model.net.state_dict(), own / name)
    if model.kept:
        structure["kept"] = {tap: list(channels) for tap, channels in model.kept.items()}
    if model.precision is not None:
        structure["quantization"] = {"scheme": model.scheme, "float_layers": list(model.precision.float_layers)}
        if model.precision.ranges:
            weights.save(model.precision.ranges, folder / "quantization.safetensors")
    if structure:
        _write(folder / "structure.json", structure)
    if model.scheduler:
        (folder / "scheduler").mkdir(exist_ok=True)
        _write(folder / "scheduler" / "scheduler_config.json", dict(model.scheduler))
    if model.classifier is not None:
        torch.jit.save(model.classifier, folder / CLASSIFIER)
    _write(folder / "sampling.json", model.sampling.model_dump())
    if model.null_embedding is not None:
        weights.save({"null_embedding": model.null_embedding}, folder / "null_embedding.safetensors")


def _structure(net: nn.Module, family: Family) -> structures.Structure:
    """What the net's config does not say about it."""
    config: dict[str, Any] = dict(net.config)  # type: ignore[arg-type]
    with torch.device("meta"):
        return structures.describe(net, family.build(config), family)


def _family(config: Mapping[str, Any], where: Path) -> Family:
    name = config.get("_class_name")
    family = FAMILIES.get(str(name))
    if family is None:
        raise CheckpointError(
            f"{where}: architecture {str(name)[:100]} is not supported; supported: {', '.join(FAMILIES)}"
        )
    reason = family.refuse(config)
    if reason:
        raise CheckpointError(f"{where / 'config.json'}: {reason}")
    return family


def _kept(content: Any, where: Path) -> dict[str, tuple[int, ...]]:
    """Surviving channels of each stage."""
    lists = list(content.values()) if isinstance(content, dict) else [None]
    if not all(isinstance(channels, list) and all(type(i) is int and i >= 0 for i in channels) for channels in lists):
        raise CheckpointError(f"{where}: kept {_DAMAGED}")
    return {tap: tuple(channels) for tap, channels in content.items()}


def _quantization(content: Any, where: Path) -> tuple[str | None, tuple[str, ...]]:
    """(scheme, layers left in float) of a quantized model; (None, ()) of a float one."""
    if content is None:
        return None, ()
    scheme, layers = (content.get("scheme"), content.get("float_layers")) if isinstance(content, dict) else (None, None)
    known = [name for name in SCHEMES if name != "float"]
    if isinstance(content, dict) and "scheme" in content and scheme not in known:
        raise CheckpointError(f"{where}: quantization {str(scheme)[:40]!r} is unknown; known: {', '.join(known)}")
    if scheme is None or not isinstance(layers, list) or not all(isinstance(pattern, str) for pattern in layers):
        raise CheckpointError(f"{where}: quantization {_DAMAGED}")
    return scheme, tuple(layers)


def _quantized(model: Denoiser, scheme: str, float_layers: tuple[str, ...], source: Source) -> Denoiser:
    from compress.quantization import quantized  # brings torchao, which only quantized models need

    file = source.root / "quantization.safetensors"
    ranges = weights.load(file) if file in source.files else {}
    for name, limits in ranges.items():
        if limits.ndim != 2 or len(limits) != 2 or bool((limits[0] > limits[1]).any()):
            raise CheckpointError(
                f"{file}: {name} holds no ranges, lowest and highest values; quantize the model again"
            )
    try:
        return quantized.rebuild(model, scheme, ranges, float_layers)
    except (ValueError, RuntimeError, IndexError) as error:  # of as many channels as the net does not have
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{source.root}: {reason}; quantize the model again") from None


def _null_embedding(source: Source) -> torch.Tensor | None:
    file = source.root / "null_embedding.safetensors"
    if file not in source.files:
        return None
    found = weights.load(file)
    if set(found) != {"null_embedding"} or found["null_embedding"].ndim > 2:
        raise CheckpointError(f"{file}: holds no null_embedding; save the model again")
    return found["null_embedding"]


def _sampling(source: Source, options: SamplingOptions, guidance: Guidance | None) -> Sampling:
    own = source.root / "sampling.json"
    saved = None
    where = own
    try:
        if own in source.files:
            saved = Sampling.model_validate(_json(own))
        if saved is not None and options == SamplingOptions():
            sampling = saved
        else:
            config = options.scheduler or (_json(source.scheduler) if source.scheduler else None)
            if config is None:
                raise CheckpointError(
                    f"{source.root}: has no scheduler/scheduler_config.json, so its noise schedule and prediction type "
                    "are unknown; add that file, or write them under `sampling: {scheduler: …}` in the recipe"
                )
            where = source.scheduler or source.root
            sampling = from_scheduler_config(config, options)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'sampling'}: {fault['msg']}" for fault in error.errors()]
        raise CheckpointError(f"{where}: {'; '.join(faults[:3])}") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{where}: {error}") from None
    guidance = guidance or (saved.guidance if saved else None)
    return sampling.model_copy(update={"guidance": guidance}) if guidance else sampling


def _json(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except Unreadable as error:
        raise CheckpointError(f"{file}: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: should hold a JSON object")
    return content


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
