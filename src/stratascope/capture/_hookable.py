"""What hooks can be put on."""

import torch
from torch import nn

from stratascope.errors import CaptureError
from stratascope.sites import ROOT_NAME


def check_hookable(path: str, module: nn.Module) -> None:
    """Refuse a module that calls no hooks."""
    if isinstance(module, torch.jit.ScriptModule):
        raise CaptureError(
            f"'{path or ROOT_NAME}' is TorchScript, which calls no hooks of Python: tap the "
            "network before torch.jit.script or torch.jit.trace"
        )


def check_runs_itself(model: nn.Module) -> None:
    """Refuse a network that runs copies of itself."""
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise CaptureError(
            f"the model is DataParallel over {len(model.device_ids)} devices, which runs copies of "
            "the network that its hooks do not reach: use DistributedDataParallel, as PyTorch "
            "advises, or run its module on one device"
        )
