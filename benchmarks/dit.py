"""`python -m benchmarks.dit`: a diffusion transformer of 40 M parameters, in float and in int8, beside peers.

DiT-S/2 of Peebles and Xie 2022 on latents 4×32×32: 12 blocks, 6 heads of 64, patches of 2; 33 M parameters,
which are 40 M in diffusers, where every block holds the embeddings of time and class. Weights are random, so that
nothing is said of images. At the start of training every gate is zero and the net would be the identity: the adaptive
norms' layers are drawn with standard deviation 1/√width, which gives shifts, scales and gates of about a half, so that
every block counts. All ways answer in one process, interleaved, two threads, batch 1; SQNR is that of the output
against PyTorch's fp32 on inputs that calibration did not see. Rows by onnxruntime's tools are made of the float file.
"""

import argparse
import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

from benchmarks import peer_worker
from benchmarks.peer_models import HELD_OUT_SEED, SEED, Points, context_of
from compress import terminal
from compress.contract import Context
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.families import FAMILIES
from compress.files import write_json, write_npz, write_text
from compress.measure import counts, latency
from compress.model.denoiser import Denoiser
from compress.model.reference import cycled_labels
from compress.passes import export_onnx, quantize
from compress.pipeline.manifest import MODEL
from compress.randomness import generator
from compress.report.statistics import bootstrap, interval
from compress.runtime.engines import ONNXRUNTIME, Graph

RESULT = Path(__file__).parent / "results" / "dit.json"
SMALL = {
    "_class_name": "DiTTransformer2DModel",
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 12,
    "num_attention_heads": 6,
    "attention_head_dim": 64,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
}
CALIBRATION, HELD_OUT = 64, 32
THREADS, ROUNDS, PAUSE = 2, 30, 0.02  # seconds between trains, in which the threads of another session fall asleep
EAGER, COMPILED = "PyTorch fp32", "torch.compile fp32"
FLOAT, INT8 = "onnxruntime fp32, this toolkit's graph", "this toolkit's int8"
STATIC, DYNAMIC = "onnxruntime quantize_static int8 (QDQ)", "onnxruntime quantize_dynamic int8"

Call = Callable[[], np.ndarray]
Bind = Callable[[dict[str, np.ndarray]], Call]


