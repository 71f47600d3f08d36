"""The processes that one command was started in, by torchrun or `accelerate launch`: who they are and how they meet."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

Item = TypeVar("Item")
PATIENCE = timedelta(days=7)  # of the others while one works alone; where one dies, the launcher ends them all


@dataclass(frozen=True)
class Processes:
    """This one is number `index` of `count`, and number `local` on its machine. The first alone writes and prints."""

    index: int = 0
    count: int = 1
    local: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the first."""
        return self.index == 0

    def mine(self, items: Sequence[Item]) -> Sequence[Item]:
        """This one's share of what is done once."""
        return items[self.index :: self.count]

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            distributed.barrier()

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """Of each number over all processes; in place."""
        if self.count > 1:
            distributed.all_reduce(numbers)
        return numbers

    def agreed(self, number: float, device: torch.device) -> float:
        """What the first says, for all."""
        if self.count == 1:
            return number
        said = torch.tensor(number, dtype=torch.float64, device=device)
        distributed.broadcast(said, 0)
        return float(said)


ALONE = Processes()


def joined(cpu: bool) -> Processes:
    """The processes of this command, once all are there. cpu: whether they compute there and not on a GPU each."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return ALONE
    from accelerate import PartialState  # takes seconds to import

    state = PartialState(cpu=cpu, timeout=PATIENCE)
    return Processes(state.process_index, state.num_processes, state.local_process_index)
