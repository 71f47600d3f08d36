"""`python -m benchmarks.peers`: this toolkit's int8 against its peers, each in its own process, interleaved in one run.

Peers are installed into virtual environments under $COMPRESS_CACHE (or ~/.cache/compress) when first needed. All start
from the same net and the same calibration inputs; each engine keeps its own defaults, idle threads included. Only one
process computes at a time: the others wait for their input, and a short pause lets the threads of the one before fall
asleep (`idle_ms` says what it spent after its answer). Finished cells, a model at a batch size, are kept in
results/peers.json: the same command again measures what is missing, `--fresh` everything.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bars import finish, rewrite_between
from benchmarks.peer_models import HELD_OUT, SEED, SUBJECTS, Files, prepare
from benchmarks.peer_process import OWN, OWN_VERSIONS, PeerError, Place, Worker, places
from benchmarks.peer_table import EAGER, TOOLKIT, bars, summary, table
from compress import terminal
from compress.files import write_json, write_text
from compress.judge.quality import sqnr
from compress.measure import latency
from compress.report.statistics import bootstrap, interval

RESULT = Path(__file__).parent / "results" / "peers.json"
README = Path(__file__).parents[1] / "README.md"
FORMAT = 1
ROUNDS = 60
TRAIN_MS = 150.0  # a train has as many calls as fit, at most latency.TRAIN
PAUSE = 0.02  # seconds between trains


@dataclass(frozen=True)
class Peer:
    """A row. engine: of peer_worker.py. source: kind of file it starts from. place: its environment."""

    name: str
    engine: str
    source: str
    place: str = OWN


PEERS = (
    Peer(EAGER, "pytorch", "unet"),
    Peer("torch.compile fp32", "torch_compile", "unet"),
    Peer("onnxruntime fp32", "onnxruntime", "plain"),
    Peer("onnxruntime fp32, this toolkit's graph", "onnxruntime", "lean"),
    Peer("OpenVINO, not quantized", "openvino", "plain", "openvino"),
    Peer(TOOLKIT, "toolkit", "int8"),
    Peer("this toolkit's int8 file on OpenVINO", "openvino_onnx", "int8", "openvino"),
    Peer("this toolkit's int8 for OpenVINO", "openvino_onnx", "int8_openvino", "openvino"),
    Peer("this toolkit's float file on OpenVINO", "openvino_onnx", "lean", "openvino"),
    Peer("onnxruntime quantize_static int8", "quantize_static", "plain", "onnxruntime"),
    Peer("onnxruntime quantize_static int8, tuned", "quantize_static_tuned", "plain", "onnxruntime"),
    Peer("onnxruntime quantize_static int8, this toolkit's graph", "quantize_static", "lean", "onnxruntime"),
    Peer("onnxruntime quantize_dynamic int8, this toolkit's graph", "quantize_dynamic", "lean", "onnxruntime"),
    Peer("NNCF int8 on OpenVINO, defaults", "nncf", "plain", "openvino"),
    Peer("NNCF int8 on OpenVINO, tuned", "nncf_tuned", "plain", "openvino"),
    Peer("optimum-quanto int8", "quanto", "unet", "optimum-quanto"),
)


def measure(
    peers: Sequence[Peer],
    batch: int,
    threads: int,
    rounds: int,
    files: Files,
    found: Mapping[str, Place],
    folder: Path,
    start: Callable[[Path, int, Path], Worker] = Worker,
) -> list[dict[str, Any]]:
    """One row a peer, in their order: its figures, or {"name", "reason"}. The cell of one model and batch size."""
    rows: dict[str, dict[str, Any]] = {peer.name: {"name": peer.name} for peer in peers}
    outputs: dict[str, np.ndarray] = {}
    workers: dict[str, Worker] = {}
    try:
        with terminal.progress("loading and quantizing", len(peers)) as task:
            for number, peer in enumerate(peers):
                own = folder / str(number)
                own.mkdir()
                try:
                    place, source = found[peer.place], files.sources[peer.source, batch]
                    for fault in (place, source):
                        if isinstance(fault, str):
                            raise PeerError(fault)
                    workers[peer.name] = start(Path(place[0]), threads, own / "log.txt")
                    rows[peer.name] |= _load(workers[peer.name], peer, source, files, batch, threads, own)
                    outputs[peer.name] = _outputs(workers[peer.name], files, own / "outputs.npy")
                    terminal.log(f"{peer.name}: ready, loaded in {rows[peer.name]['preparation_s']:.0f} s")
                except PeerError as error:
                    _fail(peer.name, str(error), rows, workers)
                task.advance()
        times = _time(workers, rows, rounds, files)
    finally:
        for worker in workers.values():
            worker.close()
    for name, ms in times.items():
        rows[name] |= _figures(name, times, ms) | _exactness(name, outputs, files.wanted)
    return list(rows.values())


def _fail(name: str, reason: str, rows: dict[str, dict[str, Any]], workers: dict[str, Worker]) -> None:
    """The row becomes its reason, and the process ends."""
    rows[name] = {"name": name, "reason": reason}
    if name in workers:
        workers.pop(name).close()
    terminal.log(f"{name}: {reason}")


def _load(
    worker: Worker, peer: Peer, source: Path | str, files: Files, batch: int, threads: int, folder: Path
) -> dict[str, Any]:
    began = time.perf_counter()
    request: dict[str, Any] = {"engine": peer.engine, "source": str(source), "calibration": str(files.calibration)}
    answer = worker.ask(do="load", **request, batch=batch, threads=threads, folder=str(folder))
    return {
        "environment": peer.place,
        "bytes": answer["bytes"],
        "notes": answer["notes"],
        "preparation_s": round(time.perf_counter() - began, 2),
    }


def _outputs(worker: Worker, files: Files, to: Path) -> np.ndarray:
    worker.ask(do="outputs", inputs=str(files.held_out), to=str(to))
    output = np.load(to)
    if output.shape != files.wanted.shape:
        raise PeerError(f"outputs: {list(output.shape)} where {list(files.wanted.shape)} was expected")
    if not np.isfinite(output).all():
        raise PeerError("outputs: not all of them are finite")
    return output


def _time(
    workers: dict[str, Worker], rows: dict[str, dict[str, Any]], rounds: int, files: Files
) -> dict[str, np.ndarray]:
    """Milliseconds a call [rounds] of every worker that lived; each round runs one train of each, in random order."""
    taken: dict[str, list[float]] = {name: [] for name in workers}
    idle: dict[str, list[float]] = {name: [] for name in workers}
    calls = dict.fromkeys(workers, 1)
    shuffle = random.Random(SEED)
    with terminal.progress("timing", rounds) as task:
        for i in range(-latency.WARM_UP, rounds):
            for name in shuffle.sample(sorted(workers), len(workers)):
                time.sleep(PAUSE)
                try:
                    answer = workers[name].ask(do="train", inputs=str(files.held_out), calls=calls[name])
                except PeerError as error:
                    _fail(name, str(error), rows, workers)
                    continue
                if i < 0:
                    calls[name] = min(latency.TRAIN, max(1, int(TRAIN_MS / answer["ms"])))
                else:
                    taken[name].append(answer["ms"])
                    idle[name].append(answer["idle_ms"])
            task.advance(int(i >= 0))
    for name in workers:
        rows[name] |= {"calls_in_train": calls[name], "idle_ms": round(float(np.mean(idle[name])), 3)}
    return {name: np.array(taken[name]) for name in workers}


def _figures(name: str, times: Mapping[str, np.ndarray], ms: np.ndarray) -> dict[str, Any]:
    """speedup: over eager. toolkit_time: the toolkit's time in this row's; above 1 the toolkit is slower."""
    timing = latency.summary(ms)
    figures: dict[str, Any] = {"ms": timing.median, "p90": timing.p90, "interval": timing.interval}
    if EAGER in times:
        figures["speedup"], figures["speedup_interval"] = latency.speedup(times[EAGER], ms)
    if TOOLKIT in times and name != TOOLKIT:
        figures["toolkit_time"], figures["toolkit_time_interval"] = latency.speedup(times[TOOLKIT], ms)
    return figures


def _exactness(name: str, outputs: Mapping[str, np.ndarray], wanted: np.ndarray) -> dict[str, Any]:
    """toolkit_db: by how much the toolkit's SQNR is above this row's, with the bootstrap's interval over inputs."""
    result: dict[str, Any] = {"sqnr_db": sqnr(wanted, outputs[name])}
    if TOOLKIT in outputs and name != TOOLKIT:
        least = 1e-20 * float(np.square(wanted).sum())  # an exact output has no SQNR
        noise, own = (np.square(wanted.astype(np.float64) - outputs[n]).sum((1, 2, 3)) for n in (name, TOOLKIT))

        def above(index: np.ndarray) -> float:
            return 10 * float(np.log10(max(noise[index].sum(), least) / max(own[index].sum(), least)))

        result["toolkit_db"] = above(np.arange(len(wanted)))
        result["toolkit_db_interval"] = interval(bootstrap(above, len(wanted)))
    return result


