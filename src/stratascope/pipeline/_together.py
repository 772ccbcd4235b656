"""Processes that hold one network together, each of them a part of its parameters."""

from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from stratascope.errors import CaptureError, first_line

_PATIENCE = timedelta(minutes=2)


def meet(model: nn.Module, *, writes: bool) -> None:
    """Wait for all processes that hold a network together, if it is held so.

    Its forwards need them all: without one the others would wait, and nobody would say for what.

    Raises:
        CaptureError: One of them does not come, or several of them are to write.
    """
    # The parameters themselves may just be gathered.
    meshes = (getattr(value, "device_mesh", None) for value in model.state_dict().values())
    for mesh in dict.fromkeys(mesh for mesh in meshes if mesh is not None):
        writers = torch.tensor(int(writes), device=mesh.device_type)
        for group in mesh.get_all_groups():
            _add_up(writers, group)
        if writers > 1:
            raise CaptureError(
                "one of the processes that hold a network together must write, but "
                f"{int(writers)} of them are to: give to=None to the others"
            )


def _add_up(number: Tensor, group: Any) -> None:
    work = distributed.all_reduce(number, group=group, async_op=True)
    assert work is not None
    try:
        work.wait(_PATIENCE)
    except RuntimeError as error:
        raise CaptureError(
            "all processes that hold a network together must record it, but this one waited for "
            f"the others in vain ({first_line(error)}): make the record in each, with to=None in "
            "all but one, and call its step in each"
        ) from error
