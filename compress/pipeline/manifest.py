"""What a `bundle.json` says of a model: the writing side of `runtime.manifest`."""

from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from compress import __version__
from compress.data import key
from compress.diffusion.sampling import Sampling
from compress.files import copy, sha256, write_json
from compress.folders import MARK
from compress.model.denoiser import Denoiser, example_inputs
from compress.runtime import Bundle
from compress.runtime.contents import write_scripts
from compress.runtime.external import external_files
from compress.runtime.manifest import FORMAT

MODEL, NULL = "denoiser.onnx", "null_{}.npy"


def input_names(model: Denoiser) -> list[str]:
    """What the exported graph takes, in order."""
    return ["sample", "timestep", *model.inputs]


def sampling_of(model: Denoiser) -> dict[str, Any]:
    """How the model is drawn from: `sampling` of a bundle.json."""
    sampling = model.sampling
    guidance: dict[str, Any] = sampling.guidance.model_dump(include={"kind", "scale"})
    if sampling.guidance.scales is not None:
        guidance["scales"] = sampling.guidance.scales
    if sampling.guidance.kind != "none":  # of a net that takes no null condition: what its teacher took
        label = sampling.guidance.null_class
        if label is not None or model.null:
            guidance["null"] = {name: NULL.format(key(name)) if label is None else label for name in model.dropped}
    return {
        "solver": sampling.solver,
        "prediction_type": sampling.prediction_type,
        "steps": _table(sampling),
        "clip_range": sampling.clip_range,
        "distilled": sampling.distilled,
        "levels": dict(zip(("alpha", "sigma"), sampling.levels(), strict=True)),
        "guidance": guidance,
        "others": [_table(sampling.at(len(other))) for other in sampling.others],
    }


def write_manifest(folder: Path, model: Denoiser, batch: int | None, about: Mapping[str, Any]) -> None:
    """Describe the model whose graphs lie in a folder, and vouch for all files there.

    batch: the fixed size that it was exported for. about: what the model itself does not know: `name`, `params`, `macs`
    and, where there is any, `model`, `sampler`, `timesteps`, `data`, `teacher_sampling`, `text`, `decoder`,
    `encoder`.
    """
    sampling = sampling_of(model)
    for name, value in sampling["guidance"].get("null", {}).items():
        if isinstance(value, str):
            np.save(folder / value, model.null[name].cpu().numpy())
    write_scripts(folder, texts=bool(about.get("text")))
    size = batch or "batch"
    manifest = {
        "format": FORMAT,
        "name": None,
        "model": MODEL,
        "sampler": None,
        "scheme": model.scheme,
        "batch": batch,
        "inputs": {
            name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": [size, *tensor.shape[1:]]}
            for name, tensor in zip(input_names(model), example_inputs(model, 1), strict=True)
        },
        "outputs": {"out_sample": {"dtype": "float32", "shape": [size, *model.sample_shape]}},
        "timesteps": None,
        "classes": model.classes,
        "params": None,
        "macs": None,
        "sampling": sampling,
        "data": None,
        "teacher_sampling": {},
        "made_by": f"compress {__version__}",
    }
    vouch(folder, manifest | dict(about))


def vouch(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the bundle.json of a folder that has none, with the hash of every file there."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARK
    }
    write_json(folder / "bundle.json", {**manifest, "files": files})


def copy_bundle(bundle: Bundle, folder: Path, without: Collection[str] = ()) -> None:
    """Fill a folder with the files that a bundle lists, bundle.json left out, and what is named with its weights."""
    beside = {
        str(PurePosixPath(name).with_name(file)) for name in without for file in external_files(bundle.path / name)
    }
    for name in bundle.manifest["files"].keys() - {*without, *beside}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(bundle.path / name, folder / name)


def _table(sampling: Sampling) -> list[dict[str, float]]:
    """The solver's steps; what few solvers have is left out where it is 0."""
    steps = map(vars, sampling.steps())
    return [{name: value for name, value in step.items() if value or name != "next_from_earlier"} for step in steps]
