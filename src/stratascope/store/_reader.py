"""Reading a store: lazily, without torch, and never a value that was not written."""

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stratascope._optional import require
from stratascope.errors import SiteNotFoundError, StoreError
from stratascope.sites import Site, suggest
from stratascope.store._commit import committed_units
from stratascope.store._index import Part, parse_index
from stratascope.store._layout import (
    COMMITS,
    DATA,
    FORMAT,
    LAYOUT_VERSION,
    RUN_FILE,
    ArraySpec,
    Paths,
    StepSpec,
    name_samples,
)

if TYPE_CHECKING:
    import zarr


def open_store(path: str | Path, *, step: int | None = None) -> "Store":
    """Open a store for reading; nothing is read but its description.

    Args:
        path: The folder that `extract` wrote.
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
    return _open_step(Path(path), step, stacklevel=3)


def _open_step(path: Path, step: int | None, *, stacklevel: int) -> "Store":
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


def find_root(path: Path) -> Path:
    """Check that a folder is a store that this version reads."""
    if path.name == DATA and (path.parent / RUN_FILE).exists():
        path = path.parent
    if not (path / RUN_FILE).is_file():
        problem = "does not exist" if not path.exists() else "is not a stratascope store"
        raise StoreError(f"{path} {problem}: expected a folder that stratascope extract wrote")
    run = _read_json(path / RUN_FILE)
    if run.get("format") != FORMAT:
        raise StoreError(f"{path} is not a stratascope store: its run.json is another program's")
    if run.get("layout") != LAYOUT_VERSION:
        raise StoreError(
            f"{path} must have layout {LAYOUT_VERSION}, got {run.get('layout')}: read it with the "
            "release of stratascope that wrote it"
        )
    return path


def list_steps(root: Path) -> list[int]:
    """List the steps of a store, in order."""
    names = [spec.parent.name for spec in (root / COMMITS).glob("*/spec.json")]
    return sorted(int(name) for name in names if name.isdecimal())


def read_spec(paths: Paths) -> StepSpec:
    """Read what a step holds."""
    try:
        return StepSpec.from_json(_read_json(paths.spec))
    except (KeyError, TypeError) as error:
        raise StoreError(f"{paths.spec} is damaged: it must describe a step ({error})") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text())
    except ValueError as error:
        raise StoreError(f"{path} is damaged: it must be JSON ({error})") from error
    return plain if isinstance(plain, dict) else {}


class Store(Mapping[str, Any]):
    """Activations of a data set on disk: a read-only mapping from site to lazy array.

    Sites are found by the text under which they were captured. A site that passes several tensors,
    such as an LSTM, gives a dict of arrays by place.

    Attributes:
        path: The store's folder.
        step: The step that is looked at.

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

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.step = step
        self._paths = Paths(path, step)
        self._spec = read_spec(self._paths)
        self._sites: dict[str, list[ArraySpec]] = {}
        for array in self._spec.arrays:
            self._sites.setdefault(array.site, []).append(array)

    @property
    def steps(self) -> tuple[int, ...]:
        """All steps of the store."""
        return tuple(list_steps(self.path))

    @property
    def settings(self) -> dict[str, Any]:
        """What the values depend on: model, data, sites, batch size."""
        return dict(self._spec.settings)

    @property
    def skipped(self) -> dict[str, str]:
        """Values that could not be stored, and why."""
        return dict(self._spec.skipped)

    @property
    def complete(self) -> bool:
        """Whether the run that wrote this step came to its end."""
        return self._paths.complete.exists()

    @property
    def samples(self) -> int:
        """Number of samples, those that a stopped run still owes included where it is known."""
        if self._spec.samples is not None:
            return self._spec.samples
        if self.complete:
            return int(_read_json(self._paths.complete)["samples"])
        return max(self.committed_ranges(), default=range(0), key=lambda span: span.stop).stop

    @property
    def nbytes(self) -> int:
        """Bytes of the committed shards on disk."""
        units = sorted(committed_units(self._paths.commits))
        manifests = [_read_json(self._paths.manifest(unit)) for unit in units]
        return sum(file["bytes"] for m in manifests for file in m["files"].values())

    def at(self, step: int) -> "Store":
        """Look at another step.

        Raises:
            StoreError: There is no such step.
        """
        return _open_step(self.path, step, stacklevel=3)

    def committed_ranges(self) -> list[range]:
        """List the ranges of samples that are committed, joined where they touch."""
        ranges: list[range] = []
        known = self._spec.samples
        for unit in sorted(committed_units(self._paths.commits)):
            start, stop = unit * self._spec.unit, (unit + 1) * self._spec.unit
            if known is None:
                stop = _read_json(self._paths.manifest(unit))["stop"]
            else:
                stop = min(stop, known)
            if ranges and ranges[-1].stop == start:
                start = ranges.pop().start
            ranges.append(range(start, stop))
        return ranges

    @property
    def sample_index(self) -> np.ndarray[Any, Any]:
        """Index in the data set of each sample, int64 ``(N,)``; not in order if it was shuffled."""
        import zarr

        array = zarr.open_array(self._paths.group / "sample", mode="r")
        return np.asarray(array[: self.samples])

    @property
    def unit(self) -> int:
        """Samples in one shard file."""
        return self._spec.unit

    def holds(self, samples: np.ndarray[Any, Any]) -> bool:
        """Tell whether samples, given by number, are all committed."""
        held = np.zeros(self.samples, dtype=bool)
        for span in self.committed_ranges():
            held[span.start : span.stop] = True
        return bool(held[samples].all())

    def to_xarray(self) -> Any:
        """Open this step as an `xarray.DataTree`, a node for each site; nothing is loaded.

        Raises:
            MissingExtraError: xarray is not installed.
            StoreError: The step is incomplete: xarray would show what is missing as data.

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
            raise _describe_owed(self)
        return xarray.open_datatree(
            self.path / DATA, engine="zarr", group=str(self.step), consolidated=False, chunks=None
        )

    def find(self, name: str | Site) -> str:
        """Find the site behind a name, as the store lists it.

        Raises:
            SiteNotFoundError: The store does not hold it; the message lists near names.
        """
        for known in (str(name), str(self._canonical(str(name)))):
            if known in self._sites:
                return known
        raise self._not_found(str(name))

    def __getitem__(self, name: str | Site) -> Any:
        arrays = self._sites[self.find(name)]
        if len(arrays) == 1 and not arrays[0].place:
            return StoredArray(self, arrays[0])
        return {array.place: StoredArray(self, array) for array in arrays}

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        others = [step for step in self.steps if step != self.step]
        more = f" (also steps {', '.join(map(str, others))})" if others else ""
        state = "" if self.complete else ", INCOMPLETE"
        names = [f"{a.site}{f' [{a.place}]' if a.place else ''}" for a in self._spec.arrays]
        width = max(map(len, names), default=0)
        rows = [
            f"\n  {name:<{width}}  {(self.samples, *array.shape)} {array.dtype}"
            for name, array in zip(names, self._spec.arrays, strict=True)
        ]
        return (
            f"Store {str(self.path)!r} step {self.step}{more}: {len(self)} sites, "
            f"{self.samples} samples{state}{''.join(rows)}"
        )

    def _canonical(self, name: str) -> Site:
        """Read ``relu@1`` as ``relu`` where the module runs once."""
        site = Site.parse(name)
        return Site(site.path, site.port) if site.call in (1, -1) else site

    def _not_found(self, name: str) -> SiteNotFoundError:
        calls = [site for site in self if site.startswith(f"{name}@")]
        hint = suggest(name, self)
        if calls:
            hint = f" It ran several times: ask for one of {', '.join(map(repr, calls))}."
        listed = ", ".join(list(self)[:8]) + (" …" if len(self) > 8 else "")
        return SiteNotFoundError(f"{self.path} holds no site {name!r}.{hint} It holds: {listed}")


class StoredArray:
    """One array of a store, shape ``(N, …)``; indexing reads what is asked for and no more.

    Index as in NumPy, with integers, slices that go forwards, an ellipsis, and one list or mask
    along one axis; all else, such as a negative step or a second list, is an IndexError. Samples
    that an interrupted run still owes are an error, never a made-up value.

    Attributes:
        shape: ``(N, *sample_shape)``.
        dtype: NumPy type of the stored values.
        dims: Names of the axes.
        source_dtype: Name of the type that the network computed in.
    """

    def __init__(self, store: Store, spec: ArraySpec) -> None:
        self._store = store
        self._spec = spec
        self._array: zarr.Array[Any] | None = None
        self.shape = (store.samples, *spec.shape)
        self.dtype = np.dtype(spec.dtype)
        self.dims = ("sample", *spec.dims)
        self.source_dtype = spec.source_dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in memory of the whole array."""
        return self._spec.sample_bytes * self.shape[0]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray[Any, Any]:
        # The files may have grown since: ends are those that this array was opened with.
        chosen = parse_index(index, self.shape, self.dims)
        wanted = self._check_present(chosen.parts[0])
        array = self._open()
        try:
            # zarr spells the byte order out, which would show in every repr.
            return chosen.read(array).view(self.dtype)
        except (ValueError, RuntimeError, OSError) as error:
            raise StoreError(
                f"step {self._store.step}, site '{self._spec.site}', samples "
                f"{name_samples(wanted.min(), wanted.max())} cannot be read: "
                f"{str(error).rstrip('.')}. A shard is damaged; other samples and sites are not "
                "touched"
            ) from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if copy is False:
            raise ValueError("a stored array must be copied to become a NumPy array")
        return np.asarray(self[:], dtype=dtype)

    def __repr__(self) -> str:
        place = f" [{self._spec.place}]" if self._spec.place else ""
        return f"StoredArray '{self._spec.site}'{place} {self.shape} {self.dtype}"

    def _open(self) -> Any:
        if self._array is None:
            import zarr

            path = Paths(self._store.path, self._store.step).group / self._spec.key
            self._array = zarr.open_array(path, mode="r")
        return self._array

    def _check_present(self, part: Part) -> np.ndarray[Any, Any]:
        """List the samples of an index; refuse fill values in place of those that are not there."""
        samples, unit = self.shape[0], self._store.unit
        wanted = np.atleast_1d(np.arange(samples)[part])
        if not self._store.complete and not self._store.holds(wanted):
            raise _describe_owed(self._store)
        paths = Paths(self._store.path, self._store.step)
        for number in np.unique(wanted // unit):
            shard = paths.shard(self._spec, int(number))
            # Zarr reads an empty file, which a power cut may leave, as if it were not there.
            if not shard.exists() or shard.stat().st_size == 0:
                raise StoreError(
                    f"step {self._store.step}, site '{self._spec.site}', samples "
                    f"{number * unit} to {min(samples, (number + 1) * unit) - 1} are lost: "
                    f"{shard} is not there or empty. Other samples and sites are not touched"
                )
        return wanted


def _describe_owed(store: Store) -> StoreError:
    ranges = store.committed_ranges()
    listed = ", ".join(name_samples(span.start, span.stop - 1) for span in ranges) or "none"
    first = ranges[0] if ranges else range(0)
    remedy = f", or read those only, as store[site][{first.start}:{first.stop}]" if ranges else ""
    return StoreError(
        f"{store.path} is incomplete: of step {store.step} samples {listed} are there. Run the "
        f"same extract again with resume=True (--resume){remedy}"
    )
