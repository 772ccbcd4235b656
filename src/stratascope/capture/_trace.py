"""The debug route: every operation of a forward, in order, with what fed what."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stratascope.capture._activations import Activations
from stratascope.capture._hooks import ReplacedForward
from stratascope.capture._recorder import MODEL_INPUT, Forward, Recorder
from stratascope.capture._records import Difference, ModuleCall, Operation, TensorInfo
from stratascope.capture._structure import named_tensors
from stratascope.errors import CaptureError, SiteNotFoundError
from stratascope.sites import suggest

Keep = Literal["none", "modules", "all"]
_KEEPS = ("none", "modules", "all")


class Trace:
    """Everything that one forward did, in the order in which it did it; made by `trace`.

    >>> import torch, stratascope as ss
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh())
    >>> run = ss.trace(model, torch.zeros(1, 3))
    >>> len(run), run["1.tanh"].outputs[0].shape, run.flops
    (2, (1, 2), 12)

    Attributes:
        operations: The operations.
        modules: The calls of modules, in the order in which they ended.
        activations: The values that were kept, under the same names.
        seconds: How long the forward took, recording included.
        peak_bytes: Most memory that tensors made in it took at one time.
        left_out: Number of values that were not kept, because the budget was used up.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        modules: Sequence[ModuleCall],
        activations: Activations,
        *,
        seconds: float,
        peak_bytes: int,
        left_out: int,
    ) -> None:
        self.operations = tuple(operations)
        self.modules = tuple(modules)
        self.activations = activations
        self.seconds = seconds
        self.peak_bytes = peak_bytes
        self.left_out = left_out

    @property
    def flops(self) -> int:
        """Floating-point operations of all matrix products."""
        return sum(operation.flops for operation in self.operations)

    def __len__(self) -> int:
        return len(self.operations)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def __getitem__(self, name: str | int) -> Operation:
        if isinstance(name, int):
            return self.operations[name]
        for operation in self.operations:
            if operation.name == name:
                return operation
        near = suggest(name, [operation.name for operation in self.operations])
        raise SiteNotFoundError(f"no operation of this forward is called {name!r}.{near}")

    def first_nonfinite(self) -> Operation | None:
        """Find the operation that made the first NaN or Inf, or None.

        Printed, it says where it stands in the user's code and what the ranges of its inputs were.
        An operation whose inputs were not finite already has only passed it on.
        """
        return next((op for op in self.operations if op.nans or op.infs), None)

    def diff(self, other: "Trace", *, rtol: float = 1e-5, atol: float = 1e-8) -> Difference | None:
        """Find the first kept value that differs between two runs, or None.

        Two checkpoints, two devices, float32 and bfloat16: the values are compared in float64 at
        every site that both runs kept.

        Args:
            other: The second run.
            rtol: Relative tolerance, of the first run's value.
            atol: Absolute tolerance.

        Raises:
            CaptureError: The runs kept no site in common.
        """
        shared = [site for site in self.activations if site in other.activations]
        if not shared:
            raise CaptureError(
                "two traces must have kept the same sites to be compared, got none in common: "
                "trace both with keep='modules' or keep='all'"
            )
        for site in shared:
            pairs = zip(
                named_tensors(self.activations[site]),
                named_tensors(other.activations[site]),
                strict=False,
            )
            for (_, mine), (_, others) in pairs:
                found = _compare(str(site), mine, others, rtol, atol)
                if found is not None:
                    return found
        return None

    def table(self, *, modules: bool = False) -> str:
        """Lay out the operations, or the modules, as text: name, shape, time, memory, FLOPs."""
        if modules:
            return _lay_out(
                ["module", "class", "output", "ms", "ops"],
                [
                    [
                        "  " * call.depth + call.name,
                        call.kind,
                        _list_infos(call.outputs),
                        f"{call.seconds * 1e3:.2f}",
                        str(call.stop - call.first),
                    ]
                    for call in sorted(self.modules, key=lambda call: (call.first, call.depth))
                ],
            )
        return _lay_out(
            ["", "operation", "output", "ms", "kB", "MFLOP", "from", ""],
            [
                [
                    str(op.index),
                    op.name,
                    _list_infos(op.outputs),
                    f"{op.seconds * 1e3:.2f}",
                    f"{op.new_bytes / 1e3:.1f}" if op.new_bytes else "–",
                    f"{op.flops / 1e6:.2f}" if op.flops else "–",
                    ", ".join("input" if p == MODEL_INPUT else str(p) for p in op.parents),
                    _remark(op),
                ]
                for op in self.operations
            ],
        )

    def to_dict(self) -> dict[str, Any]:
        """Give everything but the kept values as plain values, ready for JSON."""
        return {
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "flops": self.flops,
            "operations": [asdict(operation) for operation in self.operations],
            "modules": [asdict(call) for call in self.modules],
        }

    def __repr__(self) -> str:
        bad = self.first_nonfinite()
        lines = [
            f"Trace of {len(self.operations)} operations in {len(self.modules)} module calls, "
            f"{self.seconds * 1e3:.1f} ms, {self.flops / 1e9:.3f} GFLOP, "
            f"{self.peak_bytes / 1e6:.1f} MB at the peak, {len(self.activations)} values kept"
        ]
        if self.left_out:
            lines.append(f"{self.left_out} values were not kept: the budget was used up")
        if bad is not None:
            lines.append(f"first not finite: {bad}")
        return "\n".join(lines)


