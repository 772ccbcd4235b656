"""The route by a submodel: a network that computes only what the wanted sites need."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from stratascope.capture._activations import (
    Activations,
    Key,
    Recording,
    complete_names,
    take_names,
)
from stratascope.capture._graph import GraphError, cut_in_two, cut_values
from stratascope.capture._modes import beside_graphs, keeping_buffers, probing
from stratascope.capture._sharded import is_sharded, resharding
from stratascope.capture._snapshot import snapshot
from stratascope.capture._structure import map_tensors, named_tensors
from stratascope.capture._survey import look, match_forward_sites
from stratascope.capture._take import make_take
from stratascope.capture._tap import Tap, tap
from stratascope.errors import CaptureError
from stratascope.sites import ModuleTable, Selector, Site


class _WantedSitesDone(BaseException):
    """Leaves the forward; no Exception, so that no handler of the network's own stops it."""


class Submodel(nn.Module, ABC):
    """A network that computes only what its wanted sites need; made by `submodel`.

    Attributes:
        sites: The sites whose values it returns, in the order of execution.
        method: ``"graph"``: what the sites do not need is cut away. ``"stop"``: it runs the model
            itself and leaves it after the last wanted site; one that ``fully_shard`` has spread
            over several processes it runs to its end.
        reason: Why it was not cut by graph, or ``""``.
    """

    method: Literal["graph", "stop"]

    def __init__(self, sites: tuple[Site, ...], names: Recording, reason: str = "") -> None:
        super().__init__()
        self.sites = sites
        self._names = names
        self.reason = reason

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Activations:
        """Compute the wanted sites; takes what the model takes, and keeps the autograd graph."""

    def extra_repr(self) -> str:
        """Show the sites and the way they are reached, for ``print``."""
        why = f" ({self.reason})" if self.reason else ""
        return f"sites={[str(site) for site in self.sites]}, method={self.method!r}{why}"


