"""``stratascope doctor``."""

import importlib.metadata
import os
import platform
import re
import shutil
from typing import Annotated, Any

from cyclopts import Parameter

from stratascope.cli._output import name_size, print_json, print_line, print_table

# The other extras belong to features that this release lacks.
_USED_EXTRAS = (
    "colour", "demo", "diagnose", "lightning", "objects", "pandas", "parquet", "plot",
    "safetensors", "seismic", "transformers", "umap", "video", "xarray",
)  # fmt: skip
_PACKAGES = ("torch", "numpy", "zarr", "numcodecs", "google-crc32c", "pillow", "cyclopts", "rich")


def doctor(*, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Show versions, devices, extras and free disk space.

    Args:
        json: Print JSON.
    """
    report = examine()
    if json:
        print_json(report)
        return
    print_line(f"stratascope {report['version']}, Python {report['python']}, {report['system']}")
    print_line("\npackages")
    print_table(["", "", ""], [["", name, found] for name, found in report["packages"].items()])
    print_line("\ndevices")
    for device in report["devices"]:
        print_line(f"  {device}")
    print_line("\nextras")
    rows = [
        ["", name, "installed" if not missing else f"lacks {', '.join(missing)}: {_install(name)}"]
        for name, missing in report["extras"].items()
    ]
    print_table(["", "", ""], rows)
    print_line(f"\ndisk\n  {name_size(report['free_bytes'])} free in {report['folder']}")
    snapshots = "copy-on-write" if report["copy_on_write"] else "full copies (torch lacks better)"
    print_line(f"\ncapture\n  snapshots are {snapshots}")


def examine() -> dict[str, Any]:
    """Collect what matters for a report of a problem."""
    import torch

    from stratascope.capture import copies_on_write

    devices = [f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(f"cuda:{index}: {properties.name}, {name_size(properties.total_memory)}")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {
        "version": importlib.metadata.version("stratascope"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": devices,
        "extras": _missing_by_extra(),
        "folder": os.getcwd(),
        "free_bytes": shutil.disk_usage(".").free,
        "copy_on_write": copies_on_write(),
    }


def _missing_by_extra() -> dict[str, list[str]]:
    missing: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("stratascope") or []:
        match = re.search(r"^([\w.-]+).*extra == ['\"](\w+)['\"]", requirement)
        if match and match[2] in _USED_EXTRAS:
            lacking = missing.setdefault(match[2], [])
            try:
                importlib.metadata.version(match[1])
            except importlib.metadata.PackageNotFoundError:
                lacking.append(match[1])
    return dict(sorted(missing.items()))


def _install(extra: str) -> str:
    return f"pip install 'stratascope[{extra}]'"
