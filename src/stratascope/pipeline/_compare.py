"""Two stores side by side, or the sites of one, in one pass through each."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stratascope._progress import ProgressBar
from stratascope.errors import DataError, SiteNotFoundError
from stratascope.pipeline._compare_channels import ChannelGauge, SiteDifference
from stratascope.pipeline._compare_layers import GROUP, RSA_SAMPLES, Layer, Meter
from stratascope.pipeline._compare_result import Comparison, Differences
from stratascope.sites import Site
from stratascope.store import Store, StoredArray, open_store

Method = Literal["minibatch_cka", "cka", "unbiased_cka", "svcca", "procrustes", "rsa"]

_METHODS = get_args(Method)
# Samples of which a vector or a kernel of every site is held at once.
_WINDOW = 512
_NAMED = 8
_FEWEST = {"minibatch_cka": 4, "unbiased_cka": 4, "rsa": 3}


def compare(
    a: Store | str | Path,
    b: Store | str | Path | None = None,
    *,
    sites: str | Site | Iterable[str | Site] | None = None,
    method: Method = "minibatch_cka",
    flatten: bool = False,
    progress: bool = True,
) -> Comparison:
    """Compare each site of one store with each of another, and the values of those in both.

    Two checkpoints, two networks, float32 and bfloat16, or the sites of one network: samples are
    lined up by their index in the data set. Each store is read once, site by site, a few samples at
    a time. PyTorch is not needed.

    Args:
        a: A store, or its path.
        b: Another, or the same at another step: ``store.at(100)``. None compares the sites of `a`
            with each other.
        sites: Names or globs, as for `select`, each of which must pick a site in one of the two;
            None means all.
        method: ``"minibatch_cka"``: linear CKA of all values, unbiased, from groups of 32 samples
            that follow each other in `a` (Nguyen et al. 2021). ``"cka"``: linear CKA (Kornblith
            et al. 2019), which few samples make too large for wide sites. ``"unbiased_cka"``: the
            same without that bias (Song et al. 2012). ``"svcca"`` (Raghu et al. 2017).
            ``"procrustes"``, a distance (Ding et al. 2021). ``"rsa"`` (Kriegeskorte et al. 2008),
            from at most 1,024 of the samples.
        flatten: Whether a sample's vector is all of its values, rather than the channels' means
            over the positions; with ``"minibatch_cka"`` it always is.
        progress: Whether to show a bar on a terminal.

    Warns:
        UserWarning: Samples that only one store has are left out, or the stores come from
            different data.

    Raises:
        DataError: No sample is in both stores, or so many channels need too much memory.
        SiteNotFoundError: A name picks nothing, or a store has none of the sites.
        StoreError: A store, or values in it, cannot be read.
        ValueError: `method` is none of these.

    >>> import numpy as np, torch, stratascope as ss
    >>> data = np.random.default_rng(0).normal(size=(64, 1, 12)).astype("float32")
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
    >>> before = ss.extract(model, data, "**", to="before.zarr", progress=False)
    >>> with torch.no_grad():
    ...     _ = model[0].bias.add_(0.5)
    >>> after = ss.extract(model, data, "**", to="after.zarr", progress=False)
    >>> found = ss.compare(before, after)
    >>> found.matrix.shape, found.similarity("0") > 0.999
    ((2, 2), True)
    >>> print(found.first_divergence(1e-3).site, round(found.differences["0"].largest, 3))
    0 0.5
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
    stores = [_open(store) for store in (a, b) if store is not None]
    rows, samples, notes = _line_up(stores)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    flat = flatten or method == "minibatch_cka"
    sides = [
        {name: Layer(name, array, places, flat) for name, array in picked.items()}
        for picked, places in zip(_pick(stores, sites), rows, strict=True)
    ]
    layers = [layer for side in sides for layer in side.values()]
    meter = Meter(method, layers, len(sides[0]) if b is not None else None)
    with ProgressBar("compare", len(samples), enabled=progress) as bar:
        differences = _walk(sides, meter, samples, bar)
    matrix = meter.compute()
    for place, layer in enumerate(layers):
        problem = layer.conclude()
        if problem is not None:
            matrix[place] = matrix[:, place] = np.nan
            side = "" if b is None else f" of {'a' if place < len(sides[0]) else 'b'}"
            notes.append(f"'{layer.name}'{side} is like no other: {problem}")
    notes += _say_what_lacks(method, len(samples))
    firsts, lasts = tuple(sides[0]), tuple(sides[-1])
    if b is not None:
        both = [name for name in firsts if name in lasts]
        notes += _name_uneven([name for name in both if name not in differences])
    return Comparison(
        method,
        matrix[: len(firsts), -len(lasts) :],
        firsts,
        lasts,
        _name(stores[0]),
        None if b is None else _name(stores[1]),
        samples,
        Differences(differences),
        tuple(notes),
    )


