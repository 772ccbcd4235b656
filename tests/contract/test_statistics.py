"""What every statistic promises, whatever it measures."""

import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stratascope import stats
from stratascope.errors import DataError


@dataclass(frozen=True)
class Case:
    """A statistic, what it is fed with, and which of its results are right to the last bit."""

    make: Callable[[], Any]
    prepare: Callable[[Any], Any] = lambda values: values
    exact: bool = False
    several: bool = False


def pair(values):
    """Two sites that see the same samples."""
    return [values, values[:, :2] * values[:, :2]]


CASES = {
    "counts": Case(stats.Counts, exact=True),
    "extremes": Case(lambda: stats.Extremes(threshold=0.5), exact=True),
    "moments": Case(stats.Moments),
    "two moments": Case(lambda: stats.Moments(order=2)),
    "histogram": Case(stats.Histogram, exact=True),
    "layer histogram": Case(lambda: stats.Histogram(per_channel=False), exact=True),
    "half histogram": Case(lambda: stats.HalfHistogram("float16"), exact=True),
    "top samples": Case(lambda: stats.TopSamples(3), exact=True),
    "covariance": Case(stats.Covariance),
    "reservoir": Case(lambda: stats.Reservoir(5)),
    "flat reservoir": Case(lambda: stats.Reservoir(5, flatten=True), exact=True),
    "similarity": Case(stats.Similarity, pair, several=True),
    "similarity of two networks": Case(lambda: stats.Similarity(first=1), pair, several=True),
    "minibatch CKA": Case(lambda: stats.MinibatchCKA(6), pair, several=True),
}
KINDS = ("normal", "relu", "far", "steps", "wide", "constant")
SHAPES = [(24, 3, 4, 5), (24, 3, 7), (24, 3), (24, 2, 300)]

every = pytest.mark.parametrize("name", CASES)
# The last are tensors that are taken for those of a device, though they are none.
libraries = pytest.mark.parametrize("library", ["numpy", "torch", "device"])


@pytest.fixture(autouse=True)
def tensors_of_a_device(request, monkeypatch):
    callspec = getattr(request.node, "callspec", None)
    if callspec is None or callspec.params.get("library") != "device":
        yield
        return
    monkeypatch.setattr(stats._arrays, "lies_on_device", lambda tensor: True)
    # On a busy machine threads would wait longer for each other than they work on so little.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_values(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Give float64 values, which float16 holds exactly only for some kinds."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    if kind == "relu":
        return np.maximum(values, 0)
    if kind == "far":
        return 100 + 0.1 * values
    if kind == "steps":
        return np.round(values)
    if kind == "wide":
        return np.exp(8 * values) * np.sign(rng.standard_normal(shape))
    if kind == "constant":
        values[:, -1] = 0.1
    return values


def prepare(case: Case, values: np.ndarray, library: str = "numpy") -> Any:
    """Give values in the form in which a statistic takes them."""
    if isinstance(case.make(), stats.HalfHistogram):
        values = np.where(np.abs(values) < 6e4, values, np.where(np.isfinite(values), 6e4, values))
        values = values.astype(np.float16)
    return case.prepare(values if library == "numpy" else torch.from_numpy(values.copy()))


def feed(case: Case, statistic: Any, values: np.ndarray, numbers: Any, library="numpy") -> None:
    statistic.update(prepare(case, values, library), samples=numbers)


def measure(case: Case, values: np.ndarray, library: str = "numpy") -> Any:
    statistic = case.make()
    feed(case, statistic, values, np.arange(len(values)), library)
    return statistic


def assert_same(found: Any, wanted: Any, scale: float, *, exact: bool) -> None:
    """Compare results: whole numbers bit by bit, others to 1e-12 of the size of what went in."""
    for field in fields(wanted):
        one, other = np.asarray(getattr(found, field.name)), np.asarray(getattr(wanted, field.name))
        if exact or one.dtype.kind in "iub":
            np.testing.assert_array_equal(one, other, err_msg=field.name)
            continue
        finite = np.abs(other[np.isfinite(other)])
        size = finite.max(initial=0.0)
        # Differences of far larger figures: a mean of the values, an excess over a normal's 3.
        size = scale if field.name == "mean" else size
        size = max(size, 3) if field.name in ("skewness", "kurtosis") else size
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12 * size, err_msg=field.name)


