"""Tensors on their way between the host and the device that computes, so that neither waits for the other."""

import torch


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device. From the host it goes by pinned memory: in its turn, and the host goes on meanwhile."""
    leaves = tensor.device.type == "cpu" and device.type != "cpu"
    return tensor.pin_memory().to(device, non_blocking=True) if leaves else tensor.to(device)


class Arriving:
    """A tensor's numbers on their way to the host, while the device goes on with what it is told next."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._numbers = tensor.to("cpu", non_blocking=True)
        self._there = torch.cuda.current_stream(tensor.device).record_event() if tensor.is_cuda else None

    def read(self) -> list[float]:
        """The numbers; waits for them, and for nothing that the device was told after them."""
        if self._there is not None:
            self._there.synchronize()
        numbers: list[float] = self._numbers.tolist()
        return numbers


def memory(device: torch.device) -> tuple[int, int] | None:
    """(bytes that tensors take, bytes that there are) of a device with a memory of its own."""
    if device.type != "cuda":
        return None
    return torch.cuda.memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
