"""Every way to capture, behind one door: open it on a model, run a forward, read what was kept."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import stratascope as ss
from contract.trap import Key, Trap, flow_of
from flows import same_numbers
from stratascope.capture._graph import GraphError
from stratascope.errors import SiteNotFoundError, StratascopeError


class Session:
    """A model under one route.

    Attributes:
        names: Under which name each value is looked up.
        model: The network.
        target: What a forward runs; a trap may put something around it.
        call: Runs the target on arguments, and gives what the network puts out.
        acts: What was captured, where the route gives it as `Activations`.
        values: What was captured, as it came, by path, port and call.
        found: The same, as the trap takes it.
        beside: What other taps captured, which the trap made.
    """

    def __init__(self, trap: Trap, model: nn.Module, target: Any) -> None:
        self.trap = trap
        self.names = flow_of(trap).names
        self.model = model
        self.target = target
        self.call: Callable[..., Any] = lambda *args: self.target(*args)
        self.acts: Any = None
        self.values: dict[Key, Any] = {}
        self.found: dict[Key, Any] = {}
        self.beside: list[Any] = []
        self.take = trap.take

    def forward(self, *args: Any) -> Any:
        return self.call(*args)

    def keep(self, key: Key, value: Any) -> None:
        self.values[key] = value
        self.found[key] = self.take(value)

    def look(self, name: str) -> Any:
        """Look one value up, as it is."""
        return self.values[self.names[name]] if self.acts is None else self.acts[name]

    def read(self) -> None:
        """Look everything up; what cannot be read is told when the rest has been."""
        if self.acts is None:
            return
        acts = self.trap.through(self.acts)
        refused = None
        for name, key in self.names.items():
            try:
                self.keep(key, acts[name])
            except StratascopeError as error:
                refused = error
        if refused is not None:
            raise refused


def tapped(**settings: Any) -> Callable[..., AbstractContextManager[Session]]:
    @contextmanager
    def open_tap(trap: Trap, model: nn.Module, folder: Path) -> Generator[Session]:
        with ss.tap(model, trap.sites, **trap.options, **settings) as acts:
            session = Session(trap, model, model)
            session.acts = acts
            yield session

    return open_tap


@contextmanager
def called_back(trap: Trap, model: nn.Module, folder: Path) -> Generator[Session]:
    session = Session(trap, model, model)

    def note(site: ss.Site, value: Any) -> None:
        site = trap.through(site)
        session.keep((site.path, site.port, site.call or 1), value)

    with ss.tap(model, trap.sites, on_capture=note, **trap.options):
        yield session


@contextmanager
def cut_out(trap: Trap, model: nn.Module, folder: Path) -> Generator[Session]:
    part = ss.submodel(model, trap.sites, example=trap.args())
    session = Session(trap, model, part)

    def call(*args: Any) -> None:
        session.acts = session.target(*args)

    session.call = call
    assert part.method == ("stop" if part.reason == STOPPED else trap.method), part.reason
    yield session


@contextmanager
def cut_in_two(trap: Trap, model: nn.Module, folder: Path) -> Generator[Session]:
    site = trap.cut or trap.sites[0]
    head, tail = ss.split(model, site, example=trap.args())
    session = Session(trap, model, nn.Sequential(head, tail))
    key = session.names[site]
    head.register_forward_hook(lambda module, args, output: session.values.update({key: output}))
    yield session
    # Where more crosses the cut than the site, its place in the tuple is the tail's own affair.
    if isinstance(session.values[key], Tensor):
        session.keep(key, session.values[key])


@contextmanager
def traced(trap: Trap, model: nn.Module, folder: Path) -> Generator[Session]:
    session = Session(trap, model, model)

    def call(*args: Any) -> Any:
        session.acts = ss.trace(session.target, *args, keep="all").activations
        return session.acts.calls("model")[-1]

    session.call = call
    yield session


@contextmanager
def debugged(trap: Trap, model: nn.Module, folder: Path) -> Generator[Session]:
    session = Session(trap, model, model)
    with ss.debug(model, keep="modules") as runs:

        def call(*args: Any) -> Any:
            output = session.target(*args)
            session.acts = runs[-1].activations
            return output

        session.call = call
        yield session


class Stored:
    """A store, read as activations are."""

    def __init__(self, path: Path, step: int | None = None) -> None:
        self._store = ss.open_store(path, step=step)

    def __getitem__(self, name: str) -> dict[str, np.ndarray]:
        try:
            found = self._store[name]
        except SiteNotFoundError:
            # A warning has said of which sites nothing is stored.
            assert self._store.skipped
            return {}
        found = found if isinstance(found, dict) else {"": found}
        return {place: np.asarray(array) for place, array in found.items()}


def recorded(*, probed: bool) -> Callable[..., AbstractContextManager[Session]]:
    @contextmanager
    def open_record(trap: Trap, model: nn.Module, folder: Path) -> Generator[Session]:
        settings = dict(trap.options)
        settings.pop("detach", None)
        if probed:
            settings["probe"] = trap.args()[0]
        session = Session(trap, model, model)
        session.take = dict
        with ss.record(model, trap.sites, to=folder / "store", every=1, **settings) as record:
            yield session
            record.step(0)
        session.acts = Stored(folder / "store")

    return open_record


def leaves(value: Any, prefix: str = "") -> list[tuple[str, Tensor]]:
    """List the tensors of a frozen value with their places."""
    if isinstance(value, Tensor):
        return [(prefix, value)]
    if not isinstance(value, list):
        return []
    parts = enumerate(value[1:]) if issubclass(value[0], tuple | list) else value[1:]
    return [
        leaf
        for name, part in parts
        for leaf in leaves(part, f"{prefix}.{name}" if prefix else str(name))
    ]


def same_stored(value: Any, arrays: dict[str, np.ndarray]) -> bool:
    """Compare a frozen value with what a store holds of it."""
    tensors = dict(leaves(value))
    return arrays.keys() == tensors.keys() and all(
        same_array(tensors[place], array) for place, array in arrays.items()
    )


def same_part(value: Any, arrays: dict[str, np.ndarray]) -> bool:
    """Compare a frozen value with what a store holds of it, which is not all."""
    tensors = dict(leaves(value))
    return arrays.keys() < tensors.keys() and all(
        same_array(tensors[place], array) for place, array in arrays.items()
    )


def same_array(tensor: Tensor, array: np.ndarray) -> bool:
    wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    stored = torch.from_numpy(array)
    return (wide.dtype, wide.shape) == (stored.dtype, stored.shape) and same_numbers(wide, stored)


STOPPED = "stopped on purpose"


def refuse_graph(*_: Any) -> None:
    raise GraphError(STOPPED)


@dataclass(frozen=True)
class Route:
    """A way to capture.

    Attributes:
        name: How the tests call it.
        title: How the documentation does.
        open: Takes a trap, a model and a folder.
        probed: Whether it looks at a second forward, in evaluation mode.
        stores: Whether what it keeps is read from a store.
        exact: Whether it keeps what is asked for and no more.
        watches: Whether it watches every operation.
    """

    name: str
    title: str
    open: Callable[[Trap, nn.Module, Path], AbstractContextManager[Session]]
    probed: bool = False
    stores: bool = False
    exact: bool = False
    watches: bool = False


ROUTES = [
    Route("tap", "`tap`", tapped(), exact=True),
    Route("copy", "`tap(copy=True)`", tapped(copy=True), exact=True),
    Route("reference", "`tap(copy=False)`", tapped(copy=False), exact=True),
    Route("callback", "`tap(on_capture=)`", called_back),
    Route("submodel", "`submodel`", cut_out, exact=True),
    Route("submodel-stop", "`submodel`, stopping", cut_out, exact=True),
    Route("split", "`split`", cut_in_two),
    Route("trace", '`trace(keep="all")`', traced, watches=True),
    Route("debug", '`debug(keep="modules")`', debugged, watches=True),
    Route("batch", "`record`", recorded(probed=False), stores=True),
    Route("probe", "`record(probe=)`", recorded(probed=True), probed=True, stores=True),
]
