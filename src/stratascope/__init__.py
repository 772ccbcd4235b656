"""See inside a neural network: capture what every layer makes of every input, keep it, look at it.

The public names load on first use, so that ``import stratascope`` imports neither torch nor zarr.
Their types and the list of them stand in ``__init__.pyi``.
"""

import importlib
from typing import Any

_HOMES = {
    "Activations": "stratascope.capture",
    "Site": "stratascope.sites",
    "SiteInfo": "stratascope.capture",
    "Store": "stratascope.store",
    "Tap": "stratascope.capture",
    "Trace": "stratascope.capture",
    "TrainingRecord": "stratascope.pipeline._record",
    "compare": "stratascope.pipeline._compare",
    "debug": "stratascope.capture",
    "extract": "stratascope.pipeline._extract",
    "open_store": "stratascope.store",
    "profile": "stratascope.pipeline._profile",
    "record": "stratascope.pipeline._record",
    "select": "stratascope.capture",
    "split": "stratascope.capture",
    "submodel": "stratascope.capture",
    "survey": "stratascope.capture",
    "tap": "stratascope.capture",
    "trace": "stratascope.capture",
    "tune_allocator": "stratascope.capture",
}
_MODULES = ("diagnose", "errors", "render")

__all__ = ["__version__", *sorted(_HOMES), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"stratascope.{name}")
    elif name == "__version__":
        from importlib.metadata import version

        value = version("stratascope")
    else:
        raise AttributeError(f"module 'stratascope' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
