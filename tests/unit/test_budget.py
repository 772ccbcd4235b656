import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "tools" / "budget.py"
SPEC = importlib.util.spec_from_file_location("budget", PATH)
budget = importlib.util.module_from_spec(SPEC)
sys.modules["budget"] = budget
SPEC.loader.exec_module(budget)


@pytest.fixture
def package(tmp_path):
    """A package in which every budget holds, close to its limit."""
    root = tmp_path / "small"
    write(
        root / "__init__.py", 'from small._inside import offered\n\n_HOMES = {"Thing": "small"}\n'
    )
    write(
        root / "_inside.py",
        '"""A docstring\n\nis free."""\n\n# as is a comment\n'
        "def offered(a, b, c, *, d, e, f, g, h, i): ...\n"
        "def helper(a, b, c, d, e, f, g, h): ...\n"
        "class Thing:\n"
        "    def __init__(self, a, b, c, d, e, f, g, h, i): ...\n"
        "    def method(self, a, b, c): ...\n"
        "    @classmethod\n"
        "    def make(cls, a, b, c): ...\n"
        "    @staticmethod\n"
        "    def join(a, b, c): ...\n"
        "    def _hidden(self, a, b, c, d, e, f, g, h): ...\n",
    )
    write(root / "cli" / "_command.py", "def run(a, *, b, c, d, e, f, g, h, i, j): ...\n")
    write(root / "viewer" / "static" / "page.js", "let a = 1\n")
    return root


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def check(package):
    """The places that break a budget, of those that need no running of the package."""
    checks = [budget.check_lines, budget.check_parameters, budget.check_viewer]
    return [place for each in checks for found in each(package) for place in found.broken]


def test_a_package_within_its_budgets_breaks_none(package):
    assert check(package) == []


def test_code_lines_are_those_with_code_on_them():
    statement = "x = (\n    1,\n)  # three lines\n"
    text = 't = """a\n\nb"""\n'
    function = 'def f():\n    """Free,\n\n    all of it."""\n\n    # and this\n    return x\n'

    assert budget.count_code_lines(statement + text + function) == 3 + 2 + 2


def test_a_file_that_is_too_long_is_named(package):
    write(package / "_long.py", "x = 1\n" * 501)

    assert check(package) == ["_long.py: 501 lines"]


def test_a_package_that_is_too_large_is_reported(package, monkeypatch):
    monkeypatch.setattr(budget, "PACKAGE_LINES", 10)

    assert check(package) == ["small: 3 too many"]


def test_a_private_function_with_too_many_parameters_is_named(package):
    write(package / "_wide.py", "\n\ndef helper(a, b, c, d, e, f, g, *, h, i): ...\n")

    assert check(package) == ["_wide.py:3 helper: takes 9"]


def test_a_hidden_method_with_too_many_parameters_is_named(package):
    write(package / "_wide.py", "class Wide:\n    def _f(self, a, b, c, d, e, f, g, h, i): ...\n")

    assert check(package) == ["_wide.py:2 Wide._f: takes 9"]


@pytest.mark.parametrize(
    ("path", "source", "place"),
    [
        ("open.py", "def f(a, b, c, d): ...\n", "open.py:1 f"),
        ("open.py", "class A:\n    def f(self, a, b, /, c, d): ...\n", "open.py:2 A.f"),
        ("open.py", "class A:\n    @staticmethod\n    def f(a, b, c, d): ...\n", "open.py:3 A.f"),
        ("open.py", "if True:\n    async def f(a, b, c, d): ...\n", "open.py:2 f"),
        ("_inside.py", "def offered(a, b, c, d): ...\n", "_inside.py:1 offered"),
        ("_inside.py", "class Thing:\n    def f(self, a, b, c, d): ...\n", "_inside.py:2 Thing.f"),
        (
            "deep/_in.py",
            "class Thing:\n    def f(self, a, b, c, d): ...\n",
            "deep/_in.py:2 Thing.f",
        ),
        ("cli/_command.py", "def run(a, b, c, d): ...\n", "cli/_command.py:1 run"),
    ],
)
def test_a_public_function_with_too_many_positionals_is_named(package, path, source, place):
    write(package / path, source)

    assert check(package) == [f"{place}: takes 4"]


def test_a_function_inside_a_function_is_exempt(package):
    write(package / "open.py", "def f():\n    def g(a, b, c, d, e, f, g, h, i): ...\n")

    assert check(package) == []


def test_a_viewer_that_is_too_large_is_reported(package, monkeypatch):
    monkeypatch.setattr(budget, "VIEWER_BYTES", 20)

    assert check(package) == ["viewer/static/page.js: 30 B"]


def test_a_viewer_that_is_not_built_has_no_budget(tmp_path):
    assert list(budget.check_viewer(tmp_path)) == []


def test_a_command_that_takes_too_long_is_named():
    command = [sys.executable, "-I", "-c", "sum(range(1_000_000))"]
    found = budget.check_time("sum", command, limit=0.001)

    assert found.broken == (" ".join(command),)


def test_a_command_that_waits_costs_nothing(monkeypatch):
    monkeypatch.setattr(budget, "RUNS", 1)
    command = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(0.5)"]

    assert budget.check_time("sleep", command, limit=0.4).broken == ()


def test_a_command_that_fails_breaks_its_budget_and_says_why():
    command = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    found = budget.check_time("fail", command, limit=1)

    assert found.measured == "failed"
    assert "no such thing" in found.broken[0]


def test_the_exit_code_says_whether_all_budgets_hold(package, monkeypatch, capsys):
    monkeypatch.setattr(budget, "RUNS", 1)
    monkeypatch.setattr(budget, "check_time", lambda name, *_, **__: budget.Budget(name, "1", "2"))

    assert budget.main(package) == 0
    assert "BROKEN" not in capsys.readouterr().out

    write(package / "open.py", "def f(a, b, c, d): ...\n")

    assert budget.main(package) == 1
    assert "open.py:1 f: takes 4" in capsys.readouterr().out
