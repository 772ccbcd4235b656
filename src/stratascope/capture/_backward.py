"""Watching the backward of operations, through hooks on the nodes of the autograd graph."""

import time
from typing import Any

from torch import Tensor

from stratascope.capture._measure import count_nonfinite, describe, summarise
from stratascope.capture._records import Operation
from stratascope.capture._structure import collect_tensors


class BackwardWatch:
    """Records what the backward of operations does, whenever it runs.

    Args:
        nonfinite: Look for NaN and Inf in the gradients.
        statistics: Summarise the gradients.
    """

    def __init__(self, *, nonfinite: bool, statistics: bool) -> None:
        self._nonfinite = nonfinite
        self._statistics = statistics
        self._known: set[Any] = set()
        self._handles: list[Any] = []
        self.operations: list[Operation] = []

    def follow(self, operation: Operation, outputs: list[Tensor]) -> None:
        """Watch the nodes of the autograd graph that an operation has added."""
        waiting = [tensor.grad_fn for tensor in outputs]
        while waiting:
            node = waiting.pop()
            # A parameter's own node only adds up; it belongs to every forward.
            if node is None or node in self._known or hasattr(node, "variable"):
                continue
            self._known.add(node)
            self._watch(node, operation)
            waiting += [before for before, _ in node.next_functions]

    def forget_graph(self) -> None:
        """Let go of the graph, which lives as long as the caller wants it to."""
        self._known.clear()

    def remove(self) -> None:
        """Leave the graph as it was. Idempotent."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _watch(self, node: Any, operation: Operation) -> None:
        name = node.name()
        began = 0.0

        def begin(_: Any) -> None:
            nonlocal began
            began = time.perf_counter()

        def end(given: Any, received: Any) -> None:
            self._note(name, operation, received, given, time.perf_counter() - began)

        self._handles += [node.register_prehook(begin), node.register_hook(end)]

    def _note(
        self, name: str, forward: Operation, received: Any, given: Any, seconds: float
    ) -> None:
        inputs, outputs = collect_tensors(received), collect_tensors(given)
        nans, infs = count_nonfinite(outputs) if self._nonfinite else (None, None)
        self.operations.append(
            Operation(
                index=len(self.operations),
                name=forward.name,
                function=name,
                module=forward.module,
                inputs=describe(inputs),
                outputs=describe(outputs),
                parents=(forward.index,),
                in_place=False,
                source=forward.source,
                seconds=seconds,
                new_bytes=0,
                flops=0,
                nans=nans,
                infs=infs,
                input_summaries=summarise(inputs) if nans or infs else (),
                output_summaries=summarise(outputs) if self._statistics else (),
            )
        )
