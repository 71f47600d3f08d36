"""TorchScript files: read without Python's pickle, so reading one runs no code; but it is a program, and calling it
runs that. So it needs the same word of trust as a pickle."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from compress.errors import CheckpointError, CompressError
from compress.files import check_regular

SUFFIXES = (".pt", ".ts")


def check_trust(file: Path, allow_pickle: bool) -> None:
    """Raise CompressError unless programs may be run."""
    if not allow_pickle:
        raise CompressError(
            f"{file}: is TorchScript, a program that is run; pass --allow-pickle if you trust where it comes from"
        )


def load(file: Path, allow_pickle: bool) -> nn.Module:
    """The module of a TorchScript file on the CPU, for inference.

    Raises CompressError where that is not allowed; for a file that cannot be read, errors of many kinds.
    """
    check_trust(file, allow_pickle)
    check_regular(file)
    module: nn.Module = torch.jit.load(file, map_location="cpu").eval()
    return module


def classifier(
    file: Path, shape: Sequence[int], classes: int | None, allow_pickle: bool, *more: torch.Tensor
) -> nn.Module:
    """f(samples [b,c,h,w], *more [b]) → logits [b,classes], through which a gradient goes, tried on two samples.

    shape: of a sample; classes: how many there have to be at least. Raises CompressError where programs may not be run,
    CheckpointError for a file that cannot be read or does not run, and for logits without a gradient or too few.
    """
    try:
        found = load(file, allow_pickle)
    except CompressError:
        raise
    except Exception as error:  # of many kinds
        raise CheckpointError(f"{file}: cannot be read as a TorchScript classifier: {_reason(error)}") from None
    sample = torch.zeros(2, *shape, requires_grad=True)
    try:
        with torch.enable_grad():
            logits = found(sample, *more)
            torch.autograd.grad(logits.sum(), sample)
    except Exception as error:
        kind = "noisy samples" if more else "samples"
        raise CheckpointError(f"{file}: fails on 2 {kind} {list(shape)}: {_reason(error)}") from None
    if logits.ndim != 2 or len(logits) != 2 or logits.shape[1] < (classes or 1):
        raise CheckpointError(f"{file}: 2 samples should give logits [2, {classes}]; got {list(logits.shape)}")
    for parameter in found.parameters():  # a TorchScript module has no requires_grad_
        parameter.requires_grad_(False)
    return found


def _reason(error: Exception) -> str:
    """TorchScript ends its messages with it, below a trace."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