@every
@libraries
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from(KINDS),
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**20),
    data=st.data(),
)
def test_any_split_and_any_order_of_merging_equals_one_pass(name, library, kind, shape, seed, data):
    case, values = CASES[name], make_values(kind, shape, seed)
    whole = measure(case, values, library).compute()
    order = np.random.default_rng(seed).permutation(len(values))
    cuts = data.draw(st.lists(st.integers(0, len(values)), max_size=5))
    workers = [case.make() for _ in range(data.draw(st.integers(1, 4)))]
    for rows in np.split(order, sorted(cuts)):
        feed(case, data.draw(st.sampled_from(workers)), values[rows], rows, library)
    while len(workers) > 1:
        taken = workers.pop(data.draw(st.integers(0, len(workers) - 1)))
        workers[data.draw(st.integers(0, len(workers) - 1))].merge(taken)

    assert_same(workers[0].compute(), whole, np.abs(values).max(), exact=case.exact)


@every
@libraries
def test_a_tensor_gives_what_an_array_gives_and_is_measured_where_it_is(name, library):
    case, values = CASES[name], make_values("normal", (24, 3, 4, 5))
    statistic = measure(case, values, library)

    assert_same(statistic.compute(), measure(case, values).compute(), 1, exact=case.exact)
    kind = torch.Tensor if library == "device" else np.ndarray
    for key, array in statistic.state.items():
        assert isinstance(array, np.ndarray if key in ("widths", "numbers", "vectors") else kind)


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@libraries
def test_what_is_not_finite_in_one_channel_leaves_the_others_exact(name, bad, library):
    case, values = CASES[name], make_values("normal", (24, 4, 4, 5))
    spoilt = values.copy()
    spoilt[3, 3, 1, 2] = spoilt[5, 3, 0, 0] = bad
    clean, found = (measure(case, given, library).compute() for given in (values, spoilt))
    if name in ("layer histogram", "half histogram"):
        assert found.nonfinite.tolist() == [2]
        assert found.total.tolist() == [values.size - 2]
        return
    if case.several:
        # The sites here are the channels together, of which one is spoilt; the other is not.
        field, other = (
            result.hsic if name == "minibatch CKA" else result.quartic for result in (clean, found)
        )
        assert np.isnan(other[0]).all()
        assert np.isnan(other[:, 0]).all()
        assert other[1, 1] == field[1, 1]
        return
    if name == "flat reservoir":
        clean, found = (result.vectors.reshape(-1, 4, 20) for result in (clean, found))
        np.testing.assert_array_equal(clean[:, :3], found[:, :3])
        return
    if name == "histogram":
        q = np.linspace(0, 1, 11)
        np.testing.assert_array_equal(clean.quantile(q)[:, :3], found.quantile(q)[:, :3])
        np.testing.assert_array_equal(found.nonfinite, [0, 0, 0, 2])
        return
    for field in fields(clean):
        one, other = (np.asarray(getattr(result, field.name)) for result in (clean, found))
        if field.name == "vectors":
            one, other = one.T, other.T
        if one.ndim == 0:
            continue
        if field.name == "covariance":
            one, other = one[:, :3], other[:, :3]
        np.testing.assert_array_equal(one[:3], other[:3], err_msg=field.name)


DTYPES = ("float16", "bfloat16", "float32", "int8", "uint8", "int64", "bool")


@pytest.mark.parametrize(
    ("name", "library", "dtype"),
    [
        (name, library, dtype)
        for name in CASES
        for library in ("numpy", "torch", "device")
        for dtype in (["float16"] if name == "half histogram" else DTYPES)
        if (library, dtype) != ("numpy", "bfloat16")
    ],
)
def test_every_type_of_number_gives_what_its_float64_values_give(name, library, dtype):
    case = CASES[name]
    values = np.abs(np.round(make_values("normal", (24, 3, 4, 5)) * 40))
    given = torch.from_numpy(values).to(getattr(torch, dtype))
    batch = case.prepare(given.numpy() if library == "numpy" else given)
    found, wanted = case.make(), case.make()
    found.update(batch, samples=range(24))
    # What makes the second of two sites is rounded in the narrow type.
    sites = [torch.as_tensor(site).double() for site in (batch if case.several else [batch])]
    half = name == "half histogram"
    wanted.update(sites if case.several else given if half else sites[0], samples=range(24))

    assert_same(found.compute(), wanted.compute(), 40, exact=case.exact)


