"""A bundle on the device: `bundle.json` and ONNX files, run with numpy and an engine alone."""

import copy
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import BundleError
from compress.runtime.adaptive import Grid, asked_tolerance, solve_adaptively
from compress.runtime.contents import SCRIPTS, null_condition, verify_files
from compress.runtime.engine import Engine, Feeds, Graph, Specs
from compress.runtime.engines import ONNXRUNTIME
from compress.runtime.manifest import read_manifest
from compress.runtime.parts import Autoencoder, open_decoder, open_encoder
from compress.runtime.sampling import Step, classifier_free_guidance, solve
from compress.runtime.served import at_scale, at_steps
from compress.runtime.signature import check_asked, check_signature
from compress.runtime.texts import TextEncoders, open_texts, token_inputs

SCALARS = ("guidance_scale", "steps")  # inputs that sampling sets


class Bundle:
    """An exported denoiser and everything needed to draw a sample from it.

    Bundle(path).sample(noise, class_labels=labels) returns images [b,c,h,w] in [-1, 1].
    Raises BundleError if the folder is no bundle, a file is missing or damaged, or the format is newer.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        check_hashes: bool = True,
        engine: Engine = ONNXRUNTIME,
    ) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        verify_files(self.path, self.manifest, check_hashes)
        self.engine, self.threads = engine, threads
        self.inputs: dict[str, dict[str, Any]] = self.manifest["inputs"]
        self.sample_shape: tuple[int, ...] = tuple(self.inputs["sample"]["shape"][1:])
        self._output: Mapping[str, Any] = next(iter(self.manifest.get("outputs", {}).values()), self.inputs["sample"])
        self.batch: int | None = self.manifest["batch"]
        self.timesteps: list[float] | None = self.manifest.get("timesteps")  # at which it answers; None: at any
        self._sample_by(self.manifest["sampling"])
        self.graph = self._open(self.manifest["model"], self.inputs, {"out_sample": self._output})

    def _sample_by(self, sampling: dict[str, Any]) -> None:
        self.sampling = sampling
        self.steps = [Step(**step) for step in sampling["steps"]]
        self.clip_range: float | None = sampling["clip_range"]
        self.guidance: dict[str, Any] = sampling["guidance"]
        self.null = {
            name: null_condition(self.path, value, self.inputs[name]["shape"][1:])
            for name, value in self.guidance.get("null", {}).items()
        }

    def with_sampling(self, sampling: dict[str, Any]) -> "Bundle":
        """The same graph, drawn from in another way. sampling: as in bundle.json."""
        other = copy.copy(self)
        other._sample_by(sampling)
        return other

    def _open(self, name: str, inputs: Specs, outputs: Specs, scheme: str | None = None) -> Graph:
        """One of the bundle's graphs. Raises BundleError unless it takes and gives what was exported."""
        graph = self.engine.open(self.path / name, self.threads, scheme or self.manifest["scheme"])
        check_signature(self.path / name, graph, inputs, outputs, bool(self.manifest.get("sizes")))
        return graph

    @cached_property
    def text(self) -> TextEncoders | None:
        """What makes conditions of texts; None: the bundle takes conditions alone. Raises BundleError."""
        about, decoder = self.manifest.get("text"), self.manifest.get("decoder")
        sides = decoder["pixels"][1:] if decoder else (*self.sample_shape[1:], 1)[:2]
        return about and open_texts(self.path, about, self._open, self._run, tuple(sides))

    @cached_property
    def decoder(self) -> Autoencoder | None:
        """What makes pixels of samples; None: samples are pixels, or whatever the net makes. Raises BundleError."""
        about = self.manifest.get("decoder")
        return about and open_decoder(about, self.sample_shape, self._open, self._run)

    @cached_property
    def encoder(self) -> Autoencoder | None:
        """What makes samples of pixels; None: it was not exported. Raises BundleError."""
        about = self.manifest.get("encoder")
        return about and open_encoder(about, self.sample_shape, self._open, self._run)

    def pixels(self, samples: np.ndarray) -> np.ndarray:
        """Pictures [n,c,h,w] of samples [n,…]: decoded where they are latents."""
        return samples if self.decoder is None else self.decoder.decode(samples)

    def without(self, prompt: str) -> "Bundle":
        """The same bundle, guided away from a negative prompt. Raises BundleError where guidance leaves out no text."""
        if self.text is None or not set(self.text.about["made"]) & set(self.null):
            raise BundleError(f"{self.path}: leaves out no text at each step, so it takes no negative prompt")
        other, said = copy.copy(self), self.text.encode([prompt])
        other.null = {name: said[name][0] if name in said else value for name, value in self.null.items()}
        return other

    def _run(self, graph: Graph, feeds: Feeds, batch: int | None) -> list[np.ndarray]:
        """Outputs [n,…] for inputs [n,…], in batches of the size that was exported. Raises BundleError."""
        count = len(next(iter(feeds.values())))
        size = batch or count
        if count % size:
            raise BundleError(f"{self.path}: was exported for batches of {size}; got {count} samples")
        parts = []
        for start in range(0, count, size):
            try:
                part = graph.run({name: value[start : start + size] for name, value in feeds.items()})
            except Exception as error:  # of many kinds, by engine
                said = str(error).strip().splitlines() or [type(error).__name__]
                raise BundleError(f"{self.path}: {self.engine.name} cannot run it: {said[0]}") from error
            parts.append([np.asarray(value) for value in part])
        return parts[0] if len(parts) == 1 else [np.concatenate(values) for values in zip(*parts, strict=True)]

    @property
    def size_bytes(self) -> int:
        """Bytes that a device needs to draw samples: weights beside a graph included, what reads them left out.

        Where there are two ways, step by step or the sampler in one graph, each holds all weights and one is enough:
        those of the larger.
        """
        sizes = {name: int(entry["bytes"]) for name, entry in self.manifest["files"].items() if name not in SCRIPTS}
        own = Path(self.manifest.get("sampler") or "").stem  # of sampler.onnx and the weights beside it
        at_once = sum(size for name, size in sizes.items() if Path(name).stem == own)
        return max(at_once, sum(sizes.values()) - at_once)

    def at_scale(self, scale: float) -> "Bundle":
        """The same bundle with another guidance scale (diffusers' convention). Raises BundleError if it has none."""
        return self.with_sampling(at_scale(self.path, self.sampling, scale))

    def at_steps(self, count: int) -> "Bundle":
        """The same bundle in another number of steps. Raises BundleError if it does not serve that number."""
        return self.with_sampling(at_steps(self.path, self.sampling, count))

    @property
    def conditions(self) -> Specs:
        """The inputs that a sample is drawn for."""
        return {name: spec for name, spec in self.inputs.items() if name not in ("sample", "timestep", *SCALARS)}

    def example(self, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Zeros of the right shapes and types: (sample [count,c,h,w], conditions)."""
        given = {
            name: np.zeros([count, *self.inputs[name]["shape"][1:]], self.inputs[name]["dtype"])
            for name in ("sample", *self.conditions)
        }
        return given.pop("sample"), given

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
        return self._run(self.graph, feeds, self.batch)[0]

    def guided(
        self, sample: np.ndarray, timestep: float | np.ndarray, conditions: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Model output [b,c,h,w] with the bundle's own guidance. timestep: one, or [b]."""
        if self.guidance["kind"] != "cfg":
            return self.denoise(sample, timestep, conditions)
        given = {name: self.null.get(name, value).astype(value.dtype) for name, value in conditions.items()}
        both = {n: np.concatenate([value, np.broadcast_to(given[n], value.shape)]) for n, value in conditions.items()}
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
        check_asked(self.path, self.manifest, self.conditions, noise, conditions)
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
        check_asked(self.path, self.manifest, self.conditions, noise, conditions)
        grid = Grid.read(self.path, self.steps, self.sampling)
        wish = asked_tolerance(self.path, {**self.manifest, "sampling": self.sampling}, psnr, tolerance, milliseconds)
        return solve_adaptively(
            lambda sample, times, items: self.guided(sample, times, {n: v[items] for n, v in conditions.items()}),
            noise,
            grid,
            wish,
            self.clip_range,
            None if milliseconds is None else milliseconds / 1000,
        )

    @property
    def _at_once(self) -> Specs:
        """What the whole way in one graph takes, tokens in the place of what is made of texts."""
        about, without = self.manifest.get("text") or {"made": {}, "encoders": {}}, ("sample", "timestep", "steps")
        others = {name: spec for name, spec in self.inputs.items() if name not in (*without, *about["made"])}
        noise = self.inputs["sample"]
        return {"noise": noise, **token_inputs(about, noise["shape"][0]), **others}

    @cached_property
    def sampler(self) -> Graph:
        """The whole way as one graph: (noise, conditions) -> image. Raises BundleError if there is none."""
        name, decoder = self.manifest.get("sampler"), self.manifest.get("decoder")
        if name is None:
            raise BundleError(f"{self.path}: has no sampler.onnx; export it with `sampler: true`")
        image = {**self._output, "shape": [self._output["shape"][0], *decoder["pixels"]]} if decoder else self._output
        return self._open(name, self._at_once, {"image": image})

    def sample_at_once(self, noise: np.ndarray, **conditions: np.ndarray) -> np.ndarray:
        """Pictures [n,c,h,w] in one call, in the steps that were exported; of texts, by their `text.tokens`."""
        wanted = {name: spec for name, spec in self._at_once.items() if name not in ("noise", *SCALARS)}
        check_asked(self.path, self.manifest, wanted, noise, conditions)
        given = {"noise": noise, "guidance_scale": np.full(len(noise), self.guidance["scale"]), **conditions}
        feeds = {name: np.asarray(given[name], dtype=spec["dtype"]) for name, spec in self._at_once.items()}
        return self._run(self.sampler, feeds, self.batch)[0]
