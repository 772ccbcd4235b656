"""The one door to optional packages."""

import importlib
from types import ModuleType

from stratascope.errors import MissingExtraError


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Args:
        module: The dotted name to import.
        extra: The extra of stratascope that installs it.

    Raises:
        MissingExtraError: The package is not installed.

    >>> require("json", extra="none").loads("[1]")
    [1]
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise MissingExtraError(
            f"this needs {package}, which is not installed: pip install 'stratascope[{extra}]'"
        ) from None
