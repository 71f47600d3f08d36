"""Latency of anything that can be run: a bundle, an ONNX file, a checkpoint."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from compress.errors import BundleError
from compress.files import Unreadable, check_regular
from compress.measure.fastest import FASTEST, chosen
from compress.model.denoiser import example_inputs
from compress.pipeline import checkpoint
from compress.runtime import Bundle
from compress.runtime.contents import find
from compress.runtime.engine import DTYPES, Engine, Graph
from compress.runtime.engines import ONNXRUNTIME, engine_called


def callable_for(
    path: Path, threads: int, batch: int, allow_pickle: bool = False, engine: str = ONNXRUNTIME.name
) -> Callable[[], object]:
    """One evaluation, without guidance, of what `path` holds. Raises BundleError or CheckpointError.

    batch: batch size; a bundle or file of fixed batch size is run with its own. engine: what runs graphs, by name.
    """
    folder = find(path)
    if os.path.lexists(folder / "bundle.json"):
        known, _ = chosen(engine, folder, threads)
        bundle = Bundle(folder, threads, engine=known)
        return _graph(folder / bundle.manifest["model"], bundle.graph, known, batch, bundle.steps[0].timestep)
    if path.suffix == ".onnx":
        try:
            check_regular(path)
        except Unreadable as fault:
            raise BundleError(f"{path}: {fault}") from None
        if engine == FASTEST:
            raise BundleError(f"{path}: the fastest engine is found for a bundle; give its folder, or name an engine")
        known = engine_called(engine)
        return _graph(path, known.open(path, threads), known, batch)
    model = checkpoint.load(path, allow_pickle)
    return torch.no_grad()(functools.partial(model.module, *example_inputs(model, batch)))


def _graph(file: Path, graph: Graph, engine: Engine, batch: int, timestep: float = 0) -> Callable[[], object]:
    random = np.random.default_rng(0)
    feeds = {}
    for name, spec in graph.inputs.items():
        if spec["dtype"] not in DTYPES:
            raise BundleError(f"{file}: input {name} is {spec['dtype']}; only {', '.join(DTYPES)} can be timed")
        shape = [size if isinstance(size, int) else batch for size in spec["shape"]]
        known = name == "timestep" or spec["dtype"].startswith("int")
        value = np.full(shape, timestep if name == "timestep" else 0) if known else random.standard_normal(shape)
        feeds[name] = value.astype(spec["dtype"])
    call = functools.partial(graph.run, feeds)
    try:
        call()
    except Exception as error:  # of many kinds, by engine
        raise BundleError(
            f"{file}: {engine.name} cannot run it on inputs of the right shapes; if it is part of a bundle, give the "
            f"bundle's folder: {error}"
        ) from None
    return call