def trace(
    model: nn.Module,
    *args: Any,
    kwargs: dict[str, Any] | None = None,
    keep: Keep = "modules",
    max_bytes: int | None = None,
    statistics: bool = False,
) -> Trace:
    """Run one forward and record every operation and every module call of it.

    The model runs as it is: its mode, gradients and random numbers are the caller's. Data-dependent
    control flow is followed, since the operations are seen as they run.

    Args:
        model: The network; it is left as it was.
        *args: What its forward takes.
        kwargs: Named arguments of its forward.
        keep: Which values to keep, as copy-on-write snapshots: those of ``"modules"``, of ``"all"``
            operations too, or ``"none"``.
        max_bytes: Keep no more than so many bytes; the first values are kept.
        statistics: Summarise every output: range, mean, deviation, zeros.

    Returns:
        The `Trace`.

    >>> import torch, stratascope as ss
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
    >>> run = ss.trace(model, torch.zeros(2, 1, 10))
    >>> [operation.name for operation in run]
    ['0.conv1d', '1.relu']
    >>> run["1.relu"].parents, run.activations["1"].shape, run.first_nonfinite()
    ((0,), torch.Size([2, 4, 8]), None)
    """
    recorder = _make_recorder(model, keep, max_bytes, statistics=statistics)
    found, _ = recorder.record(lambda: model(*args, **(kwargs or {})), (args, kwargs or {}))
    return _make_trace(found)


@contextmanager
def debug(
    model: nn.Module,
    *,
    keep: Keep = "none",
    last: int = 10,
    max_bytes: int | None = None,
    statistics: bool = False,
) -> Generator[deque[Trace]]:
    """Record every forward of a model while a block runs, with no change of the code in it.

    Args:
        model: The network; it is left as it was when the block ends.
        keep: Which values to keep, as in `trace`.
        last: How many traces to hold; older ones go, so that memory stays bounded.
        max_bytes: Keep no more than so many bytes a forward.
        statistics: Summarise every output.

    Returns:
        The traces, oldest first, growing while the block runs.

    >>> import torch, stratascope as ss
    >>> model = torch.nn.Linear(3, 2)
    >>> with ss.debug(model) as runs:
    ...     for _ in range(3):
    ...         _ = model(torch.zeros(1, 3))
    >>> len(runs), runs[-1].operations[0].name
    (3, 'linear')
    """
    if last < 1:
        raise ValueError(f"last must be at least 1, got {last}")
    traces: deque[Trace] = deque(maxlen=last)
    recorder = _make_recorder(model, keep, max_bytes, statistics=statistics)

    def replacement(forward: Callable[..., Any]) -> Callable[..., Any]:
        def record_forward(*args: Any, **kwargs: Any) -> Any:
            # A model that calls itself is one forward.
            if recorder.running:
                return forward(*args, **kwargs)
            found, output = recorder.record(lambda: forward(*args, **kwargs), (args, kwargs))
            traces.append(_make_trace(found))
            return output

        return record_forward

    replaced = ReplacedForward(model, replacement)
    try:
        yield traces
    finally:
        replaced.remove()


def _make_recorder(
    model: nn.Module, keep: Keep, max_bytes: int | None, *, statistics: bool
) -> Recorder:
    if keep not in _KEEPS:
        raise ValueError(f"keep must be 'none', 'modules' or 'all', got {keep!r}")
    return Recorder(
        model,
        keep_modules=keep != "none",
        keep_operations=keep == "all",
        max_bytes=max_bytes,
        statistics=statistics,
    )


def _make_trace(found: Forward) -> Trace:
    return Trace(
        found.operations,
        found.modules,
        Activations(found.recording),
        seconds=found.seconds,
        peak_bytes=found.peak_bytes,
        left_out=found.left_out,
    )


def _compare(
    name: str, mine: Tensor, others: Tensor, rtol: float, atol: float
) -> Difference | None:
    shapes = (tuple(mine.shape), tuple(others.shape))
    if shapes[0] != shapes[1]:
        return Difference(name, float("inf"), float("inf"), shapes)
    wide = torch.complex128 if mine.is_complex() or others.is_complex() else torch.float64
    first, second = mine.detach().cpu().to(wide), others.detach().cpu().to(wide)
    if torch.allclose(second, first, rtol=rtol, atol=atol, equal_nan=True):
        return None
    apart = (first - second).abs()
    norm = float(torch.linalg.vector_norm(first))
    relative = float(torch.linalg.vector_norm(apart)) / norm if norm else float("inf")
    return Difference(name, float(apart.max()), relative, shapes)


def _list_infos(infos: Sequence[TensorInfo]) -> str:
    return ", ".join(str(info) for info in infos[:2]) + (" …" if len(infos) > 2 else "")


def _remark(operation: Operation) -> str:
    remarks = ["in place"] if operation.in_place else []
    remarks += [f"{operation.nans} NaN"] if operation.nans else []
    remarks += [f"{operation.infs} Inf"] if operation.infs else []
    return ", ".join([*remarks, operation.source])


def _lay_out(headings: list[str], rows: list[list[str]]) -> str:
    table = [headings, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )
