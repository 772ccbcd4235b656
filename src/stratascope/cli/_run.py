"""``stratascope run``: an unmodified script, with its network recorded while it trains."""

import contextlib
import os
import runpy
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

from cyclopts import Parameter
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from stratascope.capture import match_forward_sites
from stratascope.errors import SiteNotFoundError, StoreError, UsageError
from stratascope.pipeline._record import TrainingRecord, record
from stratascope.pipeline._values import parse_dtype
from stratascope.store import open_folder

_VALUED = ("--sites", "--to", "--every", "--dtype")
_STOPPED = 130  # what a shell says of a program that Ctrl-C ended
# What holds a network only to run it elsewhere, and names it so.
_WRAPPED = ("module", "_orig_mod")


def run(
    script: str,
    *args: Annotated[str, Parameter(allow_leading_hyphen=True)],
    sites: Annotated[list[str], Parameter(negative="")],
    to: Path,
    every: int = 100,
    dtype: str | None = None,
) -> int:
    """Run a training script as it is, and store what the sites of its network hold.

    The script runs as python SCRIPT ARGS would run it. Our options come before the script, or after
    all that is the script's: stratascope run --sites 'enc.*' --to run.zarr train.py --lr 0.1

    Where no network has any of the sites by the first step of an optimizer, the script is stopped.

    Args:
        script: The script.
        args: Its own arguments, passed on untouched; a -- parts them from options of ours behind.
        sites: What to store: a name, a glob such as 'enc.*', a class such as 'Conv1d[*]'; several
            by giving the option several times.
        to: Folder of the store, new. Each captured forward becomes a step, numbered from 0.
        every: Capture the first forward of the network, and then every so many.
        dtype: What floating-point values are stored as, such as float16.
    """
    _check(script, sites, to, every, dtype)
    watch = _Watch(sites, to, every=every, dtype=dtype)
    with watch.watching(), _as_the_program(script, args):
        code = _run_script(script)
    failed = watch.finish()
    return code or failed


def arrange_words(words: Sequence[str]) -> list[str]:
    """Put our options first, then ``--``, then the script and what is its own.

    >>> arrange_words(["run", "--to", "a.zarr", "train.py", "--to", "b"])
    ['run', '--to', 'a.zarr', '--', 'train.py', '--to', 'b']
    >>> arrange_words(["run", "train.py", "--lr", "1", "--to", "a.zarr"])
    ['run', '--to', 'a.zarr', '--', 'train.py', '--lr', '1']
    """
    command, rest = words[0], list(words[1:])
    first = 0
    while first < len(rest) and rest[first].startswith("-") and rest[first] != "--":
        first += 2 if rest[first] in _VALUED else 1
    if first > 0:
        ours, script = rest[:first], rest[first:]
        script = script[1:] if script[:1] == ["--"] else script
    elif "--" in rest[1:]:
        last = len(rest) - 1 - rest[::-1].index("--")
        ours, script = rest[last + 1 :], rest[:last]
    else:
        named = (n for n, word in enumerate(rest) if word.partition("=")[0] in _VALUED)
        end = next(named, len(rest))
        ours, script = rest[end:], rest[:end]
    return [command, *ours, *(["--", *script] if script else [])]


def _check(script: str, sites: list[str], to: Path, every: int, dtype: str | None) -> None:
    if not Path(script).is_file():
        raise UsageError(f"the script {script} does not exist")
    if every < 1:
        raise UsageError(f"--every must be at least 1, got {every}")
    for site in sites:
        if site.endswith(":grad"):
            raise UsageError(f"--sites must be values of a forward, got '{site}'")
    parse_dtype(dtype)
    if not open_folder(to).is_vacant():
        raise StoreError(
            f"{to} exists, and the script was not run: choose another folder with --to"
        )


@contextmanager
def _as_the_program(script: str, args: Sequence[str]) -> Generator[None]:
    """Let a script find what it finds when it is started by itself."""
    argv, path = sys.argv, sys.path
    sys.argv = [script, *args]
    sys.path = [str(Path(script).resolve().parent), *path[1:]]
    try:
        yield
    finally:
        sys.argv, sys.path = argv, path