def test_halves_do_not_overflow():
    values = np.full((64, 1, 100), 60_000, np.float16)
    moments, covariance = stats.Moments(), stats.Covariance()
    stats.update_all([moments, covariance], values)
    moments.update(torch.from_numpy(values))

    assert moments.compute().mean.tolist() == [60_000 - 32 + 32]
    assert moments.compute().variance.tolist() == [0]
    assert covariance.compute().covariance.tolist() == [[0]]


@every
@libraries
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 0)])
def test_a_batch_without_values_adds_nothing(name, library, shape):
    case, values = CASES[name], make_values("normal", (24, 3, 4, 5))
    if "flat" in name or name == "minibatch CKA":
        shape = (0, 3, 4, 5)
    statistic, empty = measure(case, values, library), case.make()
    wanted = statistic.compute()
    feed(case, statistic, np.zeros(shape), np.arange(shape[0]), library)
    feed(case, empty, np.zeros(shape), np.arange(shape[0]), library)
    empty.compute()

    assert_same(statistic.compute(), wanted, 1, exact=True)
    assert_same(statistic.merge(empty).compute(), wanted, 1, exact=True)
    assert_same(empty.merge(statistic).compute(), wanted, 1, exact=case.exact)


@every
@libraries
def test_one_value_is_enough(name, library):
    case = CASES[name]
    statistic = case.make()
    values = np.array([[2.5]])
    given = prepare(Case(case.make), values, library)
    statistic.update([given, given] if case.several else given, samples=[7])
    found = statistic.compute()
    if name == "moments":
        assert (found.mean.item(), found.variance.item()) == (2.5, 0)
        assert np.isnan(found.kurtosis).all()
    if name == "top samples":
        assert found.highest_samples.tolist() == [[7, -1, -1]]


@every
def test_without_a_batch_there_is_nothing_to_compute(name):
    with pytest.raises(ValueError, match=r"has seen no batch; call update\(batch\) before"):
        CASES[name].make().compute()


@every
@libraries
def test_a_statistic_can_be_pickled_and_goes_on(name, library):
    case, values = CASES[name], make_values("normal", (24, 3, 4, 5))
    first = case.make()
    feed(case, first, values[:10], np.arange(10), library)
    again = pickle.loads(pickle.dumps(first))
    feed(case, again, values[10:], np.arange(10, 24), library)

    assert_same(again.compute(), measure(case, values).compute(), 1, exact=case.exact)


@every
@libraries
def test_a_state_can_be_saved_as_plain_arrays_and_goes_on(name, library):
    case, values = CASES[name], make_values("normal", (24, 3, 4, 5))
    first, again, file = case.make(), case.make(), io.BytesIO()
    feed(case, first, values[:10], np.arange(10), library)
    np.savez(file, **first.state_dict())
    file.seek(0)
    again.load_state_dict(np.load(file, allow_pickle=False))
    feed(case, first, values[10:], np.arange(10, 24), library)
    feed(case, again, values[10:], np.arange(10, 24), library)

    assert_same(again.compute(), first.compute(), 1, exact=True)


@every
def test_a_result_stays_as_it_was(name):
    case, values = CASES[name], make_values("normal", (24, 3, 4, 5))
    statistic = measure(case, values)
    result = statistic.compute()
    before = pickle.loads(pickle.dumps(result))
    feed(case, statistic, values * 2, np.arange(24, 48))

    assert_same(result, before, 1, exact=True)


@every
def test_what_is_merged_stays_as_it_was(name):
    case, values = CASES[name], make_values("normal", (24, 3, 4, 5))
    first, second, empty = measure(case, values[:10]), case.make(), case.make()
    feed(case, second, values[10:], np.arange(10, 24))
    before = second.compute()
    first.merge(second)
    empty.merge(second)
    feed(case, empty, values[:10], np.arange(10))
    feed(case, first, values[:2], np.arange(30, 32))

    assert_same(second.compute(), before, 1, exact=True)


