"""Cutting a model by its graph, where torch.fx can trace it: what is not needed is not kept."""

import operator
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.fx.node import map_aggregate

from stratascope._random import keeping_random
from stratascope.capture._modes import evaluating, keeping_buffers
from stratascope.capture._operations import OperationNames
from stratascope.capture._sharded import is_sharded
from stratascope.capture._snapshot import snapshot
from stratascope.capture._structure import map_tensors
from stratascope.errors import CaptureError, first_line
from stratascope.sites import Site

_WRITERS = {operator.setitem, operator.iadd, operator.isub, operator.imul, operator.itruediv}

_FRESH_MODULES = (
    nn.modules.conv._ConvNd,  # pyright: ignore[reportPrivateUsage]
    nn.modules.batchnorm._NormBase,  # pyright: ignore[reportPrivateUsage]
    nn.Linear, nn.Bilinear, nn.Embedding, nn.LayerNorm, nn.GroupNorm, nn.RNNBase,
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softmax,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
)  # fmt: skip
_FRESH_FUNCTIONS = {
    operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul, operator.neg,
    torch.add, torch.sub, torch.mul, torch.div, torch.matmul, torch.cat, torch.stack, torch.relu,
    torch.sigmoid, torch.tanh, torch.softmax, nn.functional.relu, nn.functional.softmax,
}  # fmt: skip


class GraphError(CaptureError):
    """A model, or a site of it, that has no graph; the message says why."""


# While it traces, torch.fx has another call and another getattr on every module of the process.
_tracing = threading.RLock()


class _SiteTracer(fx.Tracer):
    """Traces a model and remembers what each call of a module or operation became."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self.values: dict[tuple[str, int], Any] = {}
        self.inputs: dict[tuple[str, int], Any] = {}
        self._calls: dict[str, int] = {}
        self._paths = [""]
        self._names = OperationNames()

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        """Note what a module takes and gives, be it traced through or kept whole."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        call = self._calls[path] = self._calls.get(path, 0) + 1
        if len(args) == 1 and not kwargs:
            self.inputs[path, call] = args[0]
        self._paths.append(path)
        try:
            output = super().call_module(m, forward, args, kwargs)
        finally:
            self._paths.pop()
        self.values[path, call] = output
        return output

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Give an attribute of a module; of one that another thread runs, as it is."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Proxy:
        """Note what an operation gives."""
        proxy = super().create_proxy(kind, target, *args, **kwargs)
        if kind in ("call_function", "call_method"):
            function = getattr(Tensor, target, None) if kind == "call_method" else target
            if function is not None:
                self.values[self._names.next(self._paths[-1], function), 1] = proxy
        return proxy


def trace_graph(model: nn.Module) -> tuple[fx.Graph, _SiteTracer]:
    """Trace a model as it is in evaluation, which must also be how it is in training.

    Raises:
        GraphError: Its control flow depends on its input or on its mode, it changes its buffers, or
            fx cannot follow it.
    """
    if is_sharded(model):
        raise GraphError("its parameters are spread over several processes by fully_shard")
    graphs = []
    # Around both, so that a number drawn at random makes them differ.
    with keeping_random(model):
        for training in (True, False):
            tracer = _SiteTracer()
            with _tracing, _untouched(model), _mode(model, training=training):
                graphs.append((_trace(model, tracer), tracer))
    codes = [graph.python_code("self").src for graph, _ in graphs]
    if codes[0] != codes[1]:
        raise GraphError("its forward is another one in training than in evaluation")
    _check_constants(model, graphs[1][0])
    return graphs[1]


def _trace(model: nn.Module, tracer: _SiteTracer) -> fx.Graph:
    before = _list_versions(model)
    try:
        graph = tracer.trace(model)
    except Exception as error:
        raise GraphError(first_line(error)) from error
    # Written while it was traced, and not by the graph.
    if _list_versions(model) != before:
        raise GraphError("its forward changes its buffers")
    return graph


def _list_versions(model: nn.Module) -> list[tuple[int, int]]:
    return [(id(b), b._version) for b in model.buffers() if not b.is_inference()]


