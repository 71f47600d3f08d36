"""TorchScript files: read without Python's pickle, so reading one runs no code; but it is a program, and calling it
runs that. So it needs the same word of trust as a pickle."""

from pathlib import Path

import torch
from torch import nn

from compress.errors import CompressError
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
