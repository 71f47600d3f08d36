"""`python -m benchmarks.gpu`: a step of `distill` at the size of Stable Diffusion beside the same step written by hand.

Both take turns in one run, on the same nets, each with an optimizer and an average of its own. What is written by hand
has its images on the device, draws its noise there and waits for nothing. `--small`: everything in small, for a machine
without a GPU. What has run on this code and this card is not run again unless --fresh.
"""

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bars import finish
from benchmarks.gpu_by_hand import DEVICE, PRECISION, TYPE, ByHand
from benchmarks.gpu_pairs import PAIRS, built
from compress import terminal, training
from compress.contract import Context
from compress.data import Dataset
from compress.diffusion.schedulers import SamplingOptions
from compress.files import sha256, write_json, write_text
from compress.measure import counts
from compress.measure.latency import processor
from compress.model.denoiser import Denoiser
from compress.passes import distill
from compress.recipe.identity import digest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WARM, TURN, TURNS = 4, 6, 4  # steps before the clock counts, steps of either side in a turn, and turns
MODES: dict[str, dict[str, Any]] = {
    "eager": {"compile": False},
    "compiled": {"compile": True},
    "lean": {"compile": False, "recompute": True, "optimizer": "adamw_8bit"},
}
ROWS = [(pair, mode) for mode in ("eager", "lean", "compiled") for pair in PAIRS if mode != "lean" or pair != "dit"]
SIDES = ("distill", "by hand")


class Turns:
    """A progress bar that times `distill` and, after every so many steps of its, lets the other side take as many."""

    def __init__(self, make: Callable[[], ByHand] | None) -> None:
        self.make = make
        self.hand: ByHand
        self.taken: dict[str, list[float]] = {side: [] for side in SIDES}
        self.bytes, self.count, self.began, self.warm = 0, 0, time.perf_counter(), 0.0

    def advance(self, count: int = 1, **_shown: float) -> None:
        """Called after each step, and before the first with none."""
        self.count += count
        if self.count < WARM or (self.count - WARM) % TURN:
            return
        _finished()
        if self.count > WARM:
            self.taken["distill"].append((time.perf_counter() - self.began) / TURN)
        self.warm = self.warm or time.perf_counter() - self.began
        self.bytes = self.bytes or (torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else 0)
        if self.make is not None:
            self._by_hand(self.make)
        self.began = time.perf_counter()

    def _by_hand(self, make: Callable[[], ByHand]) -> None:
        if self.count == WARM:
            self.hand = make()
            self._steps(WARM)
        else:
            self.taken["by hand"].append(self._steps(TURN))

    def _steps(self, count: int) -> float:
        """Seconds each; the first are taken when `distill` has warmed up."""
        began = time.perf_counter()
        for _ in range(count):
            self.hand.step()
        _finished()
        return (time.perf_counter() - began) / count


def _finished() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def context_for(teacher: Denoiser, data: Dataset, bar: Any, folder: Path) -> Context:
    """What a pass is given, with nothing but a teacher, data and a bar."""

    @contextmanager
    def progress(_title: str, _total: int) -> Iterator[Any]:
        yield bar

    return Context(
        name="distill",
        recipe="gpu",
        seed=0,
        device=DEVICE,
        workdir=folder,
        output=folder,
        guidance=teacher.sampling.guidance,
        sampling=SamplingOptions(),
        data=None,
        teacher=lambda: teacher,
        dataset=lambda: data,
        progress=progress,
        log=terminal.log,
    )


def measure(name: str, mode: str, small: bool) -> dict[str, Any]:
    """Seconds a step of either side, bytes and share of the peak."""
    gc.collect()
    pair = PAIRS[name]
    batch_size = 2 if small else pair.batch_size
    teacher, model = built(pair, small, DEVICE)
    data = data_for(teacher, 4 * batch_size)
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    settings = {
        "steps": WARM + (0 if mode == "lean" else TURN * TURNS),
        "batch_size": batch_size,
        "precision": PRECISION,
        "learning_rate": 1e-5,
    }
    config = distill.Config.model_validate(settings | MODES[mode])
    with tempfile.TemporaryDirectory() as folder:
        bar = Turns(None)
        context = context_for(teacher, data, bar, Path(folder))
        objective = distill.imitation(model, config, context)
        batch = data.batch(batch_size, 0).to(DEVICE)
        bar.make = (lambda: ByHand(teacher, objective.student, batch)) if mode != "lean" else None
        plain = small or mode == "lean"  # where its memory alone counts, compiling an optimizer would only take time
        with torch.compiler.set_stance("force_eager" if plain else "default"):
            training.train(objective, objective.student.net, config, context, data)
    operations = 2 * batch_size * (counts.macs(teacher) + 3 * counts.macs(objective.student))
    return {
        "batch_size": batch_size,
        "seconds": bar.taken,
        "bytes": bar.bytes,
        "operations": operations,
        "first_steps_seconds": bar.warm,
    }


