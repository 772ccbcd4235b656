"""The debug route: every operation of a forward, in order, with what fed what."""

import math
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stratascope._optional import require
from stratascope._tables import lay_out, lay_out_html
from stratascope.capture._activations import Activations
from stratascope.capture._hooks import ReplacedForward
from stratascope.capture._recorder import MODEL_INPUT, Depth, Forward, Recorder
from stratascope.capture._records import Difference, Operation, TensorInfo
from stratascope.capture._sharded import resharding
from stratascope.capture._structure import map_tensors, named_tensors
from stratascope.errors import CaptureError, SiteNotFoundError
from stratascope.sites import suggest, unwrap

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
        operations: The operations of the forward.
        modules: The calls of modules, in the order in which they ended.
        activations: The values that were kept, under the same names.
        seconds: How long the forward took, recording included.
        peak_bytes: Most memory that tensors made in it took at one time.
        left_out: Number of values that were not kept, because the budget was used up.
    """

    def __init__(self, found: Forward, depth: Depth) -> None:
        self.operations = tuple(found.operations)
        self.modules = tuple(found.modules)
        if not (depth.keep_modules or depth.keep_operations):
            found.recording.state = "the trace kept no values: ask for keep='modules' or keep='all'"
        self.activations = Activations(found.recording)
        self.seconds = found.seconds
        self.peak_bytes = found.memory.peak
        self.left_out = found.left_out
        self._watch = found.backward
        self._backward = [] if found.backward is None else found.backward.operations
        self._depth = depth
        self._looks = depth.operations and depth.nonfinite

    @property
    def backward(self) -> tuple[Operation, ...]:
        """The operations of the backward as far as it has run, where they were asked for.

        Each has the name and the source line of the operation of the forward that it belongs to;
        its inputs are the gradients that arrived, its outputs those that it passed on.
        """
        return tuple(self._backward)

    @property
    def flops(self) -> int:
        """Floating-point operations of all matrix products, two for each multiply and add."""
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
        An operation whose inputs were not finite already has only passed it on: the first one is
        such a one where the NaN came with the input, a parameter or the loss, and then it says so
        when it is printed. Where the forward
        is finite throughout, the operations of a recorded backward are looked at, too.

        Raises:
            CaptureError: Nothing was looked for in this trace.
        """
        if not self._looks:
            raise CaptureError(
                "this trace did not look for NaN and Inf: trace with operations=True and "
                "nonfinite=True"
            )
        bad = self._find_nonfinite()
        if bad is None and self._depth.backward and not self._backward:
            warnings.warn(
                "the forward is finite, and no backward was seen: call backward() inside of debug",
                stacklevel=2,
            )
        return bad

    def _find_nonfinite(self) -> Operation | None:
        steps = chain(self.operations, self._backward)
        return next((step for step in steps if step.nans or step.infs), None)

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
            first, second = (dict(named_tensors(run.activations[site])) for run in (self, other))
            for place in first | second:
                found = _compare(str(site), first.get(place), second.get(place), rtol, atol)
                if found is not None:
                    return found
        return None

    def table(self, *, modules: bool = False) -> str:
        """Lay out the operations, or the modules, as text: name, shape, time, memory, FLOPs."""
        headings, rows = self._list_modules() if modules else self._list_operations()
        return lay_out(headings, rows)

    def to_dict(self) -> dict[str, Any]:
        """Give everything but the kept values as plain values, ready for JSON."""
        return {
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "flops": self.flops,
            "operations": [asdict(operation) for operation in self.operations],
            "backward": [asdict(operation) for operation in self._backward],
            "modules": [asdict(call) for call in self.modules],
        }

    def to_parquet(self, path: str | Path) -> None:
        """Write the operations as a Parquet file, a row each, the backward's marked so.

        Args:
            path: The file; one that is there is replaced, and a missing folder is made.

        Raises:
            MissingExtraError: PyArrow is not installed.
        """
        arrow = require("pyarrow", extra="parquet")
        parquet = require("pyarrow.parquet", extra="parquet")
        rows = [asdict(operation) | {"backward": False} for operation in self.operations]
        rows += [asdict(operation) | {"backward": True} for operation in self._backward]
        # Of one kind for all traces, so that several are read as one table.
        table = arrow.Table.from_pylist(rows, schema=_make_schema(arrow))
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, path)

    def _list_operations(self) -> tuple[list[str], list[list[str]]]:
        headings = ["", "operation", "output", "ms", "kB", "MFLOP", "from", ""]
        rows = [_list_operation(op, str(op.index), op.name) for op in self.operations]
        rows += [
            _list_operation(op, f"b{op.index}", f"{op.name} {op.function}") for op in self._backward
        ]
        return headings, rows

    def _list_modules(self) -> tuple[list[str], list[list[str]]]:
        calls = sorted(self.modules, key=lambda call: (call.first, call.depth))
        rows = [
            [
                "  " * call.depth + call.name,
                call.kind,
                _list_infos(call.outputs),
                f"{call.seconds * 1e3:.2f}",
                str(call.stop - call.first) if self.operations else "",
            ]
            for call in calls
        ]
        return ["module", "class", "output", "ms", "ops"], rows

    def _let_go(self) -> None:
        if self._watch is not None:
            self._watch.remove()

    def _list_facts(self) -> list[str]:
        facts = [
            f"Trace of {len(self.operations)} operations in {len(self.modules)} module calls, "
            f"{self.seconds * 1e3:.1f} ms, {self.flops / 1e9:.3f} GFLOP, "
            f"{self.peak_bytes / 1e6:.1f} MB at the peak, {len(self.activations)} values kept"
            if self._depth.operations
            else f"Trace of {len(self.modules)} module calls, {self.seconds * 1e3:.1f} ms, "
            f"{len(self.activations)} values kept; operations were not recorded"
        ]
        if self._backward:
            seconds = sum(operation.seconds for operation in self._backward)
            facts.append(f"{len(self._backward)} backward operations, {seconds * 1e3:.1f} ms")
        if self.left_out:
            facts.append(f"{self.left_out} values were not kept: the budget was used up")
        if self._looks and (bad := self._find_nonfinite()) is not None:
            facts.append(f"first not finite: {bad}")
        return facts

    def __repr__(self) -> str:
        return "\n".join(self._list_facts())

    def _repr_html_(self) -> str:
        headings, rows = self._list_operations() if self.operations else self._list_modules()
        return lay_out_html(self._list_facts(), headings, rows)


