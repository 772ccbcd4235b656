import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(sys.executable).with_name("stratascope")


def list_imports(*arguments: str) -> set[str]:
    """The top-level packages that a Python process with these arguments imports."""
    command = [sys.executable, "-X", "importtime", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    rows, rest = [], []
    for line in ended.stderr.splitlines():
        (rows if line.startswith("import time:") else rest).append(line)
    assert ended.returncode == 0, "\n".join(rest)
    return {row.rpartition("|")[2].strip().partition(".")[0] for row in rows}


def test_the_listing_sees_what_is_imported():
    assert "json" in list_imports("-c", "import json.decoder")


def test_importing_the_package_imports_nothing_heavy():
    heavy = {"torch", "zarr", "numpy", "rich", "cyclopts"}

    assert not heavy & list_imports("-c", "import stratascope")


def test_help_imports_neither_torch_nor_zarr():
    assert not {"torch", "zarr"} & list_imports(str(SCRIPT), "--help")


@pytest.mark.parametrize(
    "statement",
    [
        "from stratascope.store import open_store",
        "from stratascope.pipeline import Processes",
        "import stratascope.render",
        "import stratascope.sites",
        "from stratascope import stats; stats.Moments().update([[1.0, 2.0]])",
    ],
)
def test_reading_measuring_and_rendering_import_no_torch(statement):
    assert "torch" not in list_imports("-c", statement)
