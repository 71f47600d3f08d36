"""A bundle on the device: `bundle.json` and ONNX files, run with numpy and onnxruntime alone."""

import copy
import math
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from compress.errors import BundleError
from compress.runtime.adaptive import Grid, solve_adaptively
from compress.runtime.manifest import read_manifest, verify_files
from compress.runtime.sampling import Step, classifier_free_guidance, solve
from compress.runtime.schemes import SCHEMES
from compress.runtime.signature import Specs, check_signature

SCALARS = ("guidance_scale", "steps")  # inputs that sampling sets


class Bundle:
    """An exported denoiser and everything needed to draw a sample from it.

    Bundle(path).sample(noise, class_labels=labels) returns images [b,c,h,w] in [-1, 1].
    Raises BundleError if the folder is no bundle, a file is missing or damaged, or the format is newer.
    """

    def __init__(self, path: str | Path, threads: int | None = None, check_hashes: bool = True) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        verify_files(self.path, self.manifest, check_hashes)
        self.inputs: dict[str, dict[str, Any]] = self.manifest["inputs"]
        self.sample_shape: tuple[int, ...] = tuple(self.inputs["sample"]["shape"][1:])
        self.batch: int | None = self.manifest["batch"]
        self.timesteps: list[float] | None = self.manifest.get("timesteps")  # at which it answers; None: at any
        sampling = self.manifest["sampling"]
        self.steps = [Step(**step) for step in sampling["steps"]]
        others = [[Step(**step) for step in steps] for steps in sampling.get("others", [])]
        self.served = {len(steps): steps for steps in (self.steps, *others)}
        self.clip_range: float | None = sampling["clip_range"]
        self.guidance: dict[str, Any] = sampling["guidance"]
        self.null = {name: self._null(name, value) for name, value in self.guidance.get("null", {}).items()}
        self.threads = threads
        self.image: dict[str, Any] = next(iter(self.manifest.get("outputs", {}).values()), self.inputs["sample"])
        self.session = self._open(self.manifest["model"], self.inputs, "out_sample")

    def _open(self, name: str, inputs: Specs, output: str) -> onnxruntime.InferenceSession:
        """A session of one of the bundle's graphs. Raises BundleError unless it takes and gives what was exported."""
        session = open_session(self.path / name, self.threads, self.manifest.get("scheme", ""))
        check_signature(self.path / name, session, inputs, {output: self.image})
        return session

    def _run(self, session: onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        try:
            return np.asarray(session.run(None, feeds)[0])
        except Exception as error:  # onnxruntime raises its own, undocumented exception types
            raise BundleError(f"{self.path}: onnxruntime cannot run it: {str(error).splitlines()[0]}") from error

    @property
    def size_bytes(self) -> int:
        """Bytes that a device needs to draw samples: weights beside a graph included, `bundle.json` left out.

        Where there are two ways, step by step or the sampler in one graph, each holds all weights and one is enough:
        those of the larger.
        """
        sizes = {name: int(entry["bytes"]) for name, entry in self.manifest["files"].items()}
        own = Path(self.manifest.get("sampler") or "").stem  # of sampler.onnx and the weights beside it
        at_once = sum(size for name, size in sizes.items() if Path(name).stem == own)
        return max(at_once, sum(sizes.values()) - at_once)

    def at_scale(self, scale: float) -> "Bundle":
        """The same bundle with another guidance scale (diffusers' convention). Raises BundleError if it has none."""
        if self.guidance["kind"] == "none":
            raise BundleError(f"{self.path}: is not guided, so it has no guidance scale")
        if self.guidance["kind"] == "baked" and scale != self.guidance["scale"]:
            raise BundleError(f"{self.path}: was distilled for the guidance scale {self.guidance['scale']} alone")
        if not math.isfinite(scale):
            raise BundleError(f"{self.path}: the guidance scale should be a finite number; got {scale}")
        low, high = self.guidance.get("scales", (-np.inf, np.inf))
        if not low <= scale <= high:
            raise BundleError(f"{self.path}: was distilled for guidance scales {low} … {high}; got {scale}")
        other = copy.copy(self)
        other.guidance = {**self.guidance, "scale": scale}
        return other

    def at_steps(self, count: int) -> "Bundle":
        """The same bundle in another number of steps. Raises BundleError if it does not serve that number."""
        if count not in self.served:
            known = ", ".join(map(str, sorted(self.served)))
            raise BundleError(f"{self.path}: serves {known} steps, not {count}")
        other = copy.copy(self)
        other.steps = self.served[count]
        return other

    @property
    def conditions(self) -> tuple[str, ...]:
        """The inputs that a sample is drawn for."""
        return tuple(name for name in self.inputs if name not in ("sample", "timestep", *SCALARS))

    def example(self, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Zeros of the right shapes and types: (sample [count,c,h,w], conditions)."""
        given = {
            name: np.zeros([count, *self.inputs[name]["shape"][1:]], self.inputs[name]["dtype"])
            for name in ("sample", *self.conditions)
        }
        return given.pop("sample"), given

    def _null(self, name: str, value: int | str) -> np.ndarray:
        """A null condition: a class number, or what an .npy file beside the manifest holds."""
        if isinstance(value, int):
            return np.asarray(value)
        file = self.path / value
        try:
            found = np.array(np.load(file, mmap_mode="r", allow_pickle=False))  # no longer than the file, so
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(f"{file}: cannot be read as .npy: {error}; copy or export it again") from None
        shape = tuple(self.inputs[name]["shape"][1:])
        if found.shape != shape or found.dtype.kind != "f" or not np.isfinite(found).all():
            raise BundleError(
                f"{file}: should hold finite numbers {list(shape)}; got {found.dtype} {list(found.shape)}"
            )
        return found

    def denoise(
        self, sample: np.ndarray, timestep: float | np.ndarray, conditions: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Raw model output [b,c,h,w] for `sample` [b,c,h,w] at one timestep, or at [b], without guidance.

        Raises BundleError for a timestep at which the file does not answer.
        """
        if self.timesteps is not None and not np.isin(timestep, self.timesteps).all():
            raise BundleError(
                f"{self.path}: answers at its own timesteps alone; export it with `timesteps: any` for others than "
                f"{', '.join(map(str, self.timesteps))}"
            )
        count = len(sample)
        scalars = {"guidance_scale": np.full(count, self.guidance["scale"]), "steps": np.full(count, len(self.steps))}
        feeds = {"sample": sample, "timestep": np.broadcast_to(timestep, count), **scalars, **conditions}
        feeds = {name: np.asarray(feeds[name], dtype=spec["dtype"]) for name, spec in self.inputs.items()}
        size = self.batch or len(sample)
        if len(sample) % size:
            raise BundleError(f"{self.path}: was exported for batches of {size}; got {len(sample)} samples")
        parts = [
            self._run(self.session, {name: value[start : start + size] for name, value in feeds.items()})
            for start in range(0, len(sample), size)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def guided(
        self, sample: np.ndarray, timestep: float | np.ndarray, conditions: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Model output [b,c,h,w] with the bundle's own guidance. timestep: one, or [b]."""
        if self.guidance["kind"] != "cfg":
            return self.denoise(sample, timestep, conditions)
        both = {
            name: np.concatenate([value, np.broadcast_to(self.null.get(name, value).astype(value.dtype), value.shape)])
            for name, value in conditions.items()
        }
        times = np.broadcast_to(timestep, len(sample))
        output = self.denoise(np.concatenate([sample, sample]), np.concatenate([times, times]), both)
        conditional, unconditional = np.split(output, 2)
        return classifier_free_guidance(conditional, unconditional, self.guidance["scale"])

    def sample(self, noise: np.ndarray, **conditions: np.ndarray) -> np.ndarray:
        """Clean samples [b,c,h,w], float32, from standard normal `noise` [b,c,h,w].

        conditions: `class_labels` int64 [b], `encoder_hidden_states` float32 [b,tokens,width], `class_embedding`
        float32 [b] or [b,width], whichever the model takes. Raises BundleError for missing or unknown conditions,
        wrong shapes and labels that the model does not have.
        """
        self._check(noise, conditions)
        return solve(
            lambda sample, timestep: self.guided(sample, timestep, conditions),
            noise.astype(np.float32),
            self.steps,
            self.clip_range,
        )

    def sample_adaptively(
        self,
        noise: np.ndarray,
        psnr: float | None = None,
        tolerance: float | None = None,
        milliseconds: float | None = None,
        **conditions: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(clean samples [b,c,h,w], evaluations int64 [b]): as `sample`, with as many steps as each image needs.

        psnr: wanted against `sample`, in dB; the tolerance is then the one that was calibrated for it. tolerance: of
        one step, root mean square in pixels' units; 0 is `sample`. milliseconds: time that the batch may take; alone,
        it sets the steps, and beside a quality it cuts them short.
        Raises BundleError where steps cannot be passed over, or the quality was not calibrated.
        """
        self._check(noise, conditions)
        sampling = self.manifest["sampling"]
        if sampling.get("distilled") or "levels" not in sampling or sampling["solver"] == "unipc":
            why = "its steps were distilled" if sampling.get("distilled") else "it holds no levels; export it again"
            why = "unipc corrects what is behind" if sampling["solver"] == "unipc" else why
            raise BundleError(f"{self.path}: its steps cannot adapt: {why}")
        if self.batch and self.batch > 1:
            raise BundleError(f"{self.path}: steps adapt image by image; export it for any batch size, or for 1")
        for name, asked in (("psnr", psnr), ("tolerance", tolerance), ("milliseconds", milliseconds)):
            if asked is not None and not (0 < asked < math.inf or (name == "tolerance" and asked == 0)):
                raise BundleError(f"{self.path}: {name} should be a positive, finite number; got {asked}")
        if psnr is not None:
            tolerance = self._tolerance(psnr)
        if tolerance is None and milliseconds is None:
            raise BundleError(f"{self.path}: give psnr, tolerance or milliseconds")
        return solve_adaptively(
            lambda sample, times, items: self.guided(sample, times, {n: v[items] for n, v in conditions.items()}),
            noise,
            Grid.read(self.steps, sampling),
            tolerance or 0.0,
            self.clip_range,
            None if milliseconds is None else milliseconds / 1000,
        )

    def _tolerance(self, psnr: float) -> float:
        """The largest calibrated tolerance that keeps the quality."""
        table = self.manifest["sampling"].get("adaptive") or []
        if not table:
            raise BundleError(f"{self.path}: no quality was calibrated; export it with `adaptive: true`")
        kept = [row["tolerance"] for row in table if row["psnr"] >= psnr]
        if not kept:
            best = max(row["psnr"] for row in table)
            raise BundleError(f"{self.path}: psnr {psnr:g} dB is more than adaptive steps reach ({best:.1f} dB)")
        return float(max(kept))

    @cached_property
    def sampler(self) -> onnxruntime.InferenceSession:
        """The whole sampler as one graph: (noise, conditions) -> image. Raises BundleError if there is none."""
        name = self.manifest.get("sampler")
        if name is None:
            raise BundleError(f"{self.path}: has no sampler.onnx; export it with `sampler: true`")
        conditions = {key: spec for key, spec in self.inputs.items() if key not in ("sample", "timestep", "steps")}
        return self._open(name, {"noise": self.inputs["sample"], **conditions}, "image")

    def sample_at_once(self, noise: np.ndarray, **conditions: np.ndarray) -> np.ndarray:
        """As `sample`, in one call of onnxruntime for each batch, in the number of steps that was exported."""
        self._check(noise, conditions)
        count = self.batch or len(noise)
        scale = {"guidance_scale": np.full(len(noise), self.guidance["scale"])}
        taken = [value.name for value in self.sampler.get_inputs()]
        types = {"noise": "float32", **{name: self.inputs[name]["dtype"] for name in taken if name != "noise"}}
        given = {"noise": noise, **scale, **conditions}
        feeds = {name: np.asarray(given[name], dtype=types[name]) for name in taken}
        parts = [
            self._run(self.sampler, {name: value[start : start + count] for name, value in feeds.items()})
            for start in range(0, len(noise), count)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _check(self, noise: np.ndarray, conditions: Mapping[str, np.ndarray]) -> None:
        wanted = set(self.conditions)
        if set(conditions) != wanted:
            given = sorted(conditions) or "none"
            raise BundleError(f"{self.path}: the model takes the conditions {sorted(wanted) or 'none'}; got {given}")
        if noise.shape[1:] != self.sample_shape or not len(noise):
            raise BundleError(f"{self.path}: noise must be {['batch', *self.sample_shape]}; got {list(noise.shape)}")
        if self.batch and len(noise) % self.batch:
            raise BundleError(f"{self.path}: was exported for batches of {self.batch}; got {len(noise)} samples")
        for name, value in conditions.items():
            expected = [len(noise), *self.inputs[name]["shape"][1:]]
            if len(value.shape) != len(expected) or any(
                isinstance(e, int) and e != got for e, got in zip(expected, value.shape, strict=True)
            ):
                raise BundleError(f"{self.path}: {name} must be {expected}; got {list(value.shape)}")
        labels, classes = conditions.get("class_labels"), self.manifest.get("classes")
        if labels is not None and classes and (np.min(labels) < 0 or np.max(labels) >= classes):
            raise BundleError(f"{self.path}: class labels must lie in 0…{classes - 1}")


def find(path: Path) -> Path:
    """The bundle's folder: `path`, or within it where `path` is the result folder of a recipe."""
    return path / "onnx" if os.path.lexists(path / "onnx" / "bundle.json") else path


def open_session(
    file: Path | bytes, threads: int | None = None, scheme: str = "float", level: Any = None
) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU, of a file or its content, with `session_options`.

    level: a GraphOptimizationLevel other than the usual one, which is all.
    """
    options = session_options(threads, scheme)
    if level is not None:
        options.graph_optimization_level = level
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own, undocumented exception types
        name = file if isinstance(file, Path) else "the model"
        raise BundleError(f"{name}: onnxruntime cannot open it: {error}") from None


def session_options(threads: int | None, scheme: str) -> onnxruntime.SessionOptions:
    """How a scheme runs best, or float if it is unknown. threads: intra-op; None: onnxruntime's choice."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for name, value in SCHEMES.get(scheme, SCHEMES["float"]).session.items():
        options.add_session_config_entry(name, value)
    if threads:
        options.intra_op_num_threads = threads
    return options
