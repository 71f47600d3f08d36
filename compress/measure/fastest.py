"""Which engine runs a bundle fastest on this machine: those that are installed take turns, and what was found is kept.

Imports no torch, so that a device finds its own.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import BundleError
from compress.files import JSON_BYTES, Unreadable, cache_folder, read_text, sha256, write_json
from compress.measure import latency
from compress.runtime import Bundle
from compress.runtime.contents import verify_files
from compress.runtime.engine import Engine
from compress.runtime.engines import ONNXRUNTIME, engine_called, installed
from compress.runtime.manifest import read_manifest

FASTEST = "fastest"  # in place of an engine's name
ROUNDS = 15
LEAST_DB = 20.0  # to the first engine's output: kernels that round otherwise are beyond, what is wrong is not
FAR = 3.0  # times the least of a few calls: who takes longer takes no turns
Found = dict[str, float | str]  # engine → ms of a guided call of one image, or why it was left out


class _Unseen(nullcontext[Any]):
    def __init__(self, _title: str, _total: int) -> None:
        super().__init__(self)

    def advance(self) -> None:
        """Nothing."""


Progress = Callable[[str, int], AbstractContextManager[Any]]


def engine_name(value: str) -> str:
    """An engine's name, or `fastest`, as it stands in a recipe. Raises ValueError for one that is unknown."""
    try:
        return value if value == FASTEST else engine_called(value).name
    except BundleError as error:
        raise ValueError(str(error)) from None


def foreseen(name: str) -> Engine:
    """The engine of this name; for `fastest` one that is none too fast. Raises BundleError if it is not installed."""
    engine = ONNXRUNTIME if name == FASTEST else engine_called(name)
    _ = engine.version
    return engine


def chosen(
    name: str, path: Path, threads: int | None, progress: Progress = _Unseen, anew: bool = False
) -> tuple[Engine, Found]:
    """(the engine of this name, nothing); for `fastest` that of the bundle in a folder, and what all of them take.

    It is measured once for each bundle, processor, number of threads and set of versions; anew: whatever is known.
    Raises BundleError.
    """
    if name != FASTEST:
        return engine_called(name), {}
    verify_files(path, read_manifest(path))
    engines = installed()
    file = cache_folder() / "engines" / f"{_key(path, threads, engines)}.json"
    found = None if anew else _kept(file, engines)
    if found is not None:
        return engines[_first(found, path)], found
    found = measure(path, threads, engines, progress)
    first = engines[_first(found, path)]
    write_json(file, {"bundle": str(path), "processor": latency.processor(), "threads": threads, "ms": found})
    return first, found


def measure(path: Path, threads: int | None, engines: Mapping[str, Engine], progress: Progress = _Unseen) -> Found:
    """Milliseconds of each engine, or why it is left out: it cannot open the bundle, or computes something else."""
    calls: dict[str, Callable[[], object]] = {}
    found: Found = {}
    wanted: np.ndarray | None = None
    for name, engine in engines.items():
        try:
            bundle = Bundle(path, threads, check_hashes=False, engine=engine)
            call = guided_call(bundle)
            output = call()
        except BundleError as error:
            found[name] = str(error)
            continue
        if not np.isfinite(output).all():
            found[name] = "gives what is not finite"
            continue
        wanted = output if wanted is None else wanted
        calls[name] = call
        if (decibels := _decibels(wanted, output)) < LEAST_DB:
            found[name] = f"computes something else: {decibels:.1f} dB to {next(iter(calls))}"
            del calls[name]
    times = {name: 1000 * latency.taken(call) for name, call in calls.items()}
    close = {name: call for name, call in calls.items() if times[name] <= FAR * min(times.values())}
    taken = latency.interleaved(close, ROUNDS, progress, "the fastest engine")
    found |= times | {name: latency.summary(values).median for name, values in taken.items()}
    return {name: found[name] for name in engines}


def guided_call(bundle: Bundle) -> Callable[[], np.ndarray]:
    """A guided call of one image, or of as many as the file takes, in the middle of its way."""
    count, step = bundle.batch or 1, bundle.steps[len(bundle.steps) // 2]
    noise = np.random.default_rng(0).standard_normal((count, *bundle.sample_shape), np.float32)
    return partial(bundle.guided, noise, step.timestep, bundle.example(count)[1])


def _first(found: Found, path: Path) -> str:
    times = {name: ms for name, ms in found.items() if isinstance(ms, float)}
    if not times:
        raise BundleError(f"{path}: no engine runs it: {'; '.join(map(str, found.values()))}")
    return min(times, key=times.__getitem__)


def _key(path: Path, threads: int | None, engines: Mapping[str, Engine]) -> str:
    """Of a bundle, which names the hashes of its files, and of all that its times depend on."""
    versions = {}
    for name, engine in engines.items():
        try:
            versions[name] = engine.version
        except BundleError as error:
            versions[name] = str(error)
    about = [sha256(path / "bundle.json"), latency.processor(), threads, versions]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def _kept(file: Path, engines: Mapping[str, Engine]) -> Found | None:
    """What an earlier measurement found; None: there is none, or its file is damaged, so that it is made again."""
    try:
        found = json.loads(read_text(file, JSON_BYTES))["ms"]
        return {name: found[name] if isinstance(found[name], str) else float(found[name]) for name in engines}
    except (Unreadable, ValueError, KeyError, TypeError):
        return None


def _decibels(wanted: np.ndarray, output: np.ndarray) -> float:
    """Signal to noise."""
    signal, noise = (float(np.square(value, dtype=np.float64).sum()) for value in (wanted, output - wanted))
    return 10 * float(np.log10(max(signal, 1e-30) / max(noise, 1e-30)))
