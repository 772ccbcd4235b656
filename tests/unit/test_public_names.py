import ast
import subprocess
import sys
from pathlib import Path

import pytest

import stratascope

STUB = Path(stratascope.__file__).with_suffix(".pyi")
AT_MOST = 25


def read_stub() -> set[str]:
    """The names that a type checker sees."""
    names: set[str] = set()
    for node in ast.parse(STUB.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom | ast.Import):
            names |= {alias.asname for alias in node.names if alias.asname == alias.name}
        elif isinstance(node, ast.AnnAssign):
            names.add(ast.unparse(node.target))
    return names


def test_the_stub_lists_what_the_package_offers():
    assert sorted(stratascope.__all__) == sorted(read_stub())


def test_no_name_is_listed_twice():
    assert len(stratascope.__all__) == len(set(stratascope.__all__))


def test_the_public_names_stay_few():
    assert len(stratascope.__all__) <= AT_MOST


@pytest.mark.parametrize("name", sorted(stratascope.__all__))
def test_every_public_name_can_be_had(name):
    assert getattr(stratascope, name) is not None


@pytest.mark.parametrize("name", sorted(stratascope.__all__))
def test_a_public_thing_bears_the_name_under_which_it_is_offered(name):
    value = getattr(stratascope, name)

    assert getattr(value, "__name__", name).rpartition(".")[2] == name


def test_dir_lists_the_public_names_before_any_was_used():
    code = "import stratascope as ss; print(*dir(ss)); print(*sorted(ss.__all__))"
    listed, expected = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()

    assert listed == expected


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'stratascope' has no attribute 'tapp'"):
        _ = stratascope.tapp