def trace(
    model: nn.Module,
    *args: Any,
    kwargs: dict[str, Any] | None = None,
    keep: Keep = "modules",
    max_bytes: int | None = None,
    operations: bool = True,
    nonfinite: bool = True,
    statistics: bool = False,
    backward: Callable[[Any], Tensor] | None = None,
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
        operations: False records the calls of modules only, which costs least.
        nonfinite: Look for NaN and Inf in every output, which reads each of them once.
        statistics: Summarise every output: range, mean, deviation, zeros.
        backward: Makes the loss from what the model returns; its backward is run and recorded, too.
            The gradients that parameters and inputs hold stay as they were.

    Returns:
        The `Trace`.

    Raises:
        CaptureError: ``backward`` gave no loss that depends on the model.

    >>> import torch, stratascope as ss
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
    >>> run = ss.trace(model, torch.zeros(2, 1, 10), backward=torch.sum)
    >>> [operation.name for operation in run]
    ['0.conv1d', '1.relu']
    >>> run["1.relu"].parents, run.activations["1"].shape, run.first_nonfinite()
    ((0,), torch.Size([2, 4, 8]), None)
    >>> [(operation.name, operation.function) for operation in run.backward]
    [('1.relu', 'ReluBackward0'), ('0.conv1d', 'ConvolutionBackward0')]
    """
    if backward is not None and not callable(backward):
        raise TypeError(
            "backward must be a function that makes the loss from what the model returns, such as "
            f"lambda output: output.sum(), got {backward!r}"
        )
    depth = _choose_depth(
        keep,
        max_bytes,
        operations=operations,
        nonfinite=nonfinite,
        statistics=statistics,
        backward=backward is not None,
    )
    # Not through DistributedDataParallel, where one process would wait for the others.
    network = unwrap(model)
    recorder = Recorder(model, depth)
    # The caller's own graph behind an input is not run through.
    named = kwargs or {}
    if backward is not None:
        args, named = map_tensors(_cut_off, (args, named))
    with resharding(network):
        # Before the forward gathers them: gradients are kept with the parts.
        parameters = [] if backward is None else list(network.parameters())
        with recorder.attached():
            found, output = recorder.record(
                lambda: network(*args, **named), (args, named), inside=False
            )
        if backward is not None and found.backward is not None:
            try:
                _run_backward(parameters, output, backward)
            finally:
                found.backward.remove()
    return Trace(found, depth)


@contextmanager
def debug(
    model: nn.Module,
    *,
    keep: Keep = "none",
    last: int = 10,
    max_bytes: int | None = None,
    operations: bool = True,
    nonfinite: bool = True,
    statistics: bool = False,
    backward: bool = False,
) -> Generator[deque[Trace]]:
    """Record every forward of a model while a block runs, with no change of the code in it.

    Args:
        model: The network; it is left as it was when the block ends.
        keep: Which values to keep, as in `trace`.
        last: How many traces to hold; older ones go, so that memory stays bounded.
        max_bytes: Keep no more than so many bytes a forward.
        operations: False records the calls of modules only, which costs least.
        nonfinite: Look for NaN and Inf in every output.
        statistics: Summarise every output.
        backward: Record what the block's own ``backward()`` does in the network, too.

    Returns:
        The traces, oldest first, growing while the block runs; that of a forward which raises an
        error ends with the last operation that succeeded.

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
    depth = _choose_depth(
        keep,
        max_bytes,
        operations=operations,
        nonfinite=nonfinite,
        statistics=statistics,
        backward=backward,
    )
    traces: deque[Trace] = deque(maxlen=last)
    recorder = Recorder(model, depth)

    def keep_trace(found: Forward) -> None:
        if len(traces) == last:
            traces[0]._let_go()  # pyright: ignore[reportPrivateUsage]
        traces.append(Trace(found, depth))

    def replacement(forward: Callable[..., Any]) -> Callable[..., Any]:
        def record_forward(*args: Any, **kwargs: Any) -> Any:
            # A model that calls itself is one forward.
            if recorder.running:
                return forward(*args, **kwargs)
            try:
                found, output = recorder.record(
                    lambda: forward(*args, **kwargs), (args, kwargs), inside=True
                )
            except BaseException:
                keep_trace(recorder.last)
                raise
            keep_trace(found)
            return output

        return record_forward

    with recorder.attached():
        replaced = ReplacedForward(model, replacement)
        try:
            yield traces
        finally:
            replaced.remove()
            for run in traces:
                run._let_go()  # pyright: ignore[reportPrivateUsage]


def _choose_depth(
    keep: Keep,
    max_bytes: int | None,
    *,
    operations: bool,
    nonfinite: bool,
    statistics: bool,
    backward: bool,
) -> Depth:
    if keep not in _KEEPS:
        raise ValueError(f"keep must be 'none', 'modules' or 'all', got {keep!r}")
    if max_bytes is not None and (not isinstance(max_bytes, int) or max_bytes < 0):
        raise ValueError(f"max_bytes must be a whole number from 0, got {max_bytes!r}")
    wished = {"keep='all'": keep == "all", "statistics": statistics, "backward": backward}
    if not operations and any(wished.values()):
        names = " and ".join(name for name, wish in wished.items() if wish)
        raise ValueError(f"operations must be True for {names}, which are about them, got False")
    return Depth(
        operations=operations,
        keep_modules=keep != "none",
        keep_operations=keep == "all",
        max_bytes=math.inf if max_bytes is None else max_bytes,
        nonfinite=nonfinite,
        statistics=statistics,
        backward=backward,
    )


def _cut_off(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_leaf else tensor.detach().requires_grad_()


def _list_leaves(loss: Tensor) -> list[Tensor]:
    """List the tensors in which the backward of a loss adds up gradients."""
    leaves: dict[int, Tensor] = {}
    seen: set[Any] = set()
    waiting: list[Any] = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves[id(node.variable)] = node.variable
        waiting += [before for before, _ in node.next_functions]
    return list(leaves.values())


def _run_backward(
    parameters: list[nn.Parameter], output: Any, make_loss: Callable[[Any], Tensor]
) -> None:
    loss = make_loss(output)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        got = (
            f"a tensor of shape {tuple(loss.shape)}"
            f"{'' if loss.requires_grad else ' without a graph'}"
            if isinstance(loss, Tensor)
            else type(loss).__name__
        )
        raise CaptureError(
            f"backward must make one number that depends on the model's parameters, got {got}: "
            "run with gradients on, and reduce, as with backward=lambda output: output.sum()"
        )
    # Those of a sharded network are not in the graph, but get their gradients all the same.
    tensors = {id(tensor): tensor for tensor in (*parameters, *_list_leaves(loss))}
    held = [(tensor, tensor.grad) for tensor in tensors.values()]
    try:
        for tensor, _ in held:
            tensor.grad = None
        loss.backward()
    finally:
        for tensor, gradient in held:
            tensor.grad = gradient


def _compare(
    name: str, mine: Tensor | None, others: Tensor | None, rtol: float, atol: float
) -> Difference | None:
    shapes = (
        () if mine is None else tuple(mine.shape),
        () if others is None else tuple(others.shape),
    )
    if mine is None or others is None or shapes[0] != shapes[1]:
        return Difference(name, float("inf"), float("inf"), shapes)
    wide = torch.complex128 if mine.is_complex() or others.is_complex() else torch.float64
    first, second = mine.detach().cpu().to(wide), others.detach().cpu().to(wide)
    if torch.allclose(second, first, rtol=rtol, atol=atol, equal_nan=True):
        return None
    apart = (first - second).abs()
    norm = float(torch.linalg.vector_norm(first))
    relative = float(torch.linalg.vector_norm(apart)) / norm if norm else float("inf")
    return Difference(name, float(apart.max()), relative, shapes)


def _make_schema(arrow: Any) -> Any:
    whole, real, text, flag = arrow.int64(), arrow.float64(), arrow.string(), arrow.bool_()
    sizes = arrow.list_(whole)
    tensor = {"shape": sizes, "dtype": text, "device": text, "stride": sizes}
    summary = {**dict.fromkeys(("low", "high", "mean", "std"), real)}
    summary |= dict.fromkeys(("zeros", "nans", "infs", "count"), whole)
    tensors, summaries = (arrow.list_(arrow.struct(list(f.items()))) for f in (tensor, summary))
    kinds = {
        **dict.fromkeys(("index", "new_bytes", "flops", "nans", "infs"), whole),
        **dict.fromkeys(("name", "function", "module", "source"), text),
        **dict.fromkeys(("inputs", "outputs"), tensors),
        **dict.fromkeys(("input_summaries", "output_summaries"), summaries),
        "parents": sizes,
        "in_place": flag,
        "seconds": real,
    }
    named = [(field.name, kinds[field.name]) for field in fields(Operation)]
    return arrow.schema([*named, ("backward", flag)])


def _list_operation(operation: Operation, index: str, name: str) -> list[str]:
    remarks = ["in place"] if operation.in_place else []
    remarks += [f"{operation.nans} NaN"] if operation.nans else []
    remarks += [f"{operation.infs} Inf"] if operation.infs else []
    return [
        index,
        name,
        _list_infos(operation.outputs),
        f"{operation.seconds * 1e3:.2f}",
        f"{operation.new_bytes / 1e3:.1f}" if operation.new_bytes else "–",
        f"{operation.flops / 1e6:.2f}" if operation.flops else "–",
        ", ".join("input" if p == MODEL_INPUT else str(p) for p in operation.parents),
        ", ".join([*remarks, operation.source]),
    ]


def _list_infos(infos: Sequence[TensorInfo]) -> str:
    return ", ".join(str(info) for info in infos[:2]) + (" …" if len(infos) > 2 else "")