def reusable(cell: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a kept cell is what these settings would measure."""
    return all(cell.get(name) == value for name, value in settings.items())


def run(models: Sequence[str], batches: Sequence[int], threads: int, rounds: int, fresh: bool, file: Path) -> dict:
    """Measure the cells that are missing, keep each as it is finished, and give back all."""
    kept: list[dict[str, Any]] = []
    with suppress(OSError, ValueError, KeyError):
        stored = json.loads(file.read_text(encoding="utf-8"))
        kept = stored["cells"] if stored["format"] == FORMAT else []
    result: dict[str, Any] = {"format": FORMAT, "cells": kept}
    found: dict[str, Place] = {}
    for model in models:
        common = {"model": model, "threads": threads, "rounds": rounds, "cpu": latency.processor(), "own": OWN_VERSIONS}
        wanted = {batch: {**common, "batch": batch, "peers": [peer.name for peer in PEERS]} for batch in batches}
        missing = [b for b in batches if fresh or not any(reusable(cell, wanted[b]) for cell in result["cells"])]
        terminal.log(
            f"{model}: to measure: batch {missing or 'none'}; kept: {[b for b in batches if b not in missing]}"
        )
        if not missing:
            continue
        found = found or places(sorted({peer.place for peer in PEERS} - {OWN}))
        with tempfile.TemporaryDirectory(prefix="peers-") as name:
            files = prepare(SUBJECTS[model], missing, Path(name))
            for batch in missing:
                work = Path(name) / f"workers-{batch}"
                work.mkdir()
                terminal.log(f"{model}, batch {batch}")
                rows = measure(PEERS, batch, threads, rounds, files, found, work)
                versions = {n: place if isinstance(place, str) else place[1] for n, place in found.items()}
                cell = {**wanted[batch], "title": SUBJECTS[model].title, "calibration": SUBJECTS[model].calibration}
                cell |= {"held_out": HELD_OUT, "rows": rows, "environments": versions}
                key = ("model", "batch", "threads")
                others = [c for c in result["cells"] if any(c.get(k) != cell[k] for k in key)]
                result["cells"] = sorted([*others, cell], key=lambda c: tuple(str(c[k]) for k in key))
                write_json(file, result)
                write_text(file.with_suffix(".md"), table(result))
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write results/peers.json, results/peers.md and the README's table, print the tables and the bar."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="this toolkit's int8 and its peers")
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--batches", nargs="+", type=int, choices=(1, 2, 4, 8), default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--fresh", action="store_true", help="measure again what is kept")
    parser.add_argument("--result", type=Path, default=RESULT, help="where cells are kept")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    result = run(asked.models, asked.batches, asked.threads, asked.rounds, asked.fresh, asked.result)
    print(table(result))
    if asked.result == RESULT:
        rewrite_between(README, "peers", summary(result))
    finish(bars(result))


if __name__ == "__main__":
    main()
