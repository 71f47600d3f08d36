"""`python -m benchmarks.streaming`: a million pictures in WebDataset shards: time to open, memory, pictures a second.

Shards are written once under COMPRESS_CACHE: a million pictures of 16×16 (a thousand random ones, again and again, as
PNG) with their classes, 10,000 a shard, and 2,000 pictures of 256×256 as JPEG. Every row is a process of its own;
memory is the peak of what it had resident, mapped files among it. Batches are drawn from the training part, as a pass
draws them, while files lie in the system's memory: what is measured is decoding, not a disk. Speeds are those of the
best of fifteen seconds.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.bars import finish
from compress import data, terminal
from compress.data import dataset
from compress.files import cache_folder, write_json, write_text
from compress.folders import write_folder
from compress.measure.latency import processor

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHARD = 10_000
MANY, FEW, LARGE = 1_000_000, 10_000, 2_000
BATCH, BATCHES = 64, 2000
CLASSES = 10
ROUNDS = 15  # of a second each, whose best is taken: others may have used the processor in the rest


def small(count: int) -> Iterator[bytes]:
    """PNGs of 16×16, a thousand different ones."""
    random = np.random.default_rng(0)
    kept: list[bytes] = []
    for i in range(count):
        if len(kept) < 1000:
            kept.append(_encoded(random.integers(0, 256, (16, 16, 3), dtype=np.uint8), "PNG"))
        yield kept[i % len(kept)]


def large(count: int) -> Iterator[bytes]:
    """JPEGs of 256×256 with as much detail as photographs have, about 20 KB each."""
    random = np.random.default_rng(0)
    for _ in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (48, 48, 3), dtype=np.uint8))
        yield _encoded(np.asarray(coarse.resize((256, 256), Image.Resampling.BICUBIC)), "JPEG")


def _encoded(pixels: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, quality=90)
    return stream.getvalue()


def write_shards(folder: Path, count: int, pictures: Iterator[bytes], suffix: str) -> None:
    """Shards of SHARD pictures with their classes."""
    for start in range(0, count, SHARD):
        with tarfile.open(folder / f"{start:08d}.tar", "w", format=tarfile.USTAR_FORMAT) as opened:
            for i in range(start, min(start + SHARD, count)):
                for kind, content in ((suffix, next(pictures)), ("cls", b"%d" % (i % CLASSES))):
                    about = tarfile.TarInfo(f"{i:08d}.{kind}")
                    about.size = len(content)
                    opened.addfile(about, io.BytesIO(content))


def worker(path: Path, side: int, batches: int, rounds: int) -> dict[str, Any]:
    """Open, draw the batches, and give times, memory and a hash of the last batch. rounds: of drawing for speed."""
    dataset.IN_MEMORY = 0  # what is few streams too
    before, began = memory("VmHWM"), time.perf_counter()
    found = data.load(data.WebDataset(source="webdataset", path=path), (3, side, side), CLASSES)
    opened = time.perf_counter() - began
    train, _ = found.split()
    after = memory("VmHWM")
    for step in range(batches):
        batch = train.batch(BATCH, 0, "step", step)
    return {
        "images": len(found),
        "open_seconds": opened,
        "program_bytes": before,
        "open_bytes": after,
        "peak_bytes": memory("VmHWM"),
        "own_bytes": memory("RssAnon"),
        "per_second": max((speed(train, i) for i in range(rounds)), default=0.0),
        "batch": hashlib.sha256(batch.images.numpy().tobytes()).hexdigest(),
    }


def speed(train: data.Dataset, key: int) -> float:
    """Pictures a second, over one second."""
    began, drawn = time.perf_counter(), 0
    while time.perf_counter() < began + 1:
        train.batch(BATCH, key, "step", drawn)
        drawn += 1
    return BATCH * drawn / (time.perf_counter() - began)


def memory(what: str) -> int:
    """Bytes that this process has, by a name of /proc/self/status."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(lines[what].split()[0]) * 1024


