"""Where the units of a job run: in this process, or in several."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, final

Run = Callable[[Sequence[range]], Generator[Any]]


class Job(ABC):
    """Work on the samples of a data set that can be done unit by unit.

    It holds all that it needs, so that it can be pickled and done by other processes.

    >>> from contextlib import contextmanager
    >>> class Count(Job):
    ...     @contextmanager
    ...     def begin(self):
    ...         yield lambda units: (len(unit) for unit in units)
    >>> sum(Inline().map_units(Count(), [range(0, 64), range(64, 100)]))
    100
    """

    @abstractmethod
    def begin(self) -> AbstractContextManager[Run]:
        """Make ready what all units need, such as a model on its device.

        Returns:
            A context; in it, a function that runs some units, in order, and iterates over what they
            give. It may run those that touch as one.
        """


class Executor(ABC):
    """Where the units of a job run.

    An executor calls ``begin`` once in each process that it runs a job in, and hands each unit to
    exactly one of them.

    >>> isinstance(Inline(), Executor), isinstance(Processes(4), Executor)
    (True, True)
    """

    @abstractmethod
    def map_units(self, job: Job, units: Sequence[range]) -> Generator[Any]:
        """Run every unit of a job, and iterate over what they give, in any order.

        Closing the iterator stops the job: what runs comes to a clean end before it returns.

        Args:
            job: The work.
            units: The units, each as the range of its samples.

        Raises:
            Exception: What a unit raised, as it is.
            CaptureError: A process ended in the middle of its work.
            DataError: The job cannot be handed to another process.
        """


@final
@dataclass(frozen=True, slots=True)
class Inline(Executor):
    """Runs units in this process, one after another: the default.

    >>> Inline()
    Inline()
    """

    def map_units(self, job: Job, units: Sequence[range]) -> Generator[Any]:
        """Run every unit of a job, in order."""
        with job.begin() as run:
            yield from run(units)


@final
@dataclass(frozen=True, slots=True)
class Processes(Executor):
    """Runs units in several new processes of this machine.

    Each process has its own model, on the same device, and its share of PyTorch's threads. All that
    they are handed must be picklable: classes and functions of modules, not of a notebook, and no
    lambdas. Tensors and arrays in memory are handed over in a file, in the folder for temporary
    files, which the processes map instead of copying; a memory-mapped array is mapped again. A
    script that is run must begin its work below ``if __name__ == "__main__":``.

    Args:
        workers: How many.

    >>> Processes(4)
    Processes(workers=4)
    """

    workers: int

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")

    def map_units(self, job: Job, units: Sequence[range]) -> Generator[Any]:
        """Run every unit of a job, whoever is free taking the next ones."""
        # It needs PyTorch, and this package must not: what only reads a store imports it too.
        from stratascope.pipeline._processes import run_in_processes

        return run_in_processes(job, units, self.workers)