def transformer(config: dict[str, Any]) -> Denoiser:
    """A net with random weights whose gates are open."""
    family = FAMILIES[config["_class_name"]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        net = family.build(config).eval().requires_grad_(False)
        for path, layer in net.named_modules():
            if path.endswith("norm1.linear"):
                assert isinstance(layer, nn.Linear)
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    return Denoiser(net, family, from_scheduler_config(SCHEDULER, SamplingOptions(steps=50)), SCHEDULER)


def points(model: Denoiser, seed: int, count: int) -> Points:
    """Standard normal samples, as a random net has no trajectory from noise to image; timesteps and labels in turn."""
    timesteps = torch.tensor(model.sampling.timesteps)
    sample = torch.randn(count, *model.sample_shape, generator=generator(seed, 4))
    order = torch.randperm(count, generator=generator(seed, 5))
    labels = cycled_labels(model.classes or 1, count) * 31 % (model.classes or 1)
    return [sample, timesteps[torch.arange(count) * len(timesteps) // count][order], labels]


def ways(model: Denoiser, context: Context, folder: Path) -> dict[str, tuple[Bind, int]]:
    """Every way by name: (inputs by name → a call that computes the output, bytes of its file)."""
    calibration = points(model, SEED, CALIBRATION)
    quantized = quantize.quantized_at(model, quantize.Config(), context, calibration).model
    files = {}
    for name, one in ((FLOAT, model), (INT8, quantized)):
        given = dataclasses.replace(context, output=folder / one.scheme)
        files[name] = export_onnx.run(one, export_onnx.Config(batch=1), given).model.path / MODEL
    size = 4 * counts.parameters(model)
    found = {EAGER: (_in_torch(model.module), size), COMPILED: (_in_torch(torch.compile(model.module)), size)}
    for name, file in files.items():
        graph = ONNXRUNTIME.open(file, THREADS, "int8" if name == INT8 else "float")
        found[name] = (_in_onnxruntime(graph), file.stat().st_size)
    inputs = folder / "calibration.npz"
    write_npz(inputs, feeds(model, calibration))
    job = {"source": str(files[FLOAT]), "folder": str(folder), "calibration": str(inputs)}
    with contextlib.redirect_stdout(io.StringIO()):
        static = peer_worker.quantize_static({**job, "batch": 1, "threads": THREADS})
        dynamic = folder / "dynamic.onnx"
        quantize_dynamic(str(files[FLOAT]), dynamic, per_channel=True, weight_type=QuantType.QInt8)
    engine = peer_worker.onnxruntime({"source": str(dynamic), "threads": THREADS})
    return found | {STATIC: (static.bind, static.size_bytes), DYNAMIC: (engine.bind, engine.size_bytes)}


def feeds(model: Denoiser, values: Points) -> dict[str, np.ndarray]:
    """Inputs by the names that they have in a file."""
    names = ["sample", "timestep", *model.inputs]
    return {name: value.numpy() for name, value in zip(names, values, strict=True)}


def _in_torch(module: Callable[..., torch.Tensor]) -> Bind:
    def bind(given: dict[str, np.ndarray]) -> Call:
        tensors = [torch.from_numpy(value) for value in given.values()]

        def call() -> np.ndarray:
            with torch.no_grad():
                return module(*tensors).numpy()

        return call

    return bind


def _in_onnxruntime(graph: Graph) -> Bind:
    return lambda given: lambda: graph.run(given)[0]


def measure(config: dict[str, Any], timed: bool) -> dict[str, Any]:
    """Rows by name. timed: whether calls are timed too, which takes an idle machine."""
    model = transformer(config)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as made, latency.threads(THREADS):
        folder = Path(made)
        found = ways(model, context_of(model, folder), folder)
        unseen = feeds(model, points(model, HELD_OUT_SEED, HELD_OUT))
        items = [{name: value[i : i + 1] for name, value in unseen.items()} for i in range(HELD_OUT)]
        wanted = np.concatenate([found[EAGER][0](item)() for item in items])
        if not timed:
            del found[COMPILED]  # what it takes is all that is asked of it
        for name, (bind, size) in found.items():
            got = np.concatenate([bind(item)() for item in items])
            rows[name] = {"bytes": size} | ({} if name == EAGER else _exactness(wanted, got))
        if timed:
            calls = {name: bind(items[0]) for name, (bind, _) in found.items()}
            taken = latency.interleaved(calls, ROUNDS, terminal.progress, "calls", PAUSE)
            for name, times in taken.items():
                ratio, ends = latency.speedup(times, taken[FLOAT])  # time ÷ the float file's
                rows[name] |= {"ms": float(np.median(times)), "ratio": ratio, "interval": ends}
    return {
        "parameters": counts.parameters(model),
        "macs": counts.macs(model),
        "processor": latency.processor() if timed else None,
        "rows": rows,
    }


def _exactness(wanted: np.ndarray, got: np.ndarray) -> dict[str, Any]:
    """SQNR in dB over all inputs, and its 95% interval."""
    axes = tuple(range(1, wanted.ndim))
    error, answer = np.square(got - wanted).sum(axes), np.square(wanted).sum(axes)

    def decibels(chosen: Any) -> float:
        return float(10 * np.log10(answer[chosen].sum() / max(error[chosen].sum(), 1e-30)))

    return {"sqnr_db": decibels(slice(None)), "sqnr_interval": interval(bootstrap(decibels, len(error)))}


def table(found: dict[str, Any]) -> str:
    """The page of results."""
    where = found["processor"] or "not timed: the machine was not idle"
    lines = [
        "# A diffusion transformer in int8",
        "",
        *(__doc__ or "").split("\n\n", 1)[1].splitlines(),
        "",
        f"{found['parameters']:,} parameters, {found['macs']:,} multiply-accumulates a call; {where}.",
        "",
        "| | time ÷ onnxruntime fp32 | ms | SQNR dB | bytes |",
        "|---|---|---:|---|---:|",
    ]
    for name, row in found["rows"].items():
        low, high = row.get("interval", (0, 0))
        ratio = f"{row['ratio']:.3f} ({low:.3f} … {high:.3f})" if "ratio" in row else ""
        ms = f"{row['ms']:.2f}" if "ms" in row else ""
        low, high = row.get("sqnr_interval", (0, 0))
        exact = f"{row['sqnr_db']:.1f} ({low:.1f} … {high:.1f})" if "sqnr_db" in row else ""
        lines.append(f"| {name} | {ratio} | {ms} | {exact} | {row['bytes']:,} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dit", description=__doc__)
    parser.add_argument("--untimed", action="store_true", help="exactness and bytes alone, on a machine that is busy")
    found = measure(SMALL, timed=not parser.parse_args().untimed)
    write_json(RESULT, found)
    write_text(RESULT.with_suffix(".md"), table(found))
    print(table(found))


if __name__ == "__main__":
    main()
