"""What the documentation promises: every example runs, every public name has a page."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

import stratascope

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
SOURCES = sorted((ROOT / "src").rglob("*.py"))
NAMESPACES = [
    "stratascope",
    "stratascope.diagnose",
    "stratascope.integrations",
    "stratascope.pipeline",
    "stratascope.render",
    "stratascope.seismic",
    "stratascope.stats",
]

# Wider on purpose than what the collector of `conftest.py` knows: `py`, `python title="x"`, `~~~`.
FENCE = re.compile(r"[ \t>]*(?:[-*+] |\d+[.)] )?[ \t]*(?P<fence>`{3,}|~{3,})(?P<info>.*)")
PYTHON = re.compile(r"\{?\.?(?:py|python|python3|pycon|ipython)\b", re.IGNORECASE)
PROMPT = re.compile(r"^[ \t]*>>> (?!#)", re.MULTILINE)
OPT_OUT = re.compile(r"^[ \t]*<!--\s*not run\b:?(?P<reason>.*?)-->", re.MULTILINE | re.DOTALL)
DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page: where its fence opens, what stands after it, and what is inside."""

    line: int
    info: str
    source: str


def find_blocks(text: str) -> list[Block]:
    """Find the fenced blocks of a Markdown page, whatever their language."""
    blocks: list[Block] = []
    opened: tuple[int, str, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        match = FENCE.fullmatch(line)
        if opened is None and match:
            opened, inside = (number, match["fence"], match["info"].strip()), []
        elif opened is not None and match and not match["info"].strip().strip("`~"):
            if match["fence"].startswith(opened[1]):
                blocks.append(Block(opened[0], opened[2], "\n".join(inside)))
                opened = None
        elif opened is not None:
            inside.append(line)
    assert opened is None, f"the fence of line {opened[0] if opened else 0} is never closed"
    return blocks


def find_python(text: str) -> list[Block]:
    """Find the blocks that a reader takes for Python."""
    return [block for block in find_blocks(text) if PYTHON.match(block.info)]


def shorten(path: Path) -> str:
    """The path as pytest prints it."""
    return path.relative_to(ROOT).as_posix()


def read(path: Path) -> str:
    """The text of a file of the repository."""
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def collected() -> Counter[str]:
    """How many examples of each file the test run collects."""
    settings = tomllib.loads(read(ROOT / "pyproject.toml"))["tool"]["pytest"]["ini_options"]
    # Named one by one: what `testpaths` lists is collected even where it is to be ignored.
    places = [path for path in settings["testpaths"] if path != "tests"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *places],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    ids = (line for line in ended.stdout.splitlines() if "::line:" in line)
    return Counter(line.partition("::")[0] for line in ids)


def test_the_search_for_blocks_sees_what_a_reader_sees():
    page = "a\n```python\n1\n```\n\n- x\n    ```py title='y'\n    2\n    ```\n~~~ pycon\n3\n~~~\n"

    assert [block.line for block in find_python(page)] == [2, 7, 10]


def count_examples(page: Path) -> int:
    """How many tests the Python blocks of a page must give: one a prompt, or one a block."""
    total = 0
    for block in find_python(read(page)):
        place = f"{shorten(page)}:{block.line}"
        assert block.info == "python", f"{place}: write ```python, ```{block.info} would not run"
        prompts = block.source.lstrip().startswith(">>>") and not is_opted_out(page, block)
        total += len(PROMPT.findall(block.source)) if prompts else 1
    return total


def is_opted_out(page: Path, block: Block) -> bool:
    """Whether a reason not to run it stands above a block."""
    above = "\n".join(read(page).splitlines()[: block.line - 1]).rstrip()
    return any(match.end() == len(above) for match in OPT_OUT.finditer(above))


@pytest.mark.parametrize("page", PAGES, ids=shorten)
def test_every_python_block_of_a_page_is_collected(page, collected):
    assert collected[shorten(page)] == count_examples(page)


@pytest.mark.parametrize("page", PAGES, ids=shorten)
def test_a_prompt_stands_only_in_a_block_that_is_run(page):
    others = [block for block in find_blocks(read(page)) if block.info != "python"]

    assert not [block.line for block in others if ">>> " in block.source]


@pytest.mark.parametrize("source", SOURCES, ids=shorten)
def test_every_example_of_a_docstring_is_collected(source, collected):
    assert collected[shorten(source)] == len(PROMPT.findall(read(source)))


def list_opt_outs() -> list[tuple[str, re.Match[str]]]:
    """The blocks that say that they do not run, with their place."""
    return [
        (f"{shorten(page)}:{len(match.string[: match.end()].splitlines())}", match)
        for page in PAGES
        for match in OPT_OUT.finditer(read(page))
    ]


def test_a_block_that_does_not_run_says_why():
    for place, match in list_opt_outs():
        mark = match[0].strip()

        assert re.fullmatch(r"<!-- not run: \S.+ -->", mark), f"{place}: write {mark!r} on one line"
        assert len(match["reason"].split()) >= 3, f"{place}: {mark!r} gives no reason"


def test_a_reason_stands_directly_above_its_block():
    for place, match in list_opt_outs():
        below = match.string[match.end() :].lstrip()

        assert below.startswith("```python\n"), f"{place}: {match[0]!r} is above no block"


def list_public() -> list[tuple[str, str]]:
    """The public functions and classes, as (module, name)."""
    found: list[tuple[str, str]] = []
    for namespace in NAMESPACES:
        module = importlib.import_module(namespace)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isroutine(value):
                found.append((namespace, name))
    return found


def has_example(value: object) -> bool:
    """Whether a function, or a class or one of its public methods, shows itself at work."""
    texts = [value.__doc__ or ""]
    if inspect.isclass(value):
        texts += [getattr(value, name).__doc__ or "" for name in vars(value) if name[0] != "_"]
    return any(">>> " in text for text in texts)


def test_every_public_name_has_a_running_example():
    lacking = [
        f"{namespace}.{name}"
        for namespace, name in list_public()
        if not has_example(getattr(importlib.import_module(namespace), name))
    ]

    assert not lacking, f"without a >>> example in the docstring: {', '.join(lacking)}"


def list_directives() -> set[str]:
    """What the pages of the reference show, by dotted name."""
    return {
        name
        for page in (DOCS / "reference").rglob("*.md")
        for name in DIRECTIVE.findall(read(page))
    }


def test_every_public_name_has_a_place_in_the_reference():
    lacking = {f"{namespace}.{name}" for namespace, name in list_public()} - list_directives()

    assert not lacking, f"add '::: NAME' to a page of docs/reference: {', '.join(sorted(lacking))}"


def test_the_reference_names_nothing_that_is_gone():
    for name in list_directives():
        assert pkgutil.resolve_name(name) is not None


def flatten_nav(nav: object) -> list[str]:
    """The pages of a navigation tree, in order."""
    if isinstance(nav, str):
        return [nav]
    children = nav.values() if isinstance(nav, dict) else nav
    return [page for child in children for page in flatten_nav(child)]


def test_every_page_is_in_the_navigation_once_and_exists():
    listed = flatten_nav(yaml.safe_load(read(ROOT / "mkdocs.yml"))["nav"])
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]

    assert not set(pages) - set(listed), "add these pages to `nav` in mkdocs.yml"
    assert not set(listed) - set(pages), "`nav` in mkdocs.yml lists pages that do not exist"
    assert len(listed) == len(set(listed))


def test_the_public_namespaces_are_those_that_are_checked_here():
    modules = {
        f"stratascope.{name}"
        for name in stratascope.__all__
        if inspect.ismodule(getattr(stratascope, name)) and name != "errors"
    }

    assert modules <= set(NAMESPACES)
