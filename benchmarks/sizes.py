"""`python -m benchmarks.sizes`: what plan, prune and export of the largest U-Nets take in memory and time.

Nets of the shape of Stable Diffusion 1.5 and of SDXL, with random weights that lie on the disk as fp16, on latents of
8×8: weights are what takes memory. Every step is a process of its own, `compress plan` or `compress apply`, watched
while it runs. Memory is the peak of what is the process's own: files that are mapped count beside it, as the system
takes their pages back when it needs them. Steps that have run are kept; one that passes the limit of --memory is ended,
and so is one that leaves the machine less than 2 GB.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.bars import finish
from compress import terminal
from compress.data import key
from compress.families import FAMILIES
from compress.files import write_json, write_npz, write_text
from compress.measure.latency import processor
from compress.model.denoiser import DEFAULT_TOKENS
from compress.pipeline.variants import STOCK_WEIGHTS

RESULT = Path(__file__).parent / "results" / "sizes.json"
SHARD = 2**31  # bytes of weights in one file
DATA = "latents.npz"
LEAST = 2 * 10**9  # bytes that the machine keeps
COMMON = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
}
NETS: dict[str, dict[str, Any]] = {
    "SD 1.5": {
        **COMMON,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "SDXL": {
        **COMMON,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
# as many levels and as wide, with fewer blocks of attention where most of the weights are
NETS["SDXL, 4 of 10 blocks"] = {**NETS["SDXL"], "transformer_layers_per_block": [1, 2, 4]}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
PRUNE = {"prune_channels": {"target": {"params": 0.7}, "importance": "l2"}}
GRADIENTS = {"prune_channels": {"target": {"params": 0.7}, "importance": "taylor", "batches": 1}}
EXPORT = {"export_onnx": {"batch": 1}}
PROGRAM = "import compress.engine, compress.passes.export_onnx, onnxruntime"
# name → (command, passes); a step of the same road goes on where the one before ended
STEPS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "plan": ("plan", [PRUNE, EXPORT]),
    "prune": ("apply", [PRUNE]),
    "export of what was pruned": ("apply", [PRUNE, EXPORT]),
    "export of the whole net": ("apply", [EXPORT]),
    "prune by the gradients of 64 samples": ("apply", [GRADIENTS]),
}


@dataclass(frozen=True)
class Row:
    """One step of one net. own, resident: peaks in bytes, without and with mapped files. ended: None: it was finished;
    else why it was not."""

    seconds: float
    own: int
    resident: int
    ended: str | None


def make(config: dict[str, Any], folder: Path) -> int:
    """Write a checkpoint of random weights in fp16, shard by shard; bytes that they take in fp32."""
    with torch.device("meta"):
        net: Any = FAMILIES[config["_class_name"]].build(config)
    net.save_config(folder / "unet")
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    shapes = {name: tensor.shape for name, tensor in net.state_dict().items()}
    _draw_data(net, folder / DATA)
    total, held, shards = sum(2 * shape.numel() for shape in shapes.values()), 0, [dict[str, torch.Size]()]
    for name, shape in shapes.items():
        if held + 2 * shape.numel() > SHARD:
            held, shards = 0, [*shards, {}]
        held += 2 * shape.numel()
        shards[-1][name] = shape
    named: dict[str, str] = {}
    random = torch.Generator().manual_seed(0)
    for number, shard in enumerate(shards, 1):
        file = f"{STOCK_WEIGHTS}-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: _drawn(name, shape, random) for name, shape in shard.items()}, folder / "unet" / file)
        named |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": total}, "weight_map": named}
    write_json(folder / "unet" / f"{STOCK_WEIGHTS}.safetensors.index.json", index)
    return 2 * total


def _draw_data(net: Any, file: Path) -> None:
    random, family = np.random.default_rng(0), FAMILIES[type(net).__name__]
    shapes = {"images": family.sample_shape(net.config)}
    shapes |= {key(name): one.shape for name, one in family.conditions(net, DEFAULT_TOKENS).items()}
    write_npz(file, {name: random.standard_normal((64, *shape), np.float32) for name, shape in shapes.items()})


def _drawn(name: str, shape: torch.Size, random: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:  # norms and biases
        return torch.full(shape, float(name.endswith("weight"))).half()
    return torch.randn(shape, generator=random).div_(math.sqrt(math.prod(shape[1:]))).half()


def watched(command: Sequence[str], limit: int, log: Path) -> Row:
    """Run a command, and end it when its own memory passes a limit in bytes."""
    began, peak, why = time.monotonic(), {"RssAnon": 0, "VmHWM": 0}, None
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ, "OMP_NUM_THREADS": "2"})
        while process.poll() is None:
            found = _figures(f"/proc/{process.pid}/status")
            peak = {key: max(most, found.get(key, 0)) for key, most in peak.items()}
            left = _figures("/proc/meminfo")["MemAvailable"]
            if why is None and (peak["RssAnon"] > limit or left < LEAST):
                why = f"passed {limit / 1e9:.0f} GB" if peak["RssAnon"] > limit else "left the machine less than 2 GB"
                process.kill()
            time.sleep(0.02)
    if process.returncode and why is None:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no message"]
        why = f"failed: {said[-1][:200]}"
    return Row(round(time.monotonic() - began, 1), peak["RssAnon"], peak["VmHWM"], why)


def _figures(file: str) -> dict[str, int]:
    """Bytes by name, of a file of /proc; none of a process that has just ended."""
    try:
        lines = [line.split() for line in Path(file).read_text(encoding="utf-8").splitlines()]
    except OSError:
        return {}
    return {line[0].removesuffix(":"): 1024 * int(line[1]) for line in lines if line[-1] == "kB"}


def measure(name: str, work: Path, limit: int, kept: dict[str, Any]) -> None:
    """Run the steps of a net that have not run, and keep what each took."""
    folder, found = work / name.replace(" ", "-").lower(), kept.setdefault(name, {"steps": {}})
    if not (folder / "made.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run left, which nothing else makes
        folder.mkdir(parents=True)
        write_json(folder / "made.json", {"weights": make(NETS[name], folder)})
    found["weights"] = json.loads((folder / "made.json").read_text(encoding="utf-8"))["weights"]
    found["program"] = asdict(watched([sys.executable, "-c", PROGRAM], limit, folder / "program.log"))
    for step, (command, passes) in STEPS.items():
        if step in found["steps"]:
            continue
        road = "pruned" if PRUNE in passes else "whole" if EXPORT in passes else "differentiated"
        recipe = folder / f"{road}.yaml"
        head = {"name": road, "checkpoint": str(folder), "data": {"source": "npz", "path": str(folder / DATA)}}
        recipe.write_text(json.dumps({**head, "passes": passes}), encoding="utf-8")
        output = [] if command == "plan" else ["--output", str(folder / "out" / road)]
        terminal.log(f"{name}: {step}")
        asked = [sys.executable, "-m", "compress", command, str(recipe), "--device", "cpu", *output]
        found["steps"][step] = asdict(watched(asked, limit, folder / f"{step.replace(' ', '-')}.log"))
        write_json(RESULT, kept)
        write_text(RESULT.with_suffix(".md"), table(kept))


def table(found: dict[str, Any]) -> str:
    """Markdown: one table a net."""
    parts = ["# The largest nets: memory and time\n", (__doc__ or "").partition("\n\n")[2]]
    for name, one in found.items():
        weights = one["weights"]
        parts.append(f"## {name}: {weights / 4e6:,.0f} M parameters, {weights / 1e9:.2f} GB in fp32\n")
        parts.append("| step | own memory, GB | beyond the model, ÷ its weights | with mapped files, GB | seconds |")
        parts.append("|---|---:|---:|---:|---:|")
        for step, row in one["steps"].items():
            beyond = (row["own"] - weights) / weights
            ended = f" ({row['ended']})" if row["ended"] else ""
            figures = f"{row['own'] / 1e9:.2f} | {beyond:.2f} | {row['resident'] / 1e9:.2f} | {row['seconds']:,.0f}"
            parts.append(f"| {step}{ended} | {figures} |")
        parts.append(f"\nThe program itself, before it reads anything: {one['program']['own'] / 1e9:.2f} GB.\n")
    return "\n".join([*parts, f"{processor()}, 2 threads.\n"])


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizes", description=__doc__)
    parser.add_argument("--nets", nargs="*", choices=list(NETS), default=list(NETS))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "compress-sizes")
    parser.add_argument("--memory", type=float, default=12.0, help="GB that a step may take before it is ended")
    parser.add_argument("--again", nargs="*", default=[], choices=list(STEPS), help="steps to run anew")
    asked = parser.parse_args()
    kept: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    for name in asked.nets:
        for step in asked.again:
            kept.get(name, {"steps": {}})["steps"].pop(step, None)
        measure(name, asked.work, int(asked.memory * 1e9), kept)
    print(table(kept))
    finish({})


if __name__ == "__main__":
    main()