@every
@libraries
def test_a_batch_is_left_as_it_was(name, library):
    case, values = CASES[name], make_values("normal", (24, 3, 4, 5))
    batch = prepare(case, values, library)
    for site in batch if case.several else [batch]:
        if library == "numpy":
            site.flags.writeable = False
    copies = pickle.loads(pickle.dumps(batch))
    case.make().update(batch, samples=range(24))
    for one, other in zip(copies, batch, strict=True):
        np.testing.assert_array_equal(one, other)


@every
def test_the_layout_of_a_batch_in_memory_does_not_matter(name):
    case, values = CASES[name], make_values("normal", (24, 3, 4, 5))
    wanted = measure(case, values).compute()
    turned = np.ascontiguousarray(values.transpose(3, 2, 1, 0)).transpose(3, 2, 1, 0)
    last = torch.from_numpy(values).to(memory_format=torch.channels_last)

    for same in (turned, values[:, :, ::-1].copy()[:, :, ::-1], last.numpy()):
        assert_same(measure(case, same).compute(), wanted, 1, exact=case.exact)
    if name != "half histogram":
        statistic = case.make()
        statistic.update(case.prepare(last), samples=range(24))
        assert_same(statistic.compute(), wanted, 1, exact=case.exact)


@every
def test_the_state_does_not_grow_with_the_samples(name):
    case, values = CASES[name], make_values("normal", (24, 3, 4, 5))
    statistic = measure(case, values)
    before = sum(array.nbytes for array in statistic.state.values())
    for start in range(24, 240, 24):
        feed(case, statistic, values, np.arange(start, start + 24))

    assert sum(array.nbytes for array in statistic.state.values()) == before


@every
@libraries
def test_tensors_with_a_gradient_and_inference_mode_are_taken(name, library):
    case, values = CASES[name], make_values("normal", (24, 3, 4, 5))
    statistic = case.make()
    half = name == "half histogram"
    given = torch.from_numpy(values.astype(np.float16) if half else values)
    with torch.inference_mode():
        statistic.update(case.prepare(given[:10] + 0), samples=range(10))
    statistic.update(case.prepare(given[10:].requires_grad_()), samples=range(10, 24))

    assert_same(statistic.compute(), measure(case, values).compute(), 1, exact=case.exact)
    tensors = [array for array in statistic.state.values() if isinstance(array, torch.Tensor)]
    assert not any(tensor.requires_grad for tensor in tensors)


@every
def test_only_the_same_statistic_with_the_same_settings_and_channels_can_be_merged(name):
    case, values = CASES[name], make_values("normal", (24, 3, 4, 5))
    statistic = measure(case, values)
    other = stats.Extremes(threshold=7.0)
    other.update(values)
    with pytest.raises(TypeError, match=r"can be merged with the same only, got Extremes\(thr"):
        statistic.merge(other)
    with pytest.raises(
        ValueError, match=r"the state must be that of .*, got that of Extremes\(threshold=7"
    ):
        statistic.load_state_dict(other.state_dict())
    before = statistic.compute()
    four = measure(case, make_values("normal", (24, 4, 4, 5)))
    with pytest.raises(
        DataError, match=r"must have .* (channels|values a sample) like those before, got .*;"
    ):
        statistic.merge(four)
    with pytest.raises(
        DataError, match=r"must have .* (channels|values a sample) like those before, got .*;"
    ):
        feed(case, statistic, make_values("normal", (24, 4, 4, 5)), np.arange(24))

    assert_same(statistic.compute(), before, 1, exact=True)


@every
def test_what_is_no_batch_is_refused(name):
    case = CASES[name]
    for wrong, error, message in [
        (np.zeros((4, 3), complex), TypeError, "a batch must be real numbers, got complex128"),
        (torch.zeros(4, 3, dtype=torch.complex64), TypeError, "real numbers, got torch.complex64"),
        (np.array(["a"]), TypeError, "a batch must be real numbers, got <U1"),
        (np.ma.zeros((4, 3)), TypeError, r"must not be a masked array; pass array.filled"),
        (np.float64(3), DataError, r"must have shape \(N,\), \(N, C\) or .*, got a single number"),
    ]:
        batch = [wrong, wrong] if case.several else wrong
        with pytest.raises(error, match=message):
            case.make().update(batch, samples=range(4))
    batch = prepare(case, make_values("normal", (24, 3)))
    with pytest.raises(DataError, match="one number for each of the 24 samples, got shape"):
        case.make().update(batch, samples=range(3))
    with pytest.raises(TypeError, match="samples must be integers, got float64"):
        case.make().update(batch, samples=np.arange(24.0))


