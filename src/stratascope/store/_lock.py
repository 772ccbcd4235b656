"""Who writes a step: locks that go with the process that holds them."""

import contextlib
import errno
import functools
import os
from pathlib import Path

from stratascope.errors import StoreError
from stratascope.store._folder import StepPart
from stratascope.store._layout import COMMITS

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_LOCK_FILE = "lock"
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
_WAIT = "wait for its end, or choose another step or another folder"
_held: set[int] = set()


class Lock:
    """Holds a file as long as it is not released; where the system has no locks, nothing.

    Args:
        path: The file.
        shared: Hold it beside others that share it, and keep out only who wants it alone.

    Raises:
        BlockingIOError: Another process, or another lock of this one, holds it.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self._path = path
        self._descriptor: int | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            return
        _let_go_in_forks()
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        while self._descriptor is None:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno not in _NO_LOCKS:
                    raise
                path.unlink(missing_ok=True)
                return
            # Who held it before may have deleted it after it was opened here.
            if _is_at(descriptor, path):
                self._descriptor = descriptor
                _held.add(descriptor)
            else:
                os.close(descriptor)

    def release(self) -> None:
        """Let others have it; the last one leaves no file. Idempotent."""
        if fcntl is not None and self._descriptor in _held:
            with contextlib.suppress(BlockingIOError):
                # Whoever has it alone now is the last that shared it.
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._path.unlink(missing_ok=True)
            _held.remove(self._descriptor)
            os.close(self._descriptor)
        self._descriptor = None


def lock_step(root: Path, step: int) -> Lock:
    """Hold a step, so that nobody else writes it.

    Raises:
        StoreError: Another run does.
    """
    return _lock(_find_lock(root, step), f"another run is writing step {step} of {root}: {_WAIT}")


def lock_part(root: Path, step: int, part: StepPart) -> list[Lock]:
    """Hold a part of a step, so that others write its other parts only.

    Raises:
        StoreError: Another run writes this part, the whole step, or parts of another size.
    """
    number, count = part
    whole, name = _find_lock(root, step), f"step {step} of {root}"
    held = [_lock(whole, f"a run that is no shard is writing {name}: {_WAIT}", shared=True)]
    try:
        problem = f"another run is writing shard {number}/{count} of {name}"
        own = whole.with_name(f"{_LOCK_FILE}.{number}-of-{count}")
        held.append(_lock(own, f"{problem}: give each its own number"))
        for path in whole.parent.glob(f"{_LOCK_FILE}.*"):
            # After its own: of two with other counts that come at once, one at least sees this.
            if path.name.rpartition("-")[2] != str(count):
                problem = f"{name} is being written in another number of shards than {count}"
                _lock(path, f"{problem}: give all the same", shared=True).release()
    except BaseException:
        for lock in held:
            lock.release()
        raise
    return held


def _find_lock(root: Path, step: int) -> Path:
    return root / COMMITS / str(step) / _LOCK_FILE


def _lock(path: Path, problem: str, *, shared: bool = False) -> Lock:
    try:
        return Lock(path, shared=shared)
    except BlockingIOError as error:
        raise StoreError(problem) from error


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@functools.cache
def _let_go_in_forks() -> None:
    # The workers of a DataLoader outlive a killed run for some seconds: they must not hold it.
    os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    while _held:
        os.close(_held.pop())
