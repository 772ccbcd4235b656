"""A progress bar for what takes longer than two seconds, on a terminal only."""

import sys
import time
from types import TracebackType
from typing import Any, Self

_PATIENCE_S = 2.0


class ProgressBar:
    """Counts what is done and bytes; shows nothing until two seconds have passed.

    >>> with ProgressBar("extract", 64, enabled=True) as bar:
    ...     bar.update(32)
    """

    def __init__(
        self, title: str, total: int | None, *, enabled: bool, unit: str = "samples"
    ) -> None:
        self._title = title
        self._unit = unit
        self._total = total
        self._enabled = enabled and sys.stderr is not None and sys.stderr.isatty()
        self._began = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, num_bytes: int = 0) -> None:
        """Say how many are done and how many bytes are on disk."""
        if not self._enabled:
            return
        now = time.monotonic()
        if self._first is None:
            # What a resumed run found done is not its own speed.
            self._first = (now, done)
        if self._bar is None and now - self._began < _PATIENCE_S:
            return
        bar = self._bar or self._start(done)
        elapsed, own = now - self._first[0], done - self._first[1]
        bar.update(
            self._task,
            completed=done,
            rate=self._name_speed(own / elapsed) if elapsed else "",
            written=f"{num_bytes / 1e6:,.0f} MB on disk" if num_bytes else "",
        )

    def _name_speed(self, speed: float) -> str:
        return f"{speed:,.0f} {self._unit}/s" if speed >= 10 else f"{speed:.2g} {self._unit}/s"

    def _start(self, done: int) -> Any:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[written]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(
            self._title, total=self._total, completed=done, rate="", written=""
        )
        self._bar.start()
        return self._bar
