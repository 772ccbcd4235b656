"""Callbacks that write a training to a store, for the frameworks that run the training loop.

Each name needs its framework, which an extra of the same name brings, and imports it on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stratascope.integrations._lightning import LightningRecord
    from stratascope.integrations._transformers import TransformersRecord

_HOMES = {
    "LightningRecord": "stratascope.integrations._lightning",
    "TransformersRecord": "stratascope.integrations._transformers",
}

__all__ = ["LightningRecord", "TransformersRecord"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stratascope.integrations' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
