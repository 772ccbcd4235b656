"""One run at a time writes a step: a lock that goes with the process that holds it."""

import errno
import functools
import os
from pathlib import Path

from stratascope.errors import StoreError
from stratascope.store._layout import Paths

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
_held: set[int] = set()


class Lock:
    """Holds a file as long as it is not released; where the system has no locks, nothing.

    Raises:
        BlockingIOError: Another process, or another lock of this one, holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            return
        _let_go_in_forks()
        while self._descriptor is None:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        """Let others have it, and leave no file. Idempotent."""
        if self._descriptor in _held:
            self._path.unlink(missing_ok=True)
            _held.remove(self._descriptor)
            os.close(self._descriptor)
        self._descriptor = None


def lock_step(paths: Paths) -> Lock:
    """Hold a step, so that nobody else writes it.

    Raises:
        StoreError: Another run does.
    """
    try:
        return Lock(paths.lock)
    except BlockingIOError as error:
        raise StoreError(
            f"another run is writing step {paths.step} of {paths.root}: wait for its end, or "
            "choose another step or another folder"
        ) from error


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