def _check_constants(model: nn.Module, graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.op == "get_attr":
            try:
                operator.attrgetter(str(node.target))(model)
            except AttributeError as error:
                raise GraphError(
                    "its forward makes a tensor that a graph would hold as it is now"
                ) from error


def cut_values(model: nn.Module, sites: Sequence[Site]) -> fx.GraphModule:
    """Cut out what the values of sites need, as a module that returns them by name.

    Raises:
        GraphError: The model or a site has no graph.
    """
    graph, tracer = trace_graph(model)
    wanted = {str(site): _find(tracer, site) for site in sites}
    for name, value in wanted.items():
        if not _nodes_of(value):
            raise GraphError(f"'{name}' passes nothing that the forward computes")
    writes = any(_writes_in_place(model, node) for node in graph.nodes)
    order = {node: index for index, node in enumerate(graph.nodes)}
    outputs: dict[str, Any] = {}
    last = max(order[node] for value in wanted.values() for node in _nodes_of(value))
    anchor = list(graph.nodes)[last]
    for name, value in wanted.items():
        outputs[name] = _protect(graph, value) if writes else map_aggregate(value, _node_of)
    for node in reversed(graph.nodes):
        if node is anchor or order.get(node, last) <= last:
            continue
        graph.erase_node(node)
    graph.output(outputs)
    _drop_unneeded(model, graph)
    return _make_module(model, graph)


def cut_in_two(model: nn.Module, site: Site) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut a model at a site into a head and a tail, all that crosses the cut handed on.

    Raises:
        GraphError: The model or the site has no graph.
    """
    graph, tracer = trace_graph(model)
    nodes_at = _nodes_of(_find(tracer, site))
    if len(nodes_at) != 1:
        raise GraphError(f"'{site}' passes {len(nodes_at)} values, and a cut is made at one")
    nodes = list(graph.nodes)
    at = nodes.index(nodes_at[0])
    before, after = nodes[: at + 1], nodes[at + 1 :]
    later = set(after)
    crossing = [
        node
        for node in before
        if node.op != "get_attr" and any(user in later for user in node.users)
    ]
    return _make_head(model, before, crossing), _make_tail(model, before, after, crossing)


def _make_head(model: nn.Module, before: list[fx.Node], crossing: list[fx.Node]) -> fx.GraphModule:
    graph, copies = fx.Graph(), {}
    for node in before:
        copies[node] = graph.node_copy(node, lambda old: copies[old])
    handed = tuple(copies[node] for node in crossing)
    graph.output(handed[0] if len(handed) == 1 else handed)
    _drop_unneeded(model, graph)
    return _make_module(model, graph)


def _make_tail(
    model: nn.Module, before: list[fx.Node], after: list[fx.Node], crossing: list[fx.Node]
) -> fx.GraphModule:
    graph: fx.Graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    handed = graph.placeholder("handed_on")
    # The tail must not write into what the head gave: it may be used again.
    if any(_writes_in_place(model, node) for node in after):
        handed = graph.call_function(_snapshot_all, (handed,))
    for index, node in enumerate(crossing):
        single = len(crossing) == 1
        copies[node] = handed if single else graph.call_function(operator.getitem, (handed, index))
    for node in (*(node for node in before if node.op == "get_attr"), *after):
        copies[node] = graph.node_copy(node, lambda old: copies[old])
    _drop_unneeded(model, graph)
    return _make_module(model, graph)


def _make_module(model: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    module = fx.GraphModule(model, graph, class_name=type(model).__name__)
    module.delete_all_unused_submodules()
    # Flag by flag, as the layers are the model's own, and may be in a mixture of modes.
    for path, part in module.named_modules():
        part.training = model.get_submodule(path).training
    return module


def _find(tracer: _SiteTracer, site: Site) -> Any:
    if site.port == "grad" or site.path == "":
        raise GraphError(f"'{site}' is no node of a graph")
    table = tracer.values if site.port == "out" else tracer.inputs
    key = (site.path, site.call or 1)
    if key not in table:
        raise GraphError(f"'{site}' is inside a layer that the graph keeps whole")
    return table[key]


def _node_of(value: Any) -> Any:
    return value.node if isinstance(value, fx.Proxy) else value


def _nodes_of(value: Any) -> list[fx.Node]:
    found: list[fx.Node] = []

    def note(part: Any) -> Any:
        if isinstance(part, fx.Proxy):
            found.append(part.node)
        return part

    map_aggregate(value, note)
    return found


def _protect(graph: fx.Graph, value: Any) -> Any:
    def keep(part: Any) -> Any:
        if not isinstance(part, fx.Proxy):
            return part
        with graph.inserting_after(part.node):
            return graph.call_function(_snapshot_all, (part.node,))

    return map_aggregate(value, keep)


def _snapshot_all(value: Any) -> Any:
    return map_tensors(snapshot, value)


def _drop_unneeded(model: nn.Module, graph: fx.Graph) -> None:
    """Erase what the output does not need; what writes into something needed is needed too."""
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    roots = _find_roots(model, graph)
    writers = [node for node in graph.nodes if _writes_in_place(model, node)]
    needed: set[fx.Node] = set()
    waiting = [output]
    while waiting:
        while waiting:
            node = waiting.pop()
            if node not in needed:
                needed.add(node)
                waiting += node.all_input_nodes
        touched = set().union(*(roots[node] for node in needed))
        waiting = [node for node in writers if node not in needed and roots[node] & touched]
    for node in reversed(graph.nodes):
        if node not in needed and node.op != "placeholder":
            graph.erase_node(node)


def _find_roots(model: nn.Module, graph: fx.Graph) -> dict[fx.Node, frozenset[fx.Node]]:
    """Find, for each node, in whose memory its value may lie.

    Whatever is not known to give new memory may give a view of its inputs.
    """
    roots: dict[fx.Node, frozenset[fx.Node]] = {}
    for node in graph.nodes:
        if _gives_new_memory(model, node):
            roots[node] = frozenset((node,))
        else:
            roots[node] = frozenset().union(*(roots[source] for source in node.all_input_nodes))
    return roots


def _gives_new_memory(model: nn.Module, node: fx.Node) -> bool:
    if node.op in ("placeholder", "get_attr"):
        return True
    if _writes_in_place(model, node):
        return False
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), _FRESH_MODULES)
    return node.op == "call_function" and node.target in _FRESH_FUNCTIONS


def _writes_in_place(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    if node.op not in ("call_method", "call_function"):
        return False
    if isinstance(node.target, OpOverload):
        # What torch.export wrote: relu_.default.
        return node.target._schema.is_mutable  # pyright: ignore[reportPrivateUsage]
    return (
        node.target in _WRITERS
        or (str(name).endswith("_") and not str(name).endswith("__"))
        or bool(node.kwargs.get("inplace"))
        or node.kwargs.get("out") is not None
    )


@contextmanager
def _untouched(model: nn.Module) -> Any:
    """Give modules their attributes back: the forward is run, and sets some to what fx makes."""
    kept = [(vars(module), dict(vars(module))) for module in model.modules()]
    try:
        with keeping_buffers(model):
            yield
    finally:
        for found, attributes in kept:
            for name in found.keys() - attributes.keys():
                del found[name]
            found.update(attributes)


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Any:
    with evaluating(model):
        for module in model.modules():
            module.training = training
        yield
