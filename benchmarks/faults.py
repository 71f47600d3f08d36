"""Faults to inject into good students: what a verifier must catch. Each is determined by its seed.

of the file      weights_noised, quantizer_saturated        the ONNX graph is changed
of the sampling  guidance_off, timesteps_swapped            bundle.json is changed
of the samples   class_dropped, mode_collapse, memorised    what a broken student would draw, from good samples
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from compress.files import sha256, write_json
from compress.runtime import Bundle

GUIDANCE = 0.5  # how far the guidance scale is off
SATURATION = 8.0  # by how much too small the range of an activation is
NOISE = 1.0  # standard deviation of the noise on one layer's weights, in those of the weights
MODES = 3  # different images of each class after a collapse

# figures one of which must be among the failed ones, for a verdict that names the right culprit
BLAME: dict[str, tuple[str, ...]] = {
    "class_dropped": ("class_agreement", "class_accuracy"),
    "guidance_off": ("guidance_ratio",),
    "quantizer_saturated": ("kernel_loss", "output_error", "worst_timestep_error", "psnr"),
    "timesteps_swapped": ("sampling_error",),
    "weights_noised": ("kernel_loss", "output_error", "worst_timestep_error", "psnr"),
    "mode_collapse": ("class_variance", "vendi", "coverage"),
    "memorised": ("memorised",),
}


def changed(bundle: Bundle, folder: Path, change: Callable[[dict[str, Any], onnx.ModelProto], None]) -> Bundle:
    """A copy of a bundle in `folder` with its manifest and graph changed, its hashes made right again."""
    shutil.copytree(bundle.path, folder)
    manifest = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    file = folder / manifest["model"]
    model = onnx.load(file)
    change(manifest, model)
    onnx.save(model, file)
    manifest["files"][manifest["model"]] = {"sha256": sha256(file), "bytes": file.stat().st_size}
    write_json(folder / "bundle.json", manifest)
    return Bundle(folder, threads=1)


def guidance_off(bundle: Bundle, folder: Path, seed: int) -> Bundle:
    """The guidance scale is 0.5 too large, or too small."""
    scale = bundle.guidance["scale"] + (GUIDANCE if seed % 2 else -GUIDANCE)
    return changed(bundle, folder, lambda manifest, _: manifest["sampling"]["guidance"].update(scale=scale))


def timesteps_swapped(bundle: Bundle, folder: Path, seed: int) -> Bundle:
    """Two neighbouring timesteps of the sampler's table are swapped."""

    def swap(manifest: dict[str, Any], _: onnx.ModelProto) -> None:
        steps = manifest["sampling"]["steps"]
        first = int(np.random.default_rng(seed).integers(len(steps) - 1))
        one, two = steps[first], steps[first + 1]
        one["timestep"], two["timestep"] = two["timestep"], one["timestep"]

    return changed(bundle, folder, swap)


def weights_noised(bundle: Bundle, folder: Path, seed: int) -> Bundle:
    """The weights of one convolution or product carry noise as strong as themselves."""

    def noise(_: dict[str, Any], model: onnx.ModelProto) -> None:
        random = np.random.default_rng(seed)
        weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) >= 2 and np.prod(tensor.dims) > 500]
        chosen = weights[int(random.integers(len(weights)))]
        values = numpy_helper.to_array(chosen)
        noised = values + NOISE * values.std() * random.standard_normal(values.shape)
        if np.issubdtype(values.dtype, np.integer):
            limits = np.iinfo(values.dtype)
            noised = np.clip(np.rint(noised), limits.min, limits.max)
        chosen.CopyFrom(numpy_helper.from_array(noised.astype(values.dtype), chosen.name))

    return changed(bundle, folder, noise)


def quantizer_saturated(bundle: Bundle, folder: Path, seed: int) -> Bundle:
    """The range of one quantized activation is an eighth of what it should be. Raises ValueError for a float bundle."""

    def saturate(_: dict[str, Any], model: onnx.ModelProto) -> None:
        scales = {tensor.name: tensor for tensor in model.graph.initializer}
        quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[1] in scales]
        if not quantizers:
            raise ValueError(f"{bundle.path}: has no quantized activations")
        chosen = quantizers[int(np.random.default_rng(seed).integers(len(quantizers)))]
        readers = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == chosen.output[0]]
        smaller = numpy_helper.to_array(scales[chosen.input[1]]) / np.float32(SATURATION)
        name = f"{chosen.input[1]}.saturated"
        model.graph.initializer.append(numpy_helper.from_array(smaller, name))
        for node in (chosen, *readers):  # a scale may be shared with other quantizers, so they get one of their own
            node.input[1] = name

    return changed(bundle, folder, saturate)


def class_dropped(samples: np.ndarray, labels: np.ndarray, training: np.ndarray, seed: int) -> np.ndarray:
    """Asked for one class, the student draws the next."""
    dropped = int(np.random.default_rng(seed).integers(labels.max() + 1))
    instead = np.flatnonzero(labels == (dropped + 1) % (labels.max() + 1))
    found = samples.copy()
    places = np.flatnonzero(labels == dropped)
    found[places] = samples[np.resize(instead, len(places))]
    return found


def mode_collapse(samples: np.ndarray, labels: np.ndarray, training: np.ndarray, seed: int) -> np.ndarray:
    """Of every class the student knows a few images alone."""
    random = np.random.default_rng(seed)
    found = samples.copy()
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        found[places] = samples[random.choice(random.choice(places, MODES, replace=False), len(places))]
    return found


def memorised(samples: np.ndarray, labels: np.ndarray, training: np.ndarray, seed: int) -> np.ndarray:
    """Every sample is the training image that it is nearest to, with a little noise."""
    flat, known = samples.reshape(len(samples), -1), training.reshape(len(training), -1)
    distances = np.square(flat).sum(1)[:, None] - 2 * flat @ known.T + np.square(known).sum(1)
    noise = 0.01 * np.random.default_rng(seed).standard_normal(samples.shape)
    return (training[distances.argmin(axis=1)] + noise).astype(np.float32)


OF_BUNDLE: Mapping[str, Callable[[Bundle, Path, int], Bundle]] = {
    "guidance_off": guidance_off,
    "timesteps_swapped": timesteps_swapped,
    "weights_noised": weights_noised,
    "quantizer_saturated": quantizer_saturated,
}
OF_SAMPLES: Mapping[str, Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]] = {
    "class_dropped": class_dropped,
    "mode_collapse": mode_collapse,
    "memorised": memorised,
}
