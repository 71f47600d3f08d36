"""Reading and writing model folders: diffusers' own format, plus `structure.json` and `sampling.json`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from compress.data import key
from compress.diffusion.sampling import Guidance, Sampling
from compress.diffusion.schedulers import SamplingOptions, StepsFault, from_scheduler_config
from compress.errors import CheckpointError
from compress.families.family import Family
from compress.files import write_json
from compress.model import noise_classifier, scalars, trial
from compress.model import structure as structures
from compress.model.denoiser import Denoiser
from compress.pipeline import weights
from compress.pipeline.source import Source, build, locate, read_object
from compress.pipeline.variants import CLASSIFIER, OWN_WEIGHTS, STOCK_WEIGHTS
from compress.runtime.schemes import SCHEMES
from compress.settings import plain

_DAMAGED = "is damaged; save the model again"


def load(
    reference: str | Path,
    allow_pickle: bool = False,
    options: SamplingOptions | None = None,
    guidance: Guidance | None = None,
    null: Mapping[str, torch.Tensor] | None = None,
) -> Denoiser:
    """Read a model folder, strictly: every weight is used, none is missing, shapes agree, all are finite.

    options, guidance, null: instead of what the folder says. allow_pickle: read pickled weights, and run a
    classifier. Float weights are held in float32. Raises CheckpointError.
    """
    source = locate(reference)
    family, net = build(read_object(source.model / "config.json"), str(source.model))
    where = source.root / "structure.json"
    structure = read_object(where) if where in source.files else {}
    quantization, kept = structure.pop("quantization", None), _kept(structure.pop("kept", {}), where)
    scheme, float_layers = _quantization(quantization, where)
    structures.apply(net, family, structure, str(where))
    for tap, (_, writer) in family.stages(net).items():
        if len(kept.get(tap, ())) > net.get_submodule(writer).weight.shape[0]:  # type: ignore[index]
            raise CheckpointError(f"{where}: kept {_DAMAGED}")
    scheduler = (options and options.scheduler) or (read_object(source.scheduler) if source.scheduler else {})
    model = Denoiser(
        net=net,
        family=family,
        sampling=_sampling(source, scheduler, options or SamplingOptions(), guidance),
        scheduler=scheduler,
        null=_null(source, net, family) if null is None else null,
        kept=kept,
    )
    fault = guidance_fault(model) if guidance is None else None
    if fault is not None:
        raise CheckpointError(f"{source.root / 'sampling.json'}: guidance{fault}")
    weights.fill(net, family.renamed, source.weights, source.model, allow_pickle)
    family.tables(net)
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
    with torch.device("meta"):
        stock = model.family.build(model.config)
    structure: dict[str, Any] = dict(structures.describe(model.net, stock, model.family))
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
        write_json(folder / "structure.json", structure)
    if model.scheduler:
        (folder / "scheduler").mkdir(exist_ok=True)
        write_json(folder / "scheduler" / "scheduler_config.json", dict(model.scheduler))
    if model.classifier is not None:
        torch.jit.save(model.classifier, folder / CLASSIFIER)
    write_json(folder / "sampling.json", model.sampling.model_dump())
    if model.null:
        weights.save(model.null, folder / "null_embedding.safetensors")


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
    given = content if isinstance(content, dict) else {}
    scheme, layers = given.get("scheme"), given.get("float_layers")
    known = [name for name in SCHEMES if name != "float"]
    if "scheme" in given and scheme not in known:
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
            reason = "holds no ranges, lowest and highest values; quantize the model again"
            raise CheckpointError(f"{file}: {name} {reason}")
    try:
        return quantized.rebuild(model, scheme, ranges, float_layers)
    except (ValueError, RuntimeError, IndexError) as error:  # of as many channels as the net does not have
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{source.root}: {reason}; quantize the model again") from None


def _null(source: Source, net: nn.Module, family: Family) -> dict[str, torch.Tensor]:
    file = source.root / "null_embedding.safetensors"
    if file not in source.files:
        return {}
    found = weights.load(file)
    shapes = {name: one.shape for name, one in family.conditions(net, 1).items() if one.dropped}
    if set(found) != set(shapes) or any(len(found[name].shape) != len(shape) for name, shape in shapes.items()):
        raise CheckpointError(f"{file}: holds no null {' and '.join(shapes) or 'embedding'}; save the model again")
    return found


def guidance_fault(model: Denoiser) -> str | None:
    """What is wrong with the guidance of a model, to be written behind its name; None: nothing."""
    guidance, count = model.sampling.guidance, model.family.classes(model.net)
    if guidance.null_class is not None and (count is None or not 0 <= guidance.null_class < count):
        has = "takes no class labels" if count is None else f"has the labels 0…{count - 1}"
        return f".null_class: {guidance.null_class}, but the model {has}"
    if guidance.kind == "classifier" and list(model.conditions) != ["class_labels"]:
        return ".classifier: needs a model with class labels alone"
    if guidance.kind == "embedded" and scalars.GUIDANCE_SCALE not in model.inputs:
        return ".kind: embedded, but the model takes no guidance scale"
    if guidance.online and scalars.GUIDANCE_SCALE in model.family.told(model.net):
        return ": the model takes the guidance scale as an input; give embedded: true"
    if guidance.kind != "cfg" or guidance.null_class is not None:
        return None
    if not model.dropped:
        without = "unconditional and cannot be guided; remove guidance"
        return f": the model is {without if count is None else 'class-conditional; give null_class'}"
    for name in model.dropped:
        wanted = model.conditions[name].shape
        found = tuple(model.null[name].shape) if name in model.null else None
        if found != wanted:
            shape = ["tokens", wanted[1]] if len(wanted) == 2 else list(wanted)
            which = "" if len(model.dropped) == 1 else f"{key(name)} "
            return f".null_embedding: {which}should be [{', '.join(map(str, shape))}]; got {found}"
    return None


def _sampling(
    source: Source, scheduler: dict[str, Any], options: SamplingOptions, guidance: Guidance | None
) -> Sampling:
    own = source.root / "sampling.json"
    where = own
    try:
        sampling = saved = Sampling.model_validate(read_object(own)) if own in source.files else None
        if sampling is None or options != SamplingOptions():
            where = source.scheduler or source.root
            if not scheduler:
                raise CheckpointError(
                    f"{source.root}: has no scheduler/scheduler_config.json, so its noise schedule and prediction type "
                    "are unknown; add that file, or write them under `sampling: {scheduler: …}` in the recipe"
                )
            sampling = from_scheduler_config(scheduler, options)
    except ValidationError as error:
        raise CheckpointError(f"{where}: {plain(error)}") from None
    except StepsFault as error:  # of what the recipe asks, or else of the solver's usual number
        raise CheckpointError(f"sampling.steps: {error}, of {where}; set it in the recipe") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{where}: {error}") from None
    guidance = guidance or (saved.guidance if saved else None)
    return sampling.model_copy(update={"guidance": guidance}) if guidance else sampling
