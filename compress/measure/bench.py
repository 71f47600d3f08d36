"""Latency of anything that can be run: a bundle, an ONNX file, a checkpoint."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from compress.errors import BundleError
from compress.files import Unreadable, check_regular
from compress.model.denoiser import example_inputs
from compress.pipeline import checkpoint
from compress.runtime import Bundle
from compress.runtime.bundle import find, open_session

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


def callable_for(path: Path, threads: int, batch: int, allow_pickle: bool = False) -> Callable[[], object]:
    """One evaluation, without guidance, of what `path` holds. Raises BundleError or CheckpointError.

    batch: batch size; a bundle or file of fixed batch size is run with its own.
    """
    folder = find(path)
    if os.path.lexists(folder / "bundle.json"):
        bundle = Bundle(folder, threads)
        return _onnx(folder / bundle.manifest["model"], bundle.session, batch, bundle.steps[0].timestep)
    if path.suffix == ".onnx":
        try:
            check_regular(path)
        except Unreadable as fault:
            raise BundleError(f"{path}: {fault}") from None
        return _onnx(path, open_session(path, threads), batch)
    model = checkpoint.load(path, allow_pickle)
    return functools.partial(_evaluate, model.module, example_inputs(model, batch))


def _evaluate(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    with torch.no_grad():
        return module(*inputs)


def _onnx(file: Path, session: onnxruntime.InferenceSession, batch: int, timestep: float = 0) -> Callable[[], object]:
    random = np.random.default_rng(0)
    feeds = {}
    for entry in session.get_inputs():
        if entry.type not in _TYPES:
            raise BundleError(f"{file}: input {entry.name} is {entry.type}; only {', '.join(_TYPES)} can be timed")
        shape = [size if isinstance(size, int) else batch for size in entry.shape]
        dtype = _TYPES[entry.type]
        told = entry.name == "timestep"
        known = told or np.issubdtype(dtype, np.integer)
        value = np.full(shape, timestep if told else 0) if known else random.standard_normal(shape)
        feeds[entry.name] = value.astype(dtype)
    call = functools.partial(session.run, None, feeds)
    try:
        call()
    except Exception as error:  # onnxruntime raises its own, undocumented exception types
        raise BundleError(
            f"{file}: onnxruntime cannot run it on inputs of the right shapes; if it is part of a bundle, give the "
            f"bundle's folder: {error}"
        ) from None
    return call
