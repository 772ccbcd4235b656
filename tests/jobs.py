"""Jobs, networks and data for runs in other processes, which find them by this module's name."""

import multiprocessing
import os
import signal
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from stratascope.pipeline import Job


class Stop(Exception):
    """What a test lets happen in the user's own code."""


class Unsendable(Exception):
    """An error that cannot be made again from what it was pickled with."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def is_worker():
    return multiprocessing.parent_process() is not None


def die_if(path):
    """End this process as lack of memory does, once, where a file says so."""
    if path.exists() and is_worker():
        path.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


class Noted(Job):
    """Gives the units that it runs, and notes in a folder what happens to it."""

    def __init__(self, folder, *, stop_at=None, make_error=None):
        self.folder, self.stop_at, self.make_error = folder, stop_at, make_error

    @contextmanager
    def begin(self):
        (self.folder / f"begun {os.getpid()}").touch(exist_ok=False)
        try:
            yield self._run
        finally:
            (self.folder / f"ended {os.getpid()}").touch(exist_ok=False)

    def _run(self, units):
        for unit in units:
            die_if(self.folder / f"die at {unit.start}")
            if unit.start == self.stop_at:
                raise self.make_error()
            (self.folder / f"ran {unit.start}").touch(exist_ok=False)
            yield unit, os.getpid()


class Stillborn(Job):
    """Ends the process that begins it."""

    def begin(self):
        os._exit(3)


class Convnet(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.relu = nn.Conv1d(1, 3, 3), nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv(x))


class Maps(nn.Module):
    """Arithmetic that is the same for any number of samples."""

    def __init__(self):
        super().__init__()
        self.maps, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x):
        scale = torch.arange(1, 41, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 2))
        return self.act(self.maps(x * scale)).flatten(1)


class Pairs(Dataset):
    """Signals with a target, of which one ends the run where a file says so, a worker suddenly."""

    def __init__(self, values, fatal=Path("nowhere"), fails_at=None):
        self.values, self.fatal, self.fails_at = values, fatal, fails_at

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        if index == self.fails_at:
            die_if(self.fatal)
            if self.fatal.exists():
                raise Stop(f"sample {index}")
        return self.values[index], index % 3