def _run_script(script: str) -> int:
    """Run a script, and give the exit code that it would have had."""
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, int | None):
            return stop.code or 0
        _say(str(stop.code))
        return 1
    except BaseException as error:  # noqa: BLE001 - shown as Python shows what nobody caught
        shown: BaseException | None = error
        while shown is not None:
            shown.__traceback__ = _without_us(shown.__traceback__)
            shown = shown.__cause__ or shown.__context__
        sys.excepthook(type(error), error, error.__traceback__)
        return _STOPPED if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _without_us(traceback: TracebackType | None) -> TracebackType | None:
    """Leave our own frames, and those that started the script, out of a traceback."""
    files = (__file__, runpy.__file__, "<frozen runpy>")
    kept = []
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename not in files:
            kept.append(traceback)
        traceback = traceback.tb_next
    following = None
    for one in reversed(kept):
        one.tb_next, following = following, one
    return following


@dataclass(slots=True, eq=False)
class _Root:
    """A module that the script called, not another module.

    Attributes:
        model: The module.
        kind: Its class, or that of the network that it wraps.
        sites: Which of the selectors it has.
        record: What writes it to a store, where it has some of the sites.
        forwards: How many forwards of it ended well.
        confirmed: Whether it is taken for a network of the script.
    """

    model: Callable[[], nn.Module | None]
    kind: str
    sites: list[str] = field(default_factory=list)
    record: TrainingRecord | None = None
    forwards: int = 0
    confirmed: bool = False


