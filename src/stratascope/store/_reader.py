"""Reading a store: lazily, without torch, and never a value that was not written."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from stratascope._display import Layers, add_picture, draw_png
from stratascope._optional import require
from stratascope.errors import StoreError
from stratascope.sites import Site
from stratascope.store._array import StoredArray, describe_owed, name_dtype, pick_layers
from stratascope.store._chunks import DamageError, ShardReader, read_coordinate
from stratascope.store._dataset import SampleDataset
from stratascope.store._files import (
    UnreadableError,
    committed_units,
    find_root,
    list_steps,
    read_end,
    read_manifest,
    read_spec,
)
from stratascope.store._folder import Folder
from stratascope.store._layout import COORDINATES, DATA, TEXT, VALUES, ArraySpec, Paths, SiteSpec
from stratascope.store._names import SiteNames
from stratascope.store._repair import uncommit
from stratascope.store._verify import Damage, verify
from stratascope.store._where import open_folder
from stratascope.store._xarray import show_values


def open_store(path: str | Path | Folder, *, step: int | None = None) -> "Store":
    """Open a store for reading; nothing is read but its description.

    Args:
        path: The folder that `extract` wrote, or the URL of one in a bucket.
        step: Which step to look at; None means the last one.

    Warns:
        UserWarning: The step is unfinished, and of data whose length shows only at the end: nothing
            else would tell its samples from all of them.

    Raises:
        StoreError: There is no store at this path, it has no such step, or a newer layout.

    >>> import numpy as np, torch, stratascope as ss
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
    >>> data = np.zeros((20, 1, 10), "float32")
    >>> _ = ss.extract(model, data, "1", to="opened.zarr", progress=False)
    >>> store = ss.open_store("opened.zarr")
    >>> store["1"]
    StoredArray '1' (20, 4, 8) float32
    >>> store["1"][17, 2].shape
    (8,)
    """
    return _open_step(path, step, stacklevel=3)


def _open_step(path: str | Path | Folder, step: int | None, *, stacklevel: int) -> "Store":
    root = find_root(path)
    steps = list_steps(root)
    if not steps:
        raise StoreError(f"{root} holds no step yet: the run that made it wrote nothing")
    chosen = steps[-1] if step is None else step
    if chosen not in steps:
        listed = ", ".join(str(number) for number in steps)
        raise StoreError(f"step must be one of those in {root} ({listed}), got {chosen}")
    store = Store(root, chosen)
    if read_spec(Paths(root, chosen)).samples is None and not store.complete:
        warnings.warn(
            f"step {chosen} of {root} is unfinished: {store.samples} samples are there, and how "
            "many are to come is not known. Run the same extract again with resume=True (--resume)",
            stacklevel=stacklevel,
        )
    return store


class Store(Mapping[str, Any]):
    """Activations of a data set on disk: a read-only mapping from site to lazy array.

    Sites are found by the text under which they were captured, and by their other names: those of
    a shared module, ``Conv1d[5]``, ``relu@-1``. A site that passes several tensors, such as an
    LSTM, gives a dict of arrays by place.

    Attributes:
        path: The store's folder: a path, or the URL of a bucket as text.
        step: The step that is looked at.
        folder: What reads its files.

    >>> import numpy as np, torch, stratascope as ss
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
    >>> data = np.ones((20, 1, 10), "float32")
    >>> store = ss.extract(model, data, "**", to="read.zarr", progress=False)
    >>> list(store), store.samples, store.complete
    (['0', '1'], 20, True)
    >>> store
    Store 'read.zarr' step 0: 2 sites, 20 samples
      0  (20, 4, 8) float32
      1  (20, 4, 8) float32
    """

    def __init__(self, path: str | Path | Folder, step: int) -> None:
        self.folder = open_folder(path)
        self.path = self.folder.path
        self.step = step
        self._paths = Paths(self.folder, step)
        self._spec = read_spec(self._paths)
        self._sites: dict[str, list[ArraySpec]] = {}
        for array in self._spec.values:
            self._sites.setdefault(array.site, []).append(array)
        table = self._spec.table
        self._names = SiteNames(str(self.path), [table[site] for site in self._sites])
        self._readers = {
            array.key: ShardReader(
                self.folder, f"{self._paths.group}/{array.key}", 1 + len(array.shape)
            )
            for array in self._spec.arrays
        }
        self._beside: dict[tuple[str, str], dict[str, tuple[ArraySpec, ShardReader]]] = {}
        for array in self._spec.arrays:
            if array.role not in (VALUES, *COORDINATES):
                beside = self._beside.setdefault((array.site, array.place), {})
                beside[array.role] = array, self._readers[array.key]

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process, such as a worker of a DataLoader, opens it anew.
        return Store, (self.path, self.step)

    @property
    def steps(self) -> tuple[int, ...]:
        """All steps of the store."""
        return tuple(list_steps(self.folder))

    @property
    def settings(self) -> dict[str, Any]:
        """What the values depend on: model, data, sites, batch size."""
        return dict(self._spec.settings)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the values come from: command, versions, and what the caller added."""
        return dict(self._spec.provenance)

    @property
    def skipped(self) -> dict[str, str]:
        """Values that could not be stored, and why."""
        return dict(self._spec.skipped)

    @property
    def complete(self) -> bool:
        """Whether the run that wrote this step came to its end."""
        return self._paths.is_complete

    @property
    def samples(self) -> int:
        """Number of samples, those that a stopped run still owes included where it is known."""
        if self._spec.samples is not None:
            return self._spec.samples
        if self.complete:
            return read_end(self._paths)
        return max(self.committed_ranges(), default=range(0), key=lambda span: span.stop).stop

    @property
    def nbytes(self) -> int:
        """Bytes on disk of the values that are committed, without their previews."""
        return sum(self._open_array(array).nbytes_stored for array in self._spec.values)

    @property
    def codec(self) -> str:
        """How the values are compressed: ``"fast"`` (LZ4) or ``"compact"`` (Zstandard)."""
        return self._spec.codec

    @property
    def written_at(self) -> datetime | None:
        """When the step was finished, or what is there of it committed, by the times of its files.

        None where nothing is committed. A copy may have times of its own.
        """
        manifests = map(self._paths.manifest, committed_units(self._paths))
        files = self.folder.stat([self._paths.complete, *manifests])
        newest = max((file.modified for file in files.values()), default=None)
        return None if newest is None else datetime.fromtimestamp(newest).astimezone()

    def at(self, step: int) -> "Store":
        """Look at another step.

        Raises:
            StoreError: There is no such step.
        """
        return _open_step(self.folder, step, stacklevel=3)

    def committed_ranges(self) -> list[range]:
        """List the ranges of samples that are committed, joined where they touch."""
        ranges: list[range] = []
        for unit in sorted(committed_units(self._paths)):
            start = unit * self._spec.unit
            stop = self._find_end(unit)
            if ranges and ranges[-1].stop == start:
                start = ranges.pop().start
            if start < stop:
                ranges.append(range(start, stop))
        return ranges

    def _find_end(self, unit: int) -> int:
        """Find the sample behind the last of a committed unit; where nobody knows, its first."""
        if self._spec.samples is not None:
            return min((unit + 1) * self._spec.unit, self._spec.samples)
        try:
            return read_manifest(self._paths, self._spec, unit).stop
        except UnreadableError:
            # As for the writer, which does such a unit again.
            return unit * self._spec.unit

    @property
    def sample_index(self) -> np.ndarray[Any, Any]:
        """Index in the data set of each sample, int64 ``(N,)``; not in order if it was shuffled.

        Raises:
            StoreError: It is damaged.
        """
        try:
            return read_coordinate(self.folder, f"{self._paths.group}/sample", self.samples)
        except DamageError as damage:
            raise StoreError(
                f"the sample coordinate of step {self.step} cannot be read: {damage}. The "
                "activations are not touched; stratascope verify lists all that is damaged"
            ) from damage

    @property
    def targets(self) -> StoredArray | None:
        """The targets that the data gave beside the inputs, by sample; None where it gave none.

        >>> import torch, stratascope as ss
        >>> data = torch.utils.data.TensorDataset(torch.ones(20, 1, 10), torch.arange(20) % 3)
        >>> store = ss.extract(torch.nn.Conv1d(1, 4, 3), data, "model", to="targets.zarr")
        >>> store.targets
        StoredArray 'target' (20,) int64
        >>> store.targets[:4]
        array([0, 1, 2, 0])
        """
        return self._open_coordinate("target")

    @property
    def ids(self) -> np.ndarray[Any, Any] | None:
        """The ``ids`` of the data set, whole numbers or text, by sample; None where it had none.

        Raises:
            StoreError: Samples are not there yet, or are damaged.
        """
        array = self._open_coordinate("id")
        if array is None:
            return None
        values = array[:]
        if array.source_dtype != TEXT:
            return values
        return np.strings.decode(values.view(f"S{array.shape[1]}")[:, 0], "utf-8")

    @property
    def coordinates(self) -> dict[str, StoredArray]:
        """What the data gave beside the inputs, as it is stored: ``"target"``, ``"id"``."""
        return {array.role: self._open_array(array) for array in self._spec.coordinates}

    def _open_coordinate(self, role: str) -> StoredArray | None:
        return self.coordinates.get(role)

    @property
    def unit(self) -> int:
        """Samples in one shard file."""
        return self._spec.unit

    def holds(self, samples: np.ndarray[Any, Any]) -> bool:
        """Tell whether samples, given by number, are all committed."""
        units = np.unique(np.asarray(samples) // self._spec.unit)
        return all(self.folder.exists(self._paths.manifest(int(unit))) for unit in units)

    def to_xarray(self) -> Any:
        """Open this step as an `xarray.DataTree`, a node for each site, loaded when it is read.

        Targets and ids of the data are coordinates of each node, along ``sample``.

        Raises:
            MissingExtraError: xarray is not installed.
            StoreError: The step is incomplete, or files of it are lost: xarray would show what is
                missing as data.

        >>> import numpy as np, torch, stratascope as ss
        >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
        >>> data = np.ones((20, 1, 10), "float32")
        >>> store = ss.extract(model, data, "1", to="tree.zarr", progress=False)
        >>> tree = store.to_xarray()
        >>> tree["1"]["activation"].sel(sample=17).isel(channel=2).shape
        (8,)
        """
        xarray = require("xarray", extra="xarray")
        if not self.complete:
            raise describe_owed(self)
        for array in (*self._spec.values, *self._spec.coordinates):
            self._open_array(array).check_there()
        tree = xarray.open_datatree(
            self.folder.for_zarr(DATA),
            engine="zarr",
            group=str(self.step),
            consolidated=False,
            chunks=None,
        )
        for array in self._spec.values:
            if array.quantized:
                folder, name = array.key.rsplit("/", 1)
                values = show_values(tree[folder][name].variable, self._open_array(array))
                tree[folder][name] = values
        beside = {array.key: tree[array.key].variable for array in self._spec.coordinates}
        if (ids := self.ids) is not None:
            beside["id"] = xarray.Variable("sample", ids, beside["id"].attrs)
        for folder in {array.key.rsplit("/", 1)[0] for array in self._spec.values}:
            tree[folder].coords.update(beside)
        return tree

    def to_numpy(self, sites: str | Site | Iterable[str | Site] | None = None) -> dict[str, Any]:
        """Read whole sites into memory: an array each, or a dict of arrays by place.

        Args:
            sites: Names or globs, as for `select`; None means all.

        Raises:
            SiteNotFoundError: A name picks nothing.
            StoreError: Samples are not there yet, or are damaged.

        >>> import numpy as np, torch, stratascope as ss
        >>> data = np.ones((20, 1, 10), "float32")
        >>> store = ss.extract(torch.nn.Conv1d(1, 4, 3), data, "model", to="numpy.zarr")
        >>> store.to_numpy()["model"].shape
        (20, 4, 8)
        """
        return {name: _load(self[name]) for name in self.select(sites)}

    def to_torch(
        self, sites: str | Site | Iterable[str | Site] | None = None, *, targets: Any = None
    ) -> Any:
        """Give the samples to PyTorch, as a map-style data set for a ``DataLoader``.

        Each item is a dict: by site the tensor of the sample, or a dict of tensors by place; under
        ``"sample"`` its index in the data set; under ``"target"`` its target. Several numbers at
        once, ``dataset[[3, 17]]``, give a batch. Shuffled reading unpacks whole chunks of 8 to 64
        samples for each one: read what fits into memory with `to_numpy`.

        Args:
            sites: Names or globs, as for `select`; None means all.
            targets: The targets of the data set that was extracted, in its order: an array, a
                tensor or a list. They are lined up with the samples by their index. None means the
                stored `targets`, if there are any.

        Raises:
            SiteNotFoundError: A name picks nothing.
            StoreError: The step is incomplete.
            DataError: There are fewer targets than samples.

        >>> import numpy as np, torch, stratascope as ss
        >>> data = np.ones((20, 1, 10), "float32")
        >>> store = ss.extract(torch.nn.Conv1d(1, 4, 3), data, "model", to="probe.zarr")
        >>> dataset = store.to_torch("model", targets=np.arange(20) % 2)
        >>> for batch in torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=True):
        ...     print(batch["model"].shape, batch["target"].shape)
        torch.Size([16, 4, 8]) torch.Size([16])
        torch.Size([4, 4, 8]) torch.Size([4])
        """
        return SampleDataset(self, self.select(sites), targets)

    def verify(self, *, deep: bool = False) -> list[Damage]:
        """Look for damage in this step; nothing is changed.

        Args:
            deep: Read every byte, not only sizes, descriptions and the indices of the shards.

        Returns:
            What is damaged; an empty list where all is well.

        >>> import numpy as np, torch, stratascope as ss
        >>> data = np.ones((300, 1, 10), "float32")
        >>> store = ss.extract(torch.nn.Conv1d(1, 4, 3), data, "model", to="damaged.zarr")
        >>> store.verify(deep=True)
        []
        """
        return verify(self.folder, step=self.step, deep=deep)

    def uncommit(self, damages: Iterable[Damage]) -> None:
        """Give damaged samples back, so that ``extract(..., resume=True)`` computes them again.

        Until then the step is incomplete, and the units of these samples are not read at any site.
        All other units stay as they are. Open the store again afterwards.

        Args:
            damages: What `verify` gave; that of other steps is passed over.

        Raises:
            StoreError: A run is writing the step.

        >>> import numpy as np, torch, stratascope as ss
        >>> model, data = torch.nn.Conv1d(1, 4, 3), np.ones((300, 1, 10), "float32")
        >>> store = ss.extract(model, data, "model", to="mended.zarr")
        >>> (store.path / "data.zarr/0/model/activation/c/1/0/0").unlink()
        >>> damages = store.verify()
        >>> print(damages[0].samples)
        range(256, 300)
        >>> store.uncommit(damages)
        >>> store = ss.extract(model, data, "model", to="mended.zarr", resume=True)
        >>> store.verify(deep=True)
        []
        """
        uncommit(self._paths, [damage for damage in damages if damage.step == self.step])

    def find(self, name: str | Site) -> str:
        """Find the site behind a name, as the store lists it.

        Args:
            name: The site's text, another name of a shared module, ``Conv1d[5]`` for the fifth of
                its class to run, ``relu@-1`` for the last call.

        Raises:
            SiteNotFoundError: The store does not hold it; the message lists near names.
        """
        return self._names.find(str(name))

    def describe(self, name: str | Site) -> SiteSpec:
        """Say what is known of a site: its module's class, its call, its other names.

        Raises:
            SiteNotFoundError: The store does not hold it; the message lists near names.
        """
        return self._spec.table[self.find(name)]

    def select(self, sites: str | Site | Iterable[str | Site] | None = None) -> tuple[str, ...]:
        """List the sites that names pick, in the order of execution.

        Args:
            sites: Names, globs such as ``enc.*``, all of a class as ``Conv1d[*]``; None means all.

        Raises:
            SiteNotFoundError: A name picks nothing; the message lists near names.

        >>> import numpy as np, torch, stratascope as ss
        >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
        >>> store = ss.extract(model, np.ones((9, 1, 8), "float32"), "**", to="select.zarr")
        >>> store.select("Conv1d[*]"), store.select(["1", "Conv1d[1]"])
        (('0',), ('0', '1'))
        """
        if sites is None:
            return tuple(self)
        given = [sites] if isinstance(sites, str | Site) else list(sites)
        picked = {found for name in given for found in self._names.select(str(name))}
        return tuple(site for site in self if site in picked)

    def __getitem__(self, name: str | Site) -> Any:
        arrays = self._sites[self.find(name)]
        if len(arrays) == 1 and not arrays[0].place:
            return self._open_array(arrays[0])
        return {array.place: self._open_array(array) for array in arrays}

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        others = [step for step in self.steps if step != self.step]
        more = f" (also steps {', '.join(map(str, others))})" if others else ""
        state = "" if self.complete else ", INCOMPLETE"
        arrays = [self._open_array(array) for array in self._spec.values]
        names = [f"{a.site}{f' [{a.place}]' if a.place else ''}" for a in arrays]
        width = max(map(len, names), default=0)
        rows = [
            f"\n  {name:<{width}}  {array.shape} {name_dtype(array)}"
            for name, array in zip(names, arrays, strict=True)
        ]
        return (
            f"Store {str(self.path)!r} step {self.step}{more}: {len(self)} sites, "
            f"{self.samples} samples{state}{''.join(rows)}"
        )

    def _repr_html_(self) -> str:
        lines = escape(repr(self)).replace("\n", "<br>")
        table = f'<div style="white-space:pre; font-family:monospace">{lines}</div>'
        return add_picture(table, self._pick)

    def _repr_png_(self) -> bytes | None:
        return draw_png(self._pick)

    def _pick(self) -> tuple[Layers, str]:
        return pick_layers(self, [self._open_array(array) for array in self._spec.values])

    def _open_array(self, array: ArraySpec) -> StoredArray:
        beside = self._beside.get((array.site, array.place), {})
        return StoredArray(self, array, self._readers[array.key], beside)


def _load(value: StoredArray | dict[str, StoredArray]) -> Any:
    if isinstance(value, dict):
        return {place: array[:] for place, array in value.items()}
    return value[:]