def _open(store: Store | str | Path) -> Store:
    return open_store(store) if isinstance(store, str | Path) else store


def _name(store: Store) -> str:
    return f"{store.path} step {store.step}"


def _line_up(stores: Sequence[Store]) -> tuple[list[NDArray[np.int64]], Any, list[str]]:
    """Find the samples that all have: their places in each store, their indices, and remarks.

    They come in the order of the first store.

    Raises:
        DataError: There are none.
    """
    there = [
        np.concatenate([np.zeros(0, np.int64), *(np.arange(r.start, r.stop) for r in ranges)])
        for ranges in (store.committed_ranges() for store in stores)
    ]
    found = [store.sample_index[rows] for store, rows in zip(stores, there, strict=True)]
    # Of a sample that a store has several times, the first counts.
    common, *places = np.intersect1d(found[0], found[-1], return_indices=True)
    if not len(common):
        raise DataError(
            "stores must have samples in common to be compared, by their index in the data set, "
            f"got none: {' and '.join(map(_span, stores, found))}. Extract both from the same data"
        )
    rows = [numbers[place] for numbers, place in zip(there, places[: len(stores)], strict=True)]
    order = np.argsort(rows[0], kind="stable")
    notes = [
        f"{store.samples - len(common):,} of the {store.samples:,} samples of {_name(store)} are "
        "left out, since they are not there in both, or are there twice"
        for store in stores
        if store.samples > len(common)
    ]
    return (
        [row[order] for row in rows],
        common[order],
        notes + _compare_data(stores, whole=not notes),
    )


def _span(store: Store, indices: NDArray[np.int64]) -> str:
    spans = f"samples {indices.min()} to {indices.max()}" if len(indices) else "none"
    return f"{_name(store)} has {spans}"


def _compare_data(stores: Sequence[Store], *, whole: bool) -> list[str]:
    """Say so if the same index is known to mean another sample in the other store."""
    names = ("kind", "digest", "dtype")
    plain = [store.settings.get("data", {}) for store in stores]
    kinds, digests, dtypes = ([data.get(name) for data in plain] for name in names)
    remark = "so a sample of the one may not be the sample of that index of the other"
    if "training batch" in kinds and len({_name(store) for store in stores}) > 1:
        return [f"batches of a training are other samples at every step, {remark}: record a probe"]
    # A digest is one of some samples, chosen by how many there are.
    comparable = whole and kinds[0] == kinds[-1] and dtypes[0] == dtypes[-1]
    if comparable and None not in digests and digests[0] != digests[-1]:
        return [f"the stores were made from different data, {remark}"]
    return []


