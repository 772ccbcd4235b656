"""Copies to the host that a GPU makes while the program goes on."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stratascope.capture._structure import map_tensors


@dataclass(frozen=True, slots=True)
class Staged:
    """A value whose tensors are on their way to the host.

    Attributes:
        value: The value; before `wait` has returned, its tensors may hold anything.
        arrived: An event for every copy that is not complete yet.
    """

    value: Any
    arrived: tuple[Any, ...]

    def wait(self) -> Any:
        """Give the value, once its copies are complete."""
        for event in self.arrived:
            event.synchronize()
        return self.value


def stage(value: Any) -> Staged:
    """Start the copies of a value's tensors to the host, so that nobody has to wait for them yet.

    Tensors of other devices than CUDA's are there when it returns; those of the host are not
    copied.
    """
    arrived: list[Any] = []

    def send(tensor: Tensor) -> Tensor:
        if not tensor.is_cuda:
            return tensor.cpu()
        # Into pinned memory, which torch has a pool of: a copy that is still under way, or that
        # somebody holds, is never given out again.
        host = tensor.to("cpu", non_blocking=True)
        # The copy is in the queue of the tensor's device, which need not be the current one. A
        # later write to the tensor by the network stands behind it there.
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(tensor.device))
        arrived.append(event)
        return host

    return Staged(map_tensors(send, value), tuple(arrived))
