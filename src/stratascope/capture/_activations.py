"""What one forward pass left behind."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from stratascope._display import Layers, add_picture, draw_png
from stratascope._tables import lay_out_html
from stratascope.capture._staging import Staged
from stratascope.capture._structure import count_bytes, named_tensors
from stratascope.errors import CaptureError, SiteNotFoundError
from stratascope.sites import (
    ROOT_NAME,
    ModuleTable,
    Port,
    Site,
    class_names,
    parse_class_index,
    suggest,
)

Key = tuple[str, Port, int]
"""Path, port and call number of one captured value."""


def name_key(key: Key) -> Site:
    """Name a value while its forward runs, when nobody knows yet how many calls there will be."""
    path, port, call = key
    return Site(path, port, call if call > 1 else None)


@dataclass(slots=True)
class Recording:
    """What the hooks of one tap write, forward by forward.

    Attributes:
        values: The captured values, in the order of execution.
        counts: How often each module of the tap started (``"in"``) and finished (``"out"``).
        ordinals: Which module was the k-th of its class to run.
        aliases: Further names of shared modules.
        state: Why nothing more is captured, or ``""``.
        versions: For values that are no copies, their tensors and how often those had been written
            to when they were captured.
        sizes: How many bytes each value takes, where they are counted.
        classes: Classes with their modules, where all of these are counted as they finish.
    """

    values: dict[Key, Any] = field(default_factory=dict)
    counts: dict[tuple[str, Port], int] = field(default_factory=dict)
    ordinals: dict[tuple[str, int], str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    state: str = ""
    versions: dict[Key, list[tuple[Tensor, int]]] = field(default_factory=dict)
    sizes: dict[Key, int] = field(default_factory=dict)
    classes: dict[str, set[str]] = field(default_factory=dict)

    def restart(self) -> None:
        """Forget the last forward; who still holds its dictionaries keeps them untouched."""
        self.values, self.counts, self.ordinals = {}, {}, {}
        self.versions, self.sizes = {}, {}

    def share(self) -> "Recording":
        """Give this forward a recording of its own, which writes to the same dictionaries."""
        return Recording(
            self.values,
            self.counts,
            self.ordinals,
            self.aliases,
            versions=self.versions,
            sizes=self.sizes,
            classes=self.classes,
        )

    def hand_over(self) -> "Recording":
        """Give away what was recorded, and begin anew."""
        given = self.share()
        self.restart()
        return given

    def drop(self, key: Key) -> None:
        """Let go of a value that turned out to be unwanted."""
        del self.values[key]
        self.sizes.pop(key, None)
        self.versions.pop(key, None)

    def discard(self, path: str, port: Port, calls: int) -> None:
        """Let go of what the first so many calls of a module left, where they left something."""
        for call in range(1, calls + 1):
            key = (path, port, call)
            self.values.pop(key, None)
            self.sizes.pop(key, None)
            self.versions.pop(key, None)

    def read(self, key: Key) -> Any:
        """Give a value, once it is on the host where it goes there.

        Raises:
            CaptureError: It is no copy, and something has written into it since.
        """
        for tensor, version in self.versions.get(key, ()):
            if tensor._version != version:
                raise CaptureError(
                    f"'{key[0]}' was captured with copy=False and has been written to since, so "
                    "what flowed is lost: leave copy out, which costs nothing until such a write"
                )
        value = self.values[key]
        return value.wait() if isinstance(value, Staged) else value

    def __reduce__(self) -> tuple[Any, ...]:
        # Neither a copy under way nor the number of writes can be taken along.
        values = {key: self.read(key) for key in self.values}
        return Recording, (values, self.counts, self.list_ordinals(), self.aliases, self.state)

    def list_ordinals(self) -> dict[tuple[str, int], str]:
        """List what is known of which module was the k-th of its class to run."""
        finished = [path for path, port in self.counts if port == "out"]
        ordinals: dict[tuple[str, int], str] = {}
        for name, paths in self.classes.items():
            ran = [path for path in finished if path in paths]
            ordinals |= {(name, place): path for place, path in enumerate(ran, 1)}
        # What was counted as it began is beyond doubt.
        return ordinals | self.ordinals

    def count(self, path: str, port: Port) -> int:
        """Tell how often a module ran in this forward; its gradients belong to its outputs."""
        return self.counts.get((path, "out" if port == "grad" else port), 0)

    def knows(self, path: str) -> bool:
        """Tell whether a text is the name of a module that ran, or another name for one."""
        return (path, "out") in self.counts or (path, "in") in self.counts or path in self.aliases


class Activations(Mapping[Site, Any]):
    """What the chosen sites of a network held in one forward pass, in the order of execution.

    A read-only mapping from `Site` to the value that flowed there: a tensor, or the tuple, list,
    dict or dataclass of tensors that the module passes. Look-ups take a site or its text:
    ``acts["enc.3"]``, ``acts["relu@-1"]``, and ``acts["Conv1d[5]"]`` where it was asked for so, or
    where all modules of the class were.

    Raises:
        SiteNotFoundError: On a look-up of what was not captured; the message says what was.

    >>> import torch, stratascope as ss
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
    >>> with ss.tap(model, ["**", "Conv1d[1]"]) as acts:
    ...     _ = model(torch.zeros(2, 1, 10))
    >>> [str(site) for site in acts]
    ['0', '1']
    >>> acts["Conv1d[1]"].shape
    torch.Size([2, 4, 8])
    """

    __slots__ = ("__weakref__", "_recording")

    def __init__(self, recording: Recording | None = None) -> None:
        if not isinstance(recording, Recording | None):
            raise TypeError("Activations come from a tap or a submodel, not from a constructor")
        self._recording = Recording() if recording is None else recording

    @property
    def sites(self) -> tuple[Site, ...]:
        """The captured sites, in the order of execution."""
        return tuple(self._site(key) for key in self._recording.values)

    def calls(self, name: str | Site) -> tuple[Any, ...]:
        """Collect the values of all captured calls of a module, first call first.

        Raises:
            SiteNotFoundError: None was captured.
        """
        wanted = self._parse(name)
        keys = [key for key in self._recording.values if key[:2] == (wanted.path, wanted.port)]
        if not keys:
            raise self._not_found(str(name))
        return tuple(self._recording.read(key) for key in sorted(keys, key=lambda key: key[2]))

    def __getitem__(self, name: str | Site) -> Any:
        wanted = self._parse(name)
        count = self._recording.count(wanted.path, wanted.port)
        call = wanted.call
        if call is None:
            if count > 1:
                self._refuse_to_choose(name, wanted, count)
            call = 1
        elif call < 0:
            call += count + 1
        key = (wanted.path, wanted.port, call)
        if key not in self._recording.values:
            raise self._not_found(str(name))
        return self._recording.read(key)

    def _refuse_to_choose(self, name: str | Site, wanted: Site, count: int) -> None:
        keys = [key for key in self._recording.values if key[:2] == (wanted.path, wanted.port)]
        if keys:
            listed = ", ".join(f"'{self._site(key)}'" for key in keys)
            raise SiteNotFoundError(
                f"{str(name)!r} ran {count} times in this forward: ask for one call (captured: "
                f"{listed}), or for acts.calls({str(name)!r})"
            )

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self._recording.values)

    def __repr__(self) -> str:
        if not self._recording.values:
            return "Activations(empty: no forward has been captured yet)"
        values = self._recording.values.items()
        rows = [(str(self._site(key)), _describe(value)) for key, value in values]
        width = max(len(name) for name, _ in rows)
        listed = "\n".join(f"  {name:<{width}}  {kind}" for name, kind in rows)
        return f"Activations of {len(rows)} sites\n{listed}"

    def _repr_html_(self) -> str:
        rows = [
            [
                str(site),
                _describe(value),
                f"{count_bytes(value) / 1e6:.3g}",
            ]
            for site, value in zip(self.sites, self._recording.values.values(), strict=True)
        ]
        table = lay_out_html([repr(self).splitlines()[0]], ["site", "value", "MB"], rows)
        return add_picture(table, self._pick_layers)

    def _repr_png_(self) -> bytes | None:
        return draw_png(self._pick_layers)

    def _pick_layers(self) -> tuple[Layers, str]:
        """Choose what a notebook shows: the first sample of all that has two to five axes."""
        found: dict[str, Callable[[], Tensor]] = {}
        for key, value in self._recording.values.items():
            held = value.value if isinstance(value, Staged) else value
            for place, tensor in named_tensors(held):
                if 2 <= tensor.ndim <= 5 and len(tensor) and tensor.layout is torch.strided:
                    name = f"{self._site(key)} {place}".strip()
                    found[name] = partial(self._read_first, key, place)
        return list(found.items()), "the first of the samples, axis 1 for the channels"

    def _read_first(self, key: Key, place: str) -> Tensor:
        return dict(named_tensors(self._recording.read(key)))[place][0]

    def _parse(self, name: str | Site) -> Site:
        if isinstance(name, Site):
            site = name
        elif not isinstance(name, str):
            raise TypeError(f"a site must be a name or a Site, got {type(name).__name__}")
        elif self._recording.knows(name):
            site = Site(name)
        else:
            site = Site.parse(name)
        return Site(self._resolve(site.path), site.port, site.call)

    def _resolve(self, path: str) -> str:
        if self._recording.knows(path):
            return self._recording.aliases.get(path, path)
        indexed = parse_class_index(path)
        if indexed is not None and indexed[1] is not None:
            return self._recording.list_ordinals().get((indexed[0], indexed[1]), path)
        # An operation goes by every name of the module in which it runs.
        parent, _, operation = path.rpartition(".")
        owner = self._recording.aliases.get(parent)
        if owner is not None:
            return f"{owner}.{operation}" if owner else operation
        return "" if path == ROOT_NAME else path

    def _site(self, key: Key) -> Site:
        path, port, call = key
        return Site(path, port, call if self._recording.count(path, port) > 1 else None)

    def _not_found(self, name: str) -> SiteNotFoundError:
        names = [str(site) for site in self.sites]
        if not names and self._recording.state:
            return SiteNotFoundError(f"{name!r} is not captured: {self._recording.state}")
        if not names:
            return SiteNotFoundError(
                f"{name!r} is not captured: nothing is, so run the model's forward first (one that "
                "was compiled before the tap passes it by: "
                "torch.compiler.set_stance('force_eager') helps)"
            )
        hint = suggest(name, names)
        if name == ROOT_NAME and any(not site.path for site in self):
            hint = " A module of the network has that name; the network itself is ''."
        if name.endswith(":grad"):
            hint = " A gradient is there after backward(), where the forward ran with gradients on."
        listed = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
        return SiteNotFoundError(
            f"{name!r} is not captured in this forward.{hint} Captured: {listed}"
        )


def list_further_names(table: ModuleTable) -> dict[str, str]:
    """Give every name under which a module of a model is looked up beside its first one."""
    names = {**table.wrapped, **table.aliases}
    if child := table.resolve(ROOT_NAME):
        # A child of that name takes it from the root, also where only the root is captured.
        names[ROOT_NAME] = child
    return names


def list_classes(table: ModuleTable, tapped: Collection[str]) -> dict[str, set[str]]:
    """List the classes of which all modules are tapped, and none is a part of another.

    Such modules finish in the order in which they began.
    """
    places: dict[str, list[str]] = {}
    for path, module in table.modules.items():
        for name in class_names(module):
            places.setdefault(name, []).append(path)
    classes: dict[str, set[str]] = {}
    for name, paths in places.items():
        parts = sorted(path.split(".") if path else [] for path in paths)
        nested = any(part[: len(whole)] == whole for whole, part in pairwise(parts))
        if not nested and all(path in tapped for path in paths):
            classes[name] = set(paths)
    return classes


def take_names(acts: Activations) -> Recording:
    """Take the further names under which values are found, and none of the values."""
    recording = acts._recording  # pyright: ignore[reportPrivateUsage]
    return Recording(ordinals=recording.list_ordinals(), aliases=recording.aliases)


def complete_names(acts: Activations, sites: Iterable[Site], names: Recording) -> None:
    """Name the values of a part as those of the whole are named.

    Calls go by number although the forward was left before it made the others.
    """
    recording = acts._recording  # pyright: ignore[reportPrivateUsage]
    recording.aliases, recording.ordinals = names.aliases, names.ordinals
    counts = recording.counts
    for site in sites:
        if site.call is not None:
            key: tuple[str, Port] = (site.path, "in" if site.port == "in" else "out")
            counts[key] = max(counts.get(key, 0), site.call, 2)


def _describe(value: Any) -> str:
    if isinstance(value, Staged):
        value = value.value
    if isinstance(value, Tensor):
        return _describe_tensor(value)
    tensors = list(named_tensors(value))
    listed = ", ".join(f"{name}: {_describe_tensor(tensor)}" for name, tensor in tensors)
    return f"{type(value).__name__}({listed})" if tensors else type(value).__name__


def _describe_tensor(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
