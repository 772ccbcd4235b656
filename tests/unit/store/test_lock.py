import contextlib
import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from stratascope.store import _lock
from stratascope.store._lock import Lock

PATIENCE_S = 20
HOLD = """
import os, sys, time
from pathlib import Path
from stratascope.store._lock import Lock

lock = Lock(Path(sys.argv[1]))
if len(sys.argv) > 2 and os.fork() == 0:  # as a DataLoader makes its workers
    time.sleep(60)
print("held", flush=True)
time.sleep(60)
"""


def take(path):
    """Take a lock that a worker may hold for the moment that it needs to begin."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return Lock(path)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def test_a_lock_is_held_until_it_is_released(tmp_path):
    path = tmp_path / "folder" / "lock"
    first = Lock(path)
    with pytest.raises(BlockingIOError):
        Lock(path)
    first.release()
    second = Lock(path)
    first.release()
    with pytest.raises(BlockingIOError):
        Lock(path)
    second.release()

    assert not path.exists()


def test_a_shared_lock_keeps_out_who_wants_it_alone(tmp_path):
    path = tmp_path / "lock"
    first, second = Lock(path, shared=True), Lock(path, shared=True)
    with pytest.raises(BlockingIOError):
        Lock(path)
    first.release()
    with pytest.raises(BlockingIOError):
        Lock(path)
    assert path.exists()
    second.release()
    assert not path.exists()
    alone = Lock(path)
    with pytest.raises(BlockingIOError):
        Lock(path, shared=True)
    alone.release()

    assert not path.exists()


@pytest.mark.parametrize("worker", [[], ["worker"]], ids=["alone", "with a worker"])
def test_a_lock_goes_with_its_process(tmp_path, worker):
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path), *worker]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(BlockingIOError):
                Lock(path)
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()
            lock = take(path)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(holder.pid, signal.SIGKILL)
    lock.release()

    assert not path.exists()


def test_a_file_that_was_deleted_under_the_lock_is_not_taken_for_it(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    flock, calls = _lock.fcntl.flock, []

    def lock_late(*args):
        # The holder of before lets go between the opening and the locking.
        calls.append(args)
        if len(calls) == 1:
            path.unlink()
        flock(*args)

    monkeypatch.setattr(_lock.fcntl, "flock", lock_late)
    lock = Lock(path)

    assert len(calls) == 2
    assert path.exists()
    with pytest.raises(BlockingIOError):
        Lock(path)
    lock.release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, None])
def test_without_locks_all_goes_on(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, "no locks")

    if code is None:
        monkeypatch.setattr(_lock, "fcntl", None)
    else:
        monkeypatch.setattr(_lock.fcntl, "flock", refuse)
    Lock(tmp_path / "lock").release()
    Lock(tmp_path / "lock").release()

    assert list(tmp_path.iterdir()) == []