class _Watch:
    """Finds the networks of a script by what it calls, and records them."""

    def __init__(self, sites: list[str], to: Path, *, every: int, dtype: str | None) -> None:
        self._sites = sites
        self._to = to
        self._every = every
        self._dtype = dtype
        self._roots: dict[int, _Root] = {}
        self._unmatched: dict[str, dict[str, str]] = {site: {} for site in sites}
        self._matched: set[str] = set()
        self._stores = 0
        self._failed = False
        self._finished = False
        self._checked = False
        self._inside = threading.local()
        self._process = os.getpid()

    @contextmanager
    def watching(self) -> Generator[None]:
        """See every call of a module, and the way out that asks nobody."""
        call, leave = nn.Module.__call__, os._exit

        # Not a global hook: on the first forward of a network its own hooks are collected before
        # that could attach any.
        def call_watched(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            if getattr(self._inside, "forward", False) or os.getpid() != self._process:
                return call(module, *args, **kwargs)
            self._inside.forward = True
            try:
                root = self._begin(module)
                output = call(module, *args, **kwargs)
                self._end(root)
                return output
            finally:
                self._inside.forward = False

        def leave_finished(status: int) -> None:
            # Worker processes leave this way too.
            if os.getpid() == self._process:
                self.finish()
            leave(status)

        nn.Module.__call__ = call_watched
        os._exit = leave_finished
        steps = register_optimizer_step_pre_hook(self._check_found)
        try:
            yield
        finally:
            nn.Module.__call__, os._exit = call, leave
            steps.remove()

    def _check_found(self, *_: Any) -> None:
        """Tell of sites that are nowhere before an optimizer's first step, not after hours."""
        if self._checked or not self._roots or os.getpid() != self._process:
            return
        self._checked = True
        found = {site for root in self._roots.values() for site in root.sites}
        if not found:
            _say(
                "stratascope: the script was stopped before its optimizer's first step, as no "
                "network that it called so far has any of the sites. To record one that it calls "
                "later, give a site of an earlier one, too"
            )
            raise SystemExit(2)
        for site in self._sites:
            for problem in () if site in found else self._unmatched[site].values():
                _say(f"stratascope: not found so far: {problem}")

    def finish(self) -> int:
        """Finish the stores and say what they hold; give the exit code. Idempotent."""
        if self._finished:
            return int(self._failed)
        self._finished = True
        recorded = [root for root in self._roots.values() if root.record is not None]
        for root in recorded:
            # Where nothing ran twice, what ran once is what there is.
            if root.forwards == 1 and not any(other.confirmed for other in recorded):
                self._guard(root, lambda root=root: self._confirm(root))
        for root in recorded:
            self._guard(root, _record_of(root).close)
            if root.confirmed:
                self._report(root)
        for site, found in self._unmatched.items():
            if site not in self._matched:
                nothing = f"nothing was captured at '{site}': no network with it was called"
                for problem in found.values() or [nothing]:
                    _say(f"stratascope: {problem}")
        # As for other commands: a site that is nowhere is wrong usage.
        return int(self._failed) or (0 if self._matched else 2)

    def _begin(self, module: nn.Module) -> _Root:
        root = self._roots.get(id(module))
        if root is None or root.model() is not module:
            root = self._roots[id(module)] = self._attach(module)
        if root.forwards == 1 and not root.confirmed and root.record is not None:
            # Not before its second forward: a layer may be called once to see what it gives.
            self._guard(root, lambda: self._confirm(root))
        return root

    def _end(self, root: _Root) -> None:
        root.forwards += 1
        if root.confirmed and root.record is not None:
            recording, number = root.record, root.forwards - 1
            self._guard(root, lambda: recording.step(number))

    def _attach(self, module: nn.Module) -> _Root:
        root = _Root(weakref.ref(module), type(module).__name__)
        network: Any = module
        while isinstance(network, nn.Module):
            root.sites = [site for site in self._sites if self._matches(network, site)]
            if root.sites:
                root.kind = type(network).__name__
                self._guard(root, lambda network=network: self._record(root, network))
                break
            network = next(
                (inner for name in _WRAPPED if (inner := getattr(network, name, None)) is not None),
                None,
            )
        return root

    def _record(self, root: _Root, network: nn.Module) -> None:
        root.record = record(network, root.sites, to=self._to, every=self._every, dtype=self._dtype)

    def _matches(self, network: nn.Module, site: str) -> bool:
        try:
            match_forward_sites(network, site)
        except SiteNotFoundError as error:
            # Losses are modules too, but have nothing inside that could have been meant.
            if any(True for _ in network.children()):
                kind = type(network).__name__
                sentence = str(error).partition(" `stratascope.select")[0]
                self._unmatched[site].setdefault(kind, f"{kind}: {sentence}")
            return False
        return True

    def _confirm(self, root: _Root) -> None:
        root.confirmed = True
        self._matched |= {*root.sites}
        self._stores += 1
        recording = _record_of(root)
        if self._stores > 1:
            recording.path = self._to.with_stem(f"{self._to.stem}-{self._stores}")
            if not open_folder(recording.path).is_vacant():
                raise StoreError(f"{recording.path} exists: choose another folder with --to")
        recording.step(0)

    def _guard(self, root: _Root, work: Callable[[], None]) -> None:
        """Do something of ours; what goes wrong there must not stop the script's training."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - said at once, and in the exit code
            self._failed = True
            _say(f"stratascope: {root.kind} is recorded no further: {error}")
            root.confirmed = False
            recording, root.record = root.record, None
            if recording is not None:
                with contextlib.suppress(Exception):
                    recording.close()
                _say(f"stratascope: {_list_steps(recording)} in {recording.path}")

    def _report(self, root: _Root) -> None:
        recording = _record_of(root)
        _say(
            f"stratascope: {root.kind}: {root.forwards} forwards seen, {_list_steps(recording)} in "
            f"{recording.path}"
        )


def _record_of(root: _Root) -> TrainingRecord:
    assert root.record is not None
    return root.record


def _list_steps(recording: TrainingRecord) -> str:
    steps = recording.steps
    shown = ", ".join(str(step) for step in steps[:3])
    if len(steps) > 3:
        shown += f"{', …' if len(steps) > 4 else ''}, {steps[-1]}"
    return f"{len(steps)} kept ({shown})" if steps else "none kept"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the script owns standard output
