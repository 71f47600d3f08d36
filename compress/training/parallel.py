"""One objective in several processes, each with its parts of every batch.

Gradients are averaged (DDP), or what is large is split among the processes as well (FSDP, Zhao et al. 2023,
arXiv:2304.11277).
"""

import copy
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from compress.contract import Context
from compress.data import Batch, Dataset, ahead
from compress.errors import PassError
from compress.randomness import Draw, generator
from compress.training.config import TrainingConfig

Part = tuple[torch.Generator, Batch]  # of a batch, and what is random about its losses


def parts(config: TrainingConfig, context: Context) -> int:
    """In how many parts a batch is computed, as many for each process. Raises PassError.

    What is drawn for a part does not depend on the process that computes it: as many parts, the same weights.
    """
    count = math.lcm(config.accumulate, context.processes.count)
    if config.batch_size % count:
        raise PassError(
            f"{context.name}: batch_size: {config.batch_size} cannot be shared out equally among "
            f"{context.processes.count} processes in {count} parts; take a multiple of {count}"
        )
    return count


def batches_from(start: int, config: TrainingConfig, context: Context, dataset: Dataset) -> Iterator[Part]:
    """This process's parts of the batches from a step on.

    Beside a GPU the next is read while one is used. A processor would do both with the same cores, and a second thread
    that computes slows the first down by half: libgomp no longer waits for either actively.
    """
    count = parts(config, context)
    mine = context.processes.mine(range(count))

    def draw(part: int) -> Part:
        key = (context.seed, Draw.STEP, part, 0)
        return generator(*key), dataset.batch(config.batch_size // count, *key)

    keys = (step * count + part for step in range(start, config.steps) for part in mine)
    return map(draw, keys) if context.device.type == "cpu" else ahead(draw, keys)


def splits(config: TrainingConfig, context: Context) -> bool:
    """Whether nets are split among processes."""
    return config.shard and context.processes.count > 1


@contextmanager
def spread(
    objective: nn.Module, net: nn.Module, config: TrainingConfig, context: Context
) -> Iterator[tuple[nn.Module, nn.Module]]:
    """(objective, net) as they are trained: themselves; where nets are split, copies, whose weights they get back."""
    if not splits(config, context):
        objective.to(context.device)
        yield objective, net
        return
    own = [objective, *(model.net for model in getattr(objective, "models", ()))]
    for module in own:
        module.to("cpu")  # where they wait
    trained, inner = copy.deepcopy((objective, net))
    _split(trained, config, context)
    yield trained, inner
    with torch.no_grad():
        for mine, theirs in zip(_tensors(objective), _tensors(trained), strict=True):
            mine.copy_(whole(theirs))
    for module in own:
        module.to(context.device)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _split(objective: Any, config: TrainingConfig, context: Context) -> None:
    """Split every weight among the processes; a stage has its weights whole while it computes."""
    if not hasattr(objective, "models"):
        raise PassError(f"{context.name}: shard is for passes that train a denoiser; leave it away")
    dtype, mesh = config.arithmetic(context.device), init_device_mesh(context.device.type, (context.processes.count,))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    settings: dict[str, Any] = {"mesh": mesh, "mp_policy": policy if dtype else MixedPrecisionPolicy()}
    settings["reshard_after_forward"] = True  # also where no backward pass follows
    for model in objective.models:
        for path, _ in model.family.stages(model.net).values():
            fully_shard(model.net.get_submodule(path), **settings)
        if model is not objective.student:
            fully_shard(model.net, **settings)
    fully_shard(objective, **settings)
    objective.to(context.device)


def wrapped(objective: nn.Module, config: TrainingConfig, context: Context) -> nn.Module:
    """What turns a part of a batch into losses, and at their backward pass averages gradients over the processes."""
    if context.processes.count == 1 or splits(config, context):
        return objective
    devices = [context.device] if context.device.type == "cuda" else None
    return DistributedDataParallel(
        objective,
        devices,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        find_unused_parameters=getattr(objective, "unused", False),
    )


def quiet(prepared: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """While open, gradients are averaged only if it is the last part of a step."""
    return nullcontext() if last or not isinstance(prepared, DistributedDataParallel) else prepared.no_sync()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that may be split among the processes, which must all ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A whole tensor, split as another of its shape is."""
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