def data_for(model: Denoiser, count: int) -> Dataset:
    """Random samples with random conditions."""
    random = torch.Generator().manual_seed(0)
    conditions = {
        name: torch.randn(count, *condition.shape, generator=random)
        if condition.dtype.is_floating_point
        else torch.randint(1000, (count, *condition.shape), generator=random)
        for name, condition in model.conditions.items()
    }
    return Dataset(torch.randn(count, *model.sample_shape, generator=random), conditions)


def peak() -> float:
    """Operations a second of a large matrix product in the type that is trained in."""
    size = 8192 if DEVICE.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=DEVICE, dtype=TYPE) for _ in range(2))
    times = []
    for _ in range(13):
        began = time.perf_counter()
        a @ b
        _finished()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / float(np.median(times[3:]))


def code() -> str:
    """Hash of what the figures depend on."""
    files = sorted([*(ROOT / "compress").rglob("*.py"), *Path(__file__).parent.glob("gpu*.py")])
    return digest({str(file.relative_to(ROOT)): sha256(file) for file in files})


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    head = (
        f"A step of `distill` on {found['card']}, torch {found['torch']}, {TYPE}; medians of {TURNS} turns of {TURN} "
        f"steps.\nA large matrix product runs at {found['peak'] / 1e12:.3g} TFLOP/s. Memory: max_memory_allocated.\n\n"
        "| pair | mode | distill, s | by hand, s | ratio | images a second | of the peak | GB | first steps, s |\n"
        "|---|---|---:|---:|---:|---:|---:|---:|---:|\n"
    )
    lines = []
    missing = []
    for name, mode in ROWS:
        row = found["rows"].get(f"{name}/{mode}")
        if row is None:
            missing.append(f"{PAIRS[name].title}, {mode}")
            continue
        figures = "| | | | "
        if mode != "lean":
            ours, hand = (float(np.median(row["seconds"][side])) for side in SIDES)
            figures = f"{ours:.4f} | {hand:.4f} | {ours / hand:.3f} | {row['batch_size'] / ours:.1f} | "
            figures += f"{row['operations'] / ours / found['peak']:.0%}"
        lines.append(
            f"| {PAIRS[name].title} | {mode} | {figures} | {row['bytes'] / 1e9:.1f} | "
            f"{row['first_steps_seconds']:.0f} |"
        )
    foot = f"\nNot measured: {'; '.join(missing)}.\n" if missing else ""
    return head + "\n".join(lines) + "\n" + foot


def main() -> None:
    """Measure what is missing, write the table, and hold the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--small", action="store_true", help="everything in small, nothing compiled, nothing written or held"
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what has been measured on this code")
    parser.add_argument("--rows", nargs="*", metavar="PAIR/MODE", help="these alone")
    asked = parser.parse_args()
    if not asked.small and DEVICE.type != "cuda":
        parser.error("there is no CUDA device; --small runs the same in small")
    file = RESULTS / "gpu.json"
    card = torch.cuda.get_device_name() if DEVICE.type == "cuda" else processor()
    fresh = {"code": code(), "card": card, "torch": torch.__version__, "rows": {}}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else fresh
    if asked.small or asked.fresh or any(found[key] != fresh[key] for key in ("code", "card", "torch")):
        found = fresh
    found["peak"] = peak()
    for name, mode in ROWS:
        key = f"{name}/{mode}"
        if key in found["rows"] or (asked.rows and key not in asked.rows):
            continue
        terminal.log(f"{PAIRS[name].title}, {mode}")
        torch._dynamo.reset()
        found["rows"][key] = measure(name, mode, asked.small)
        if not asked.small:
            write_json(file, found)
    text = table(found)
    print(text)
    if asked.small:
        return
    write_text(RESULTS / "gpu.md", text)
    bars = {}
    for key, row in found["rows"].items():
        name, mode = key.split("/")
        if mode == "lean":
            bars[f"gpu_{name}_gigabytes"] = row["bytes"] / 1e9
        else:
            times = (float(np.median(row["seconds"][side])) for side in SIDES)
            bars[f"gpu_{name}_{mode}_cost"] = next(times) / next(times)
    finish(bars)


if __name__ == "__main__":
    main()
