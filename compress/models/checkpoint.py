"""Reading and writing model folders: diffusers' own format, plus `structure.json` and `sampling.json`."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from compress.diffusion.sampling import Guidance, Sampling, SamplingOptions, from_scheduler_config
from compress.errors import CheckpointError
from compress.models import noise_classifier
from compress.models import structure as structures
from compress.models.denoiser import SCHEMES, AnyDenoiser, Denoiser, QuantizedDenoiser
from compress.models.families import FAMILIES
from compress.models.family import Family

_CLASSIFIER = "classifier.pt"
_WEIGHTS = "diffusion_pytorch_model"
# Attention weights of checkpoints written before diffusers 0.15.
_RENAMED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


@dataclass(frozen=True)
class Source:
    """The parts of a model folder. root: the folder; model: where the net's config and weights lie."""

    root: Path
    model: Path
    scheduler: Path | None


def locate(reference: str | Path) -> Source:
    """Find the model folder that a path or a hub id ("owner/name") means.

    Raises CheckpointError if it is neither a diffusers pipeline with a U-Net nor a bare model folder.
    """
    root = Path(reference)
    if not root.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(reference)):
        root = _download(str(reference))
    if not root.is_dir():
        raise CheckpointError(f"{reference}: no such folder; give a diffusers model folder or a hub id (owner/name)")
    model = root / "unet" if (root / "unet").is_dir() else root
    if not (model / "config.json").is_file():
        inside = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
        raise CheckpointError(
            f"{root}: is no diffusers checkpoint: neither unet/config.json nor config.json (found: {inside}); "
            f"supported models: {', '.join(FAMILIES)}"
        )
    places = (root / "scheduler" / "scheduler_config.json", root / "scheduler_config.json")
    return Source(root, model, next((place for place in places if place.is_file()), None))


def load(
    reference: str | Path,
    allow_pickle: bool = False,
    options: SamplingOptions | None = None,
    guidance: Guidance | None = None,
    null_embedding: torch.Tensor | None = None,
) -> AnyDenoiser:
    """Read a model folder, strictly: every weight is used, none is missing, shapes agree, all are finite.

    options, guidance, null_embedding: instead of what the folder says. Float weights are held in
    float32. Raises CheckpointError.
    """
    source = locate(reference)
    config = _json(source.model / "config.json")
    family = _family(config, source.model)
    with torch.device("meta"):
        try:
            net = family.build(config)
        except Exception as error:  # a config can be wrong in more ways than diffusers names
            raise CheckpointError(f"{source.model / 'config.json'}: {family.name} cannot be built: {error}") from None
    structure = _json(source.root / "structure.json") if (source.root / "structure.json").is_file() else {}
    quantization, kept = structure.pop("quantization", None), structure.pop("kept", {})
    where = str(source.root / "structure.json")
    if isinstance(quantization, dict) and quantization.get("scheme") not in SCHEMES:
        known = ", ".join(SCHEMES)
        raise CheckpointError(f"{where}: quantization {quantization.get('scheme')!r} is unknown; known: {known}")
    lists = list(kept.values()) if isinstance(kept, dict) else [None]
    if not all(isinstance(channels, list) and all(isinstance(i, int) for i in channels) for channels in lists):
        raise CheckpointError(f"{where}: is damaged; save the model again")
    structures.apply(net, structures.check(structure, where), where)
    _fill(net, _read_weights(source.model, allow_pickle), source.model)
    net.eval().requires_grad_(False)
    null = source.root / "null_embedding.safetensors"
    if null_embedding is None and null.is_file():
        null_embedding = _load_file(null).get("null_embedding")
        if null_embedding is None:
            raise CheckpointError(f"{null}: holds no null_embedding; save the model again")
    model = Denoiser(
        net=net,
        family=family,
        sampling=_sampling(source, options or SamplingOptions(), guidance),
        scheduler=(options and options.scheduler) or (_json(source.scheduler) if source.scheduler else {}),
        null_embedding=null_embedding,
        kept={tap: tuple(channels) for tap, channels in kept.items()},
    )
    if model.sampling.guidance.kind == "classifier" and guidance is None:
        found = noise_classifier.load(source.root / _CLASSIFIER, model.sample_shape, model.classes)
        model = dataclasses.replace(model, classifier=found)
    if quantization is None:
        return model
    from compress.models import quantized  # brings torchao, which only quantized models need

    ranges = source.root / "quantization.safetensors"
    try:
        scheme, float_layers = str(quantization["scheme"]), tuple(map(str, quantization["float_layers"]))
    except (TypeError, KeyError):
        raise CheckpointError(f"{where}: is damaged; save the model again") from None
    try:
        return quantized.rebuild(model, scheme, _load_file(ranges) if ranges.is_file() else {}, float_layers)
    except ValueError as error:
        raise CheckpointError(f"{source.root}: {error}; quantize the model again") from None