class StopSubmodel(Submodel):
    """Runs the model itself and stops; works for everything that can be tapped.

    Attributes:
        model: The network it was made from, the unused part included.
    """

    method = "stop"

    def __init__(
        self, model: nn.Module, sites: tuple[Site, ...], names: Recording, reason: str
    ) -> None:
        super().__init__(sites, names, reason)
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Activations:
        """Compute the wanted sites.

        Raises:
            CaptureError: The forward ended without reaching one of the sites.
        """
        # A compiler around it would work for long on what makes and takes off the hooks.
        return beside_graphs(self._run)(*args, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> Activations:
        last = (self.sites[-1].path, self.sites[-1].port, self.sites[-1].call or 1)
        # Its own, as a submodel inside a submodel must not stop the outer one's stop.
        done = _WantedSitesDone()

        def stop(key: Key) -> None:
            if key == last:
                raise done

        # Left in the middle, a sharded network would hold its parameters as they are now.
        after_each = None if is_sharded(self.model) else stop
        take = make_take(copy=None, detach=False, device=None, dtype=None, transform=None)
        # A backward needs what the forward has gathered.
        freed = nullcontext() if torch.is_grad_enabled() else resharding(self.model)
        with freed, Tap(self.model, self.sites, take, after_each=after_each) as acts:
            try:
                self.model(*args, **kwargs)
            except _WantedSitesDone as error:
                if error is not done:
                    raise
        complete_names(acts, self.sites, self._names)
        return acts


class GraphSubmodel(Submodel):
    """Runs a graph of the model from which everything else was cut away.

    Attributes:
        graph: The graph as a module that returns a dict of values by site; ``torch.export`` and
            ONNX take it.
    """

    method = "graph"

    def __init__(self, graph: fx.GraphModule, sites: tuple[Site, ...], names: Recording) -> None:
        super().__init__(sites, names)
        self.graph = graph

    def forward(self, *args: Any, **kwargs: Any) -> Activations:
        """Compute the wanted sites."""
        found = self.graph(*args, **kwargs)
        recording = Recording()
        for site in self.sites:
            key = (site.path, site.port, site.call or 1)
            # Sites may share memory with each other, with an input or a parameter.
            recording.values[key] = map_tensors(snapshot, found[str(site)])
            recording.counts[site.path, site.port] = 1
        acts = Activations(recording)
        complete_names(acts, self.sites, self._names)
        return acts


def submodel(
    model: nn.Module,
    sites: Selector | Iterable[Selector],
    *,
    example: tuple[Any, ...],
    share: bool = True,
) -> Submodel:
    """Cut out a network that computes only what the wanted sites need.

    Where torch.fx can trace the model, and the graph gives the same bits as the model on the
    example, everything else is cut away: later layers, branches that feed nothing wanted, and their
    parameters. Elsewhere the model itself runs and is left after the last wanted site; the example
    shows in which order the sites come, and what comes later than in it is cut off with the rest.
    ``print`` of the result says which it is, and why.

    Args:
        model: The network; it is run in evaluation mode, and left as it was: flags, buffers and
            the random state. A list or dict of its own that its forward writes into is beyond that.
        sites: Names, globs, modules, classes, predicates; gradients are no value of a forward.
        example: Positional arguments for one forward of the model.
        share: Use the model's own parameters and buffers, so that training one trains both; False
            takes copies.

    Returns:
        A module that takes what the model takes and returns the `Activations` of the sites.

    Raises:
        SiteNotFoundError: A selector matches nothing.
        CaptureError: A gradient is asked for, a site does not run for the example, or the network
            cannot be copied.

    >>> import torch, stratascope as ss
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
    >>> x = torch.randn(2, 1, 10)
    >>> part = ss.submodel(model, "1", example=(x,))
    >>> part.sites, part.method
    ((Site(path='1', port='out', call=None),), 'graph')
    >>> torch.equal(part(x)["1"], model[:2](x))
    True
    """
    match_forward_sites(model, sites)
    if not share and is_sharded(model):
        raise CaptureError(
            "share=False copies the network, which cannot be done once fully_shard has spread its "
            "parameters over several processes: cut the submodel before that, or share them"
        )
    seen = look(model, sites, example)
    found, names = seen.sites, take_names(seen)
    model = ModuleTable(model).modules[""]
    if not share:
        model = deepcopy(model)
    try:
        part = GraphSubmodel(cut_values(model, found), found, names)
        _check_equal(part, model, found, example)
    except GraphError as error:
        return StopSubmodel(model, found, names, str(error))
    return part


def split(
    model: nn.Module, site: Selector, *, example: tuple[Any, ...]
) -> tuple[nn.Module, nn.Module]:
    """Cut a network at a site into a head and a tail, with ``tail(head(x)) == model(x)``.

    What crosses the cut beside the site, such as a skip connection, is handed on too: the head
    gives the site's value, or a tuple of all that the tail needs, in the order in which it is
    computed: the site's value is the last of it, ``head(x)[-1]``. Both share the model's
    parameters. The equation is checked bit for bit on the example.

    Args:
        model: The network; it is run in evaluation mode, and left as it was.
        site: Where to cut: one site.
        example: Positional arguments for one forward of the model.

    Raises:
        SiteNotFoundError: The selector matches nothing.
        CaptureError: It matches several sites, or the model has no graph that can be cut: its
            control flow depends on its input, say. The message says why.

    >>> import torch, stratascope as ss
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
    >>> x = torch.randn(2, 1, 10)
    >>> head, tail = ss.split(model, "1", example=(x,))
    >>> torch.equal(tail(head(x)), model(x))
    True
    """
    match_forward_sites(model, site)
    found = look(model, site, example).sites
    if len(found) != 1:
        listed = ", ".join(f"'{one}'" for one in found)
        raise CaptureError(f"a network is split at one site, got {len(found)}: choose of {listed}")
    model = ModuleTable(model).modules[""]
    try:
        head, tail = cut_in_two(model, found[0])
    except GraphError as error:
        raise CaptureError(
            f"the network cannot be split at '{found[0]}': {error}. stratascope.submodel gives its "
            "head all the same"
        ) from error
    with probing(model):
        # The halves must find what the whole found.
        with keeping_buffers(model):
            whole = model(*example)
        halves = tail(head(*example))
    if not _is_equal(whole, halves):
        raise CaptureError(
            f"the network cannot be split at '{found[0]}': its graph gives other values than "
            "the network does"
        )
    return head, tail


def _check_equal(
    part: Submodel, model: nn.Module, sites: tuple[Site, ...], example: tuple[Any, ...]
) -> None:
    with probing(model):
        # The part must find what the model found.
        with keeping_buffers(model), tap(model, sites) as acts:
            model(*example)
        try:
            cut = part(*example)
        except Exception as error:
            raise GraphError(f"its graph does not run: {error}") from error
    if not all(_is_equal(acts[site], cut[site]) for site in sites):
        raise GraphError("its graph gives other values than the model does")


def _is_equal(first: Any, second: Any) -> bool:
    if type(first) is not type(second):
        # A graph makes a plain dict of a mapping of another class.
        return False
    if isinstance(first, tuple | list):
        return len(first) == len(second) and all(map(_is_equal, first, second))
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(_is_equal(first[k], second[k]) for k in first)
    mine, others = list(named_tensors(first)), list(named_tensors(second))
    return [place for place, _ in mine] == [place for place, _ in others] and all(
        _is_same(one, other) for (_, one), (_, other) in zip(mine, others, strict=True)
    )


def _is_same(one: Tensor, other: Tensor) -> bool:
    if (one.shape, one.dtype, one.layout) != (other.shape, other.dtype, other.layout):
        return False
    if one.is_quantized:
        return torch.equal(one, other)
    one, other = one.to_dense(), other.to_dense()
    return bool(torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all())
