"""Hold the package to its size and speed: print each budget, fail where one is broken.

What counts:

- A *code line* has code on it: blank lines, comments and docstrings are free.
- A function is *public* if users can reach it: its own name and its class begin with no underscore,
  and it stands in a public module, or the `__init__` of its package or of the whole mentions it.
  In `cli` every function without an underscore is a command, and so public. The rest is *private*.
- Public functions take at most three positional parameters, the rest by keyword only, in any
  number. Private ones take at most eight parameters in all.
- `self` and `cls`, `*args` and `**kwargs` are not counted; `__dunder__` methods, nested functions
  and what a dataclass generates are exempt.
- Time is the CPU time of the child process, the least of five runs, so that a busy machine does
  not break a budget.

Usage: python tools/budget.py
"""

import ast
import gzip
import io
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

FILE_LINES = 500
PACKAGE_LINES = 26_000
PRIVATE_PARAMETERS = 8
PUBLIC_POSITIONALS = 3
IMPORT_SECONDS = 0.060
HELP_SECONDS = 0.5
VIEWER_BYTES = 120_000
RUNS = 5

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit, what was measured, and where it is broken."""

    name: str
    measured: str
    limit: str
    broken: tuple[str, ...] = ()

    def __str__(self) -> str:
        verdict = "BROKEN" if self.broken else "ok"
        lines = [f"{self.name:<36} {self.measured:>10} of {self.limit:<10} {verdict}"]
        return "\n".join([*lines, *(f"    {place}" for place in self.broken)])


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the package and how it is called."""

    place: str
    public: bool
    positionals: int
    parameters: int


def count_code_lines(source: str) -> int:
    """Count the lines with code on them, without comments and docstrings."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    texts = source.splitlines()
    return sum(1 for line in lines if texts[line - 1].strip())


def find_functions(package: Path) -> Iterator[Function]:
    """Find the functions and methods of a package, without dunder methods and nested functions."""
    top = read_offered(package)
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        hidden = any(re.match(r"_(?!_)", part) for part in inside.parts)
        offered = None
        if hidden and inside.parts[0] != "cli":
            offered = top | read_offered(path.parent)
        for owner, node in list_definitions(ast.parse(path.read_text(encoding="utf-8"))):
            names = [*owner, node.name]
            bound = bool(owner) and "staticmethod" not in map(ast.unparse, node.decorator_list)
            positionals = len(node.args.posonlyargs) + len(node.args.args) - bound
            yield Function(
                place=f"{inside}:{node.lineno} {'.'.join(names)}",
                public=not any(name.startswith("_") for name in names)
                and (offered is None or names[0] in offered),
                positionals=positionals,
                parameters=positionals + len(node.args.kwonlyargs),
            )


def list_definitions(
    tree: ast.AST, owner: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], ast.FunctionDef | ast.AsyncFunctionDef]]:
    """List the functions of a module, each with the classes around it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if not (node.name.startswith("__") and node.name.endswith("__")):
                yield owner, node
        elif isinstance(node, ast.ClassDef):
            yield from list_definitions(node, (*owner, node.name))
        else:
            yield from list_definitions(node, owner)


def read_offered(folder: Path) -> set[str]:
    """Read what the `__init__` of a package mentions, as an import or as the key of a table."""
    names: set[str] = set()
    for path in folder.glob("__init__.py*"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.alias):
                names.add(node.asname or node.name)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
    return names


def check_lines(package: Path) -> Iterator[Budget]:
    """Check the size of each file and of the whole."""
    sizes = {
        str(path.relative_to(package)): count_code_lines(path.read_text(encoding="utf-8"))
        for path in sorted(package.rglob("*.py"))
    }
    total = sum(sizes.values())
    yield Budget(
        "code lines, longest file",
        f"{max(sizes.values(), default=0):,}",
        f"{FILE_LINES:,}",
        tuple(f"{path}: {size:,} lines" for path, size in sizes.items() if size > FILE_LINES),
    )
    yield Budget(
        "code lines, whole package",
        f"{total:,}",
        f"{PACKAGE_LINES:,}",
        (f"{package.name}: {total - PACKAGE_LINES:,} too many",) if total > PACKAGE_LINES else (),
    )


def check_parameters(package: Path) -> Iterator[Budget]:
    """Check how many parameters functions take."""
    functions = list(find_functions(package))
    private = [(each.parameters, each.place) for each in functions if not each.public]
    public = [(each.positionals, each.place) for each in functions if each.public]
    for name, found, limit in [
        ("parameters, private functions", private, PRIVATE_PARAMETERS),
        ("positional ones, public functions", public, PUBLIC_POSITIONALS),
    ]:
        yield Budget(
            name,
            str(max((count for count, _ in found), default=0)),
            str(limit),
            tuple(f"{place}: takes {count}" for count, place in found if count > limit),
        )


def check_viewer(package: Path) -> Iterator[Budget]:
    """Check what a browser loads, compressed, where the viewer has been built."""
    static = package / "viewer" / "static"
    if not static.is_dir():
        return
    sizes = {
        str(path.relative_to(package)): len(gzip.compress(path.read_bytes(), mtime=0))
        for path in sorted(static.rglob("*"))
        if path.suffix in {".js", ".mjs", ".css", ".html"}
    }
    total = sum(sizes.values())
    yield Budget(
        "viewer, compressed",
        f"{total / 1000:.1f} kB",
        f"{VIEWER_BYTES / 1000:.0f} kB",
        tuple(f"{path}: {size:,} B" for path, size in sizes.items())
        if total > VIEWER_BYTES
        else (),
    )


def check_time(name: str, command: Sequence[str], *, limit: float) -> Budget:
    """Check the CPU time of a command."""
    allowed = f"{limit * 1000:.0f} ms"
    try:
        taken = measure_cpu(command)
    except RuntimeError as error:
        return Budget(name, "failed", allowed, (str(error),))
    broken = (f"{' '.join(command)}",) if taken > limit else ()
    return Budget(name, f"{taken * 1000:.0f} ms", allowed, broken)


def measure_cpu(command: Sequence[str]) -> float:
    """Measure the user and system seconds of a command, the least of some runs."""
    taken: list[float] = []
    for _ in range(RUNS):
        # `wait4` gives the figures of this one child; `communicate` would reap it without them.
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as child:
            said = child.stderr.read() if child.stderr else ""
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            last = said.strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
            raise RuntimeError(f"{' '.join(command)}: {last[0]}")
        taken.append(usage.ru_utime + usage.ru_stime)
    return min(taken)


def check_all(package: Path) -> Iterator[Budget]:
    """Check every budget, the quick ones first."""
    yield from check_lines(package)
    yield from check_parameters(package)
    yield from check_viewer(package)
    python = [sys.executable, "-I"]
    script = Path(sys.executable).with_name("stratascope")
    yield check_time(
        "import stratascope, CPU", [*python, "-c", "import stratascope"], limit=IMPORT_SECONDS
    )
    yield check_time(
        "stratascope --help, CPU", [*python, str(script), "--help"], limit=HELP_SECONDS
    )


def main(package: Path = ROOT / "src" / "stratascope") -> int:
    """Print every budget; say by the exit code whether all of them hold."""
    broken = False
    for budget in check_all(package):
        print(budget)
        broken = broken or bool(budget.broken)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