def _pick(stores: Sequence[Store], sites: Any) -> list[dict[str, StoredArray]]:
    """List the arrays of the chosen sites of each store by name.

    Raises:
        SiteNotFoundError: A name picks nothing in any, or a store has none of them.
    """
    if sites is None:
        return [_list_arrays(store, store) for store in stores]
    names = [sites] if isinstance(sites, str | Site) else list(sites)
    picked: list[set[str]] = [set() for _ in stores]
    for name in names:
        errors: list[SiteNotFoundError] = []
        for store, found in zip(stores, picked, strict=True):
            try:
                found.update(store.select(name))
            except SiteNotFoundError as error:
                errors.append(error)
        if len(errors) == len(stores):
            raise errors[0]
    for store, found in zip(stores, picked, strict=True):
        if not found:
            listed = ", ".join(map(str, names)) or "(none named)"
            raise SiteNotFoundError(f"{_name(store)} holds none of the sites {listed}")
    return [
        _list_arrays(store, (site for site in store if site in found))
        for store, found in zip(stores, picked, strict=True)
    ]


def _list_arrays(store: Store, sites: Iterable[str]) -> dict[str, StoredArray]:
    found: dict[str, StoredArray] = {}
    for site in sites:
        value = store[site]
        parts = value if isinstance(value, dict) else {"": value}
        found |= {f"{site} [{place}]" if place else site: part for place, part in parts.items()}
    return found


def _walk(
    sides: Sequence[dict[str, Layer]], meter: Meter, samples: NDArray[np.int64], bar: ProgressBar
) -> dict[str, SiteDifference]:
    """Read all layers, window by window and each by itself; those of both stores side by side."""
    # As a dict, which keeps the order of execution.
    names = dict.fromkeys(name for side in sides for name in side)
    teams = [[side[name] for side in sides if name in side] for name in names]
    gauges = {
        team[0].name: ChannelGauge(team[0].name, team[0].channels)
        for team in teams
        if len(team) == 2 and _has_same_axes(*(layer.array for layer in team))
    }
    num_bytes = 0
    for start in range(0, len(samples), _WINDOW):
        window = slice(start, min(start + _WINDOW, len(samples)))
        left: dict[int, list[NDArray[np.float64]]] = {}
        for team in teams:
            for part in _cut_window(team, window):
                values = [layer.read(part) for layer in team]
                num_bytes += sum(array.nbytes for array in values)
                if (gauge := gauges.get(team[0].name)) is not None:
                    one, other = map(Layer.arrange, team, values)
                    gauge.update(one, other, samples[part], identical=_is_same(*values))
                for layer, array in zip(team, values, strict=True):
                    vectors = layer.to_vectors(array, part)
                    left.setdefault(id(layer), []).extend(meter.reduce(vectors))
        every = [left[id(layer)] for side in sides for layer in side.values()]
        meter.take(every, samples[window])
        bar.update(window.stop, num_bytes)
    return {name: gauge.compute() for name, gauge in gauges.items()}


def _has_same_axes(one: StoredArray, other: StoredArray) -> bool:
    return one.shape[1:] == other.shape[1:] and one.dims == other.dims


def _cut_window(team: Sequence[Layer], window: slice) -> Iterator[slice]:
    """Cut a window into pieces of whole groups that take little memory and no chunk twice."""
    size = min(layer.array.block_size for layer in team)
    step = max(GROUP, size // GROUP * GROUP)
    for start in range(window.start, window.stop, step):
        yield slice(start, min(start + step, window.stop))


def _is_same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Tell whether two arrays are the same to the bit; NaN is no number, but has bits."""
    ours, theirs = (np.ascontiguousarray(array).reshape(-1) for array in (one, other))
    return one.dtype == other.dtype and np.array_equal(ours.view(np.uint8), theirs.view(np.uint8))


def _name_uneven(names: Sequence[str]) -> list[str]:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    listed = ", ".join(names[:_NAMED]) + more
    return [f"not compared by value, since their shapes differ: {listed}"] if names else []


def _say_what_lacks(method: str, samples: int) -> list[str]:
    fewest = _FEWEST.get(method, 2)
    if samples < fewest:
        return [f"{method} needs {fewest} samples at least, of which there are {samples}"]
    if method == "rsa" and samples > RSA_SAMPLES:
        return [f"rsa looks at {RSA_SAMPLES:,} of the samples"]
    return []