def save(model: AnyDenoiser, folder: Path) -> None:
    """Write a model folder that `load` gives back exactly; diffusers too, where the widths are those of the config."""
    source = model.source if isinstance(model, QuantizedDenoiser) else model
    folder.mkdir(parents=True, exist_ok=True)
    structure: dict[str, Any] = dict(_structure(source.net, source.family))
    source.net.save_pretrained(folder / "unet")  # type: ignore[operator]
    if source.kept:
        structure["kept"] = {tap: list(channels) for tap, channels in source.kept.items()}
    if isinstance(model, QuantizedDenoiser):
        structure["quantization"] = {"scheme": model.scheme, "float_layers": list(model.float_layers)}
        if model.ranges:
            save_file(
                {name: tensor.contiguous() for name, tensor in model.ranges.items()},
                folder / "quantization.safetensors",
            )
    if structure:
        _write(folder / "structure.json", structure)
    if source.scheduler:
        (folder / "scheduler").mkdir(exist_ok=True)
        _write(folder / "scheduler" / "scheduler_config.json", dict(source.scheduler))
    if source.classifier is not None:
        torch.jit.save(source.classifier, folder / _CLASSIFIER)
    _write(folder / "sampling.json", source.sampling.model_dump())
    if source.null_embedding is not None:
        save_file({"null_embedding": source.null_embedding.contiguous()}, folder / "null_embedding.safetensors")


def _structure(net: nn.Module, family: Family) -> structures.Structure:
    """What the net's config does not say about it."""
    config: dict[str, Any] = dict(net.config)  # type: ignore[arg-type]
    with torch.device("meta"):
        return structures.describe(net, family.build(config))


def _download(name: str) -> Path:
    try:
        return Path(
            snapshot_download(
                name, allow_patterns=["unet/*", "scheduler/*", "config.json", "scheduler_config.json", "*.safetensors"]
            )
        )
    except Exception as error:  # the hub client raises many kinds; all mean that there is no checkpoint
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{name}: is no folder here and could not be downloaded: {reason}") from None


def _family(config: Mapping[str, Any], where: Path) -> Family:
    name = config.get("_class_name")
    family = FAMILIES.get(str(name))
    if family is None:
        raise CheckpointError(f"{where}: architecture {name} is not supported; supported: {', '.join(FAMILIES)}")
    reason = family.refuse(config)
    if reason:
        raise CheckpointError(f"{where / 'config.json'}: {reason}")
    return family


def _sampling(source: Source, options: SamplingOptions, guidance: Guidance | None) -> Sampling:
    own = source.root / "sampling.json"
    saved = None
    where = own
    try:
        if own.is_file():
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
    except (ValueError, TypeError) as error:  # pydantic's ValidationError is one
        raise CheckpointError(f"{where}: {error}") from None
    guidance = guidance or (saved.guidance if saved else None)
    return sampling.model_copy(update={"guidance": guidance}) if guidance else sampling


def _read_weights(folder: Path, allow_pickle: bool) -> dict[str, torch.Tensor]:
    index = folder / f"{_WEIGHTS}.safetensors.index.json"
    if index.is_file():
        names = _json(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise CheckpointError(f"{index}: is damaged; copy or download it again")
        names = sorted(set(names.values()))
        if any(Path(name).name != name for name in names):
            raise CheckpointError(f"{index}: names a file outside its folder")
        files = [folder / name for name in names]
    else:
        files = sorted(folder.glob(f"{_WEIGHTS}.safetensors")) or sorted(folder.glob(f"{_WEIGHTS}.*.safetensors"))[:1]
    pickled = sorted(p for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
    if files:
        tensors: dict[str, torch.Tensor] = {}
        for file in files:
            tensors |= _load_file(file)
        return tensors
    if not pickled:
        raise CheckpointError(f"{folder}: holds no weights ({_WEIGHTS}.safetensors)")
    if not allow_pickle:
        raise CheckpointError(
            f"{pickled[0]}: is a pickle, which can run code when it is opened; convert it to safetensors, or pass "
            "--allow-pickle if you trust where it comes from (only plain tensors are then read from it)"
        )
    try:
        loaded = torch.load(pickled[0], map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{pickled[0]}: cannot be read as plain tensors: {reason}") from None
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise CheckpointError(f"{pickled[0]}: holds something else than a dictionary of tensors")
    return loaded


def _load_file(file: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            # copied, because tensors of a mapped file lie anywhere, and kernels round by where they lie
            return {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file}: is missing, truncated or damaged ({error}); copy or download it again"
        ) from None


def _fill(net: nn.Module, tensors: dict[str, torch.Tensor], where: Path) -> None:
    wanted = net.state_dict()
    tensors = {_current(name, wanted): tensor for name, tensor in tensors.items()}
    faults = [f"missing {name}" for name in wanted if name not in tensors]
    faults += [f"unknown {name}" for name in tensors if name not in wanted]
    for name, tensor in tensors.items():
        shape = list(wanted[name].shape) if name in wanted else None
        if shape is not None and shape != list(tensor.shape):
            faults.append(f"{name} is {list(tensor.shape)} and should be {shape}")
        elif tensor.is_floating_point() and not torch.isfinite(tensor).all():
            faults.append(f"{name} holds NaN or infinity")
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CheckpointError(f"{where}: weights are not what config.json asks for: {'; '.join(faults[:3])}{more}")
    net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)


def _current(name: str, wanted: Mapping[str, Any]) -> str:
    if name not in wanted:
        for old, new in _RENAMED.items():
            if old in name and name.replace(old, new) in wanted:
                return name.replace(old, new)
    return name


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: should hold a JSON object")
    return content


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
