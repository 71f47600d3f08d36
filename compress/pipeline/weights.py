"""Reading and writing the weights of a net: safetensors, or pickles of plain tensors where they are allowed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from compress.errors import CheckpointError
from compress.files import Unreadable, check_regular, raising, read_json
from compress.pipeline.variants import STOCK_WEIGHTS

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
Tensor = torch.Tensor
_Tensors = dict[str, torch.Tensor]  # those of safetensors lie in the mapped file until they are copied


def fill(net: nn.Module, renamed: Mapping[str, str], files: Sequence[Path], folder: Path, allow_pickle: bool) -> None:
    """Give `net`, on the meta device, the weights of its folder, in float32. files: as `Source` has them.

    renamed: parts of names in old files → today's.

    Strictly: every weight is used, none is missing, shapes agree, all are finite. Raises CheckpointError.
    """
    wanted = net.state_dict()
    tensors = {_current(name, wanted, renamed): one for name, one in open_files(files, folder, allow_pickle).items()}
    faults = [f"missing {name}" for name in wanted if name not in tensors]
    faults += [f"unknown {name}" for name in tensors if name not in wanted]
    for name, tensor in tensors.items():
        if name in wanted and tensor.shape != wanted[name].shape:
            faults.append(f"{name} is {list(tensor.shape)} and should be {list(wanted[name].shape)}")
    filled = {}
    for name in [] if faults else list(tensors):
        try:
            filled[name] = as_float32(tensors.pop(name))  # of which one is held twice
        except ValueError as error:
            faults.append(f"{name} {error}")
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CheckpointError(f"{folder}: weights are not what config.json asks for: {'; '.join(faults[:3])}{more}")
    net.load_state_dict(filled, assign=True)


def as_float32(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in float32. Raises ValueError, with the end of a sentence, for what is no weight."""
    if tensor.dtype not in _FLOATS:
        found, *floats = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, *_FLOATS))
        raise ValueError(f"is {found}; weights are {', '.join(floats)}")
    # copied, because tensors of a mapped file lie anywhere, and kernels round by where they lie
    copy = torch.empty(tensor.shape, dtype=torch.float32).copy_(tensor)
    if not torch.isfinite(copy).all():
        beyond = bool(torch.isfinite(tensor).all())
        raise ValueError("holds values beyond float32" if beyond else "holds NaN or infinity")
    return copy


def load(file: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a safetensors file, in float32. Raises CheckpointError."""
    found = {}
    for name, tensor in open_safetensors(file).items():
        try:
            found[name] = as_float32(tensor)
        except ValueError as error:
            raise CheckpointError(f"{file}: {name} {error}") from None
    return found


def save(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    """Write a safetensors file with the permissions that any new file has here."""
    file.touch()
    mode = file.stat().st_mode  # safetensors lets nobody read but the owner, whatever the umask is
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    file.chmod(mode)


def open_files(files: Sequence[Path], folder: Path, allow_pickle: bool) -> _Tensors:
    """The tensors of files as `Source` has them, in their own type. Raises CheckpointError."""
    if not files:
        raise CheckpointError(f"{folder}: holds no weights ({STOCK_WEIGHTS}.safetensors)")
    if files[0].suffix == ".safetensors":
        return open_safetensors(files[0])
    if files[0].suffix != ".json":
        return _open_pickle(files[0], allow_pickle)
    with raising(CheckpointError, files[0]):
        content = read_json(files[0])
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{files[0]}: is damaged; copy or download it again")
    found: _Tensors = {}
    for name in sorted(set(names.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{files[0]}: names a file outside its folder")
        if folder / name not in files:
            raise CheckpointError(f"{folder / name}: is missing, or has no shard's name; copy or download it again")
        found |= open_safetensors(folder / name)
    return found


def open_safetensors(file: Path) -> _Tensors:
    """The tensors of one file, which lie in it until they are used. Raises CheckpointError."""
    try:
        check_regular(file)
        opened = safe_open(file, framework="pt")
    except (SafetensorError, OSError, Unreadable) as error:
        reason = f"is missing, truncated or damaged ({error}); copy or download it again"
        raise CheckpointError(f"{file}: {reason}") from None
    try:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except Exception as error:  # of several kinds, for types that this version does not know
        raise CheckpointError(f"{file}: cannot be read: {error}") from None


def _open_pickle(file: Path, allow_pickle: bool) -> _Tensors:
    if not allow_pickle:
        raise CheckpointError(
            f"{file}: is a pickle, which can run code when it is opened; convert it to safetensors, or pass "
            "--allow-pickle if you trust where it comes from (only plain tensors are then read from it)"
        )
    try:
        check_regular(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{file}: cannot be read as plain tensors: {reason}") from None
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise CheckpointError(f"{file}: holds something else than a dictionary of tensors")
    for name, tensor in loaded.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{file}: names a tensor {name!r}; names should be text")
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.device.type != "cpu":
            raise CheckpointError(f"{file}: {name} is no plain tensor, but nested, sparse, quantized or without values")
    return {name: tensor.detach() for name, tensor in loaded.items()}


def _current(name: str, wanted: Mapping[str, Any], renamed: Mapping[str, str]) -> str:
    if name not in wanted:
        for old, new in renamed.items():
            if old in name and name.replace(old, new) in wanted:
                return name.replace(old, new)
    return name
