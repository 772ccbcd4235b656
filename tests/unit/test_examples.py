"""Every script in examples/ runs on its own, and says in its first line what for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def name(path: Path) -> str:
    return path.name


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_an_example_runs_in_an_empty_folder(path, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert ended.stdout
    assert list(tmp_path.rglob("*.png")), "the example draws nothing"


@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_an_example_says_in_one_line_what_it_is_for(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))

    assert docstring is not None
    assert docstring.splitlines()[0].endswith(".")
