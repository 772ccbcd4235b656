"""Networks whose parameters ``fully_shard`` has spread over several processes."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn


def is_sharded(model: nn.Module) -> bool:
    """Tell whether parameters of a model are spread over several processes."""
    return bool(_find_sharded(model))


@contextmanager
def resharding(model: nn.Module) -> Generator[None]:
    """Run forwards that no backward follows, and free what they gathered.

    Otherwise the outermost parameters would stay gathered, and the next forward would run with
    them as they were, without what an optimiser has done since.
    """
    try:
        yield
    finally:
        for module in _find_sharded(model):
            module.reshard()


def _find_sharded(model: nn.Module) -> list[Any]:
    # Who shards has imported it; it takes a second.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(fsdp, "FSDPModule", None)
    return [] if kind is None else [part for part in model.modules() if isinstance(part, kind)]