def run(path: Path, *asked: int) -> dict[str, Any]:
    """A worker's figures. asked: side of the pictures, batches, rounds, threads."""
    command = [sys.executable, "-m", "benchmarks.streaming", "--worker", str(path), *map(str, asked)]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def measure(work: Path) -> dict[str, Any]:
    """Times and memory, in the order in which they are measured."""
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    folders = {"many": (MANY, small, "png"), "few": (FEW, small, "png"), "large": (LARGE, large, "jpg")}
    for name, (count, make, suffix) in folders.items():
        if not (work / name).is_dir():
            terminal.log(f"writing {count:,} pictures")
            write_folder(work / name, lambda part: write_shards(part, count, make(count), suffix))  # noqa: B023
    found: dict[str, Any] = {"written_seconds": time.monotonic() - began}
    for file in (cache_folder() / "shards").glob("*.npy"):
        file.unlink()  # so that shards are opened for the first time
    for name in ("few", "many"):
        for times in ("first", "again"):
            terminal.log(f"{name}: opened, {times}")
            found[f"{name}_{times}"] = run(work / name, 16, BATCHES, 0, 1)
    found["index_bytes"] = sum(file.stat().st_size for file in (cache_folder() / "shards").glob("*.npy"))
    return found


def speeds(work: Path) -> dict[str, Any]:
    """Figures of speed alone, of shards that were opened before."""
    found = {}
    for name, side in (("many", 16), ("large", 256)):
        for threads in (1, 2):
            terminal.log(f"{name}: pictures a second, {threads} threads")
            found[f"{name}_{threads}"] = run(work / name, side, 5, ROUNDS, threads)
    return found


def bars(found: dict[str, Any]) -> dict[str, float]:
    """MB that a hundred times as many pictures take; whether a batch is the same after opening the shards again."""
    grown = found["many_again"]["peak_bytes"] - found["few_again"]["peak_bytes"]
    same = all(found[f"{name}_first"]["batch"] == found[f"{name}_again"]["batch"] for name in ("few", "many"))
    return {"streaming_growth_mb": grown / 1e6, "streaming_same_batch": float(same)}


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["# Data that streams\n", (__doc__ or "").partition("\n\n")[2]]
    lines += [f"| pictures of 16×16 | opened | seconds to open | memory at the peak, MB | after {BATCHES:,} batches |"]
    lines += ["|---:|---|---:|---:|---:|"]
    for name in ("few", "many"):
        for times, words in (("first", "for the first time"), ("again", "again")):
            one = found[f"{name}_{times}"]
            peaks = f"{one['open_bytes'] / 1e6:,.0f} | {one['peak_bytes'] / 1e6:,.0f}"
            lines.append(f"| {one['images']:,} | {words} | {one['open_seconds']:.2f} | {peaks} |")
    program, values = found["few_again"]["program_bytes"] / 1e6, bars(found)
    lines.append(
        f"\nThe program itself, before it opens anything: {program:,.0f} MB. A hundred times as many pictures take "
        f"{values['streaming_growth_mb']:.0f} MB more, mapped files among them; what is kept on disk of the shards, to "
        f"find pictures in them, is {found['index_bytes'] / 1e6:.0f} MB. A batch of shards that were opened again is "
        f"{'the same' if values['streaming_same_batch'] else 'another'}, to the bit.\n"
    )
    lines += [f"| pictures, batch {BATCH} | 1 thread, a second | 2 threads, a second |", "|---|---:|---:|"]
    for name, words in (("many", "16×16, PNG"), ("large", "256×256, JPEG")):
        speeds = " | ".join(f"{found[f'{name}_{threads}']['per_second']:,.0f}" for threads in (1, 2))
        lines.append(f"| {words} | {speeds} |")
    return "\n".join([*lines, f"\n{found['processor']}. {found.get('note', '')}".rstrip() + "\n"])


def main() -> None:
    """Measure, write the table, print the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--worker", nargs=5, metavar=("PATH", "SIDE", "BATCHES", "ROUNDS", "THREADS"))
    parser.add_argument("--speeds", action="store_true", help="measure these alone, beside what was measured before")
    parser.add_argument("--note", help="what else is to be known of the machine")
    asked = parser.parse_args()
    if asked.worker:
        side, batches, rounds, threads = map(int, asked.worker[1:])
        torch.set_num_threads(threads)
        print(json.dumps(worker(Path(asked.worker[0]), side, batches, rounds)))
        return
    work, kept = cache_folder() / "streaming", RESULTS / "streaming.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if asked.speeds else measure(work)
    found |= {**speeds(work), "processor": processor()}
    found |= {"note": asked.note} if asked.note else {}
    write_json(kept, found)
    write_text(RESULTS / "streaming.md", table(found))
    print(table(found))
    finish(bars(found))


if __name__ == "__main__":
    main()
