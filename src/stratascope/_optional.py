"""The one door to optional packages."""

import importlib
from types import ModuleType

from stratascope.errors import MissingExtraError


def require(module: str, *, extra: str | None = None) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Args:
        module: The dotted name to import.
        extra: The extra of stratascope that installs it; None for a package that reading a store
            can do without, although stratascope installs it.

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
        wanted = f"'stratascope[{extra}]'" if extra else package
        raise MissingExtraError(
            f"this needs {package}, which is not installed: pip install {wanted}"
        ) from None