@every
def test_settings_are_shown_and_cannot_be_changed(name):
    statistic = CASES[name].make()
    assert repr(statistic).startswith(type(statistic).__name__ + "(")
    with pytest.raises(AttributeError, match="cannot assign to field 'state'"):
        statistic.state = {}


def test_the_cases_are_all_the_statistics_there_are():
    offered = {
        value
        for value in vars(stats).values()
        if isinstance(value, type) and issubclass(value, stats.Statistic)
    }

    assert offered - {stats.Statistic} == {type(case.make()) for case in CASES.values()}


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if CASES[name].make().needs_samples]
)
def test_who_tells_samples_apart_asks_for_their_numbers(name):
    case = CASES[name]
    with pytest.raises(ValueError, match=r"must know which samples it sees; pass their numbers"):
        case.make().update(prepare(case, make_values("normal", (24, 3))))


def test_several_statistics_at_once_find_what_each_finds():
    values = make_values("relu", (24, 3, 4, 5)).astype(np.float32)
    cases = [case for name, case in CASES.items() if not case.several and name != "half histogram"]
    together = [case.make() for case in cases]
    stats.update_all(together, values[:10], samples=range(10))
    stats.update_all(together, values[10:], samples=range(10, 24))
    for case, statistic in zip(cases, together, strict=True):
        alone = case.make()
        alone.update(values[:10], samples=range(10))
        alone.update(values[10:], samples=range(10, 24))
        assert_same(statistic.compute(), alone.compute(), 1, exact=True)


def test_threads_that_share_the_channels_find_the_same():
    values = make_values("wide", (40, 70, 3000)).astype(np.float32)
    values[3, 5, 7] = np.nan
    cases = [
        case for case in CASES.values() if not case.several and case is not CASES["half histogram"]
    ]
    alone, together = [case.make() for case in cases], [case.make() for case in cases]
    with ThreadPoolExecutor(4) as crew:
        for part in (slice(0, 25), slice(25, 40)):
            numbers = np.arange(40)[part]
            stats.update_all(alone, values[part], samples=numbers)
            stats.update_all(together, values[part], samples=numbers, run=crew.map)

    for one, other in zip(alone, together, strict=True):
        assert_same(one.compute(), other.compute(), 1, exact=True)


def test_a_batch_that_one_of_several_refuses_changes_none():
    counts, extremes = stats.Counts(), stats.Extremes()
    counts.update(np.zeros((2, 3)))
    extremes.update(np.zeros((2, 4)))
    with pytest.raises(DataError, match="must have 4 channels like those before, got 3;"):
        stats.update_all([counts, extremes], np.zeros((2, 3)))

    assert counts.compute().values.tolist() == [2, 2, 2]


@pytest.mark.parametrize("shape", [(5, 3, 70_000), (900, 700, 1)])
def test_large_batches_are_cut_along_channels_and_samples(shape):
    values = make_values("normal", shape).astype(np.float32)
    counts, moments, extremes = stats.Counts(), stats.Moments(), stats.Extremes()
    histogram, top = stats.Histogram(bins_per_octave=1), stats.TopSamples(2)
    stats.update_all([counts, moments, extremes, histogram, top], values, samples=range(shape[0]))
    double = values.astype(np.float64)
    each = shape[0] * shape[2]

    assert (counts.compute().values == each).all()
    assert (histogram.compute().total == each).all()
    np.testing.assert_allclose(moments.compute().variance, double.var((0, 2)), rtol=1e-12)
    np.testing.assert_allclose(moments.compute().mean_abs, np.abs(double).mean((0, 2)), rtol=1e-12)
    np.testing.assert_array_equal(extremes.compute().minimum, values.min((0, 2)))
    np.testing.assert_array_equal(top.compute().highest, -np.sort(-double.max(2), 0)[:2].T)
