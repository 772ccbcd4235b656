"""Every kind of data gives the same samples in the same batches, from wherever one begins."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import stratascope as ss
from stratascope.errors import DataError
from stratascope.pipeline._source import make_source

SAMPLES, BATCH = 45, 7


def signals(samples=SAMPLES):
    return np.arange(samples * 6, dtype="float32").reshape(samples, 2, 3)


class Pairs(Dataset):
    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return self.values[index], index % 3


class Listed(Pairs):
    def __getitem__(self, index):
        return self.values[index]


class Named(Pairs):
    def __getitem__(self, index):
        return {"x": torch.from_numpy(self.values[index])}


class Streamed(IterableDataset):
    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return iter(self.values)


def cut(values):
    return [torch.from_numpy(values[k : k + BATCH]) for k in range(0, len(values), BATCH)]


def stack_doubled(items):
    return torch.stack([torch.from_numpy(x) for x, _ in items])


def big_endian(values):
    return values.astype(">f4")


def memmap(values, folder):
    values.tofile(folder / "signals.bin")
    return np.memmap(folder / "signals.bin", "f4", "r", shape=values.shape)


# Of each kind: how it is made of the values, and whether its length is known beforehand.
KINDS = {
    "array": (lambda values, _: values, True),
    "array of the other byte order": (lambda values, _: big_endian(values), True),
    "memmap": (memmap, True),
    "tensor": (lambda values, _: torch.from_numpy(values), True),
    "TensorDataset": (lambda values, _: TensorDataset(torch.from_numpy(values)), True),
    "Dataset of pairs": (lambda values, _: Pairs(values), True),
    "Dataset of dicts": (lambda values, _: Named(values), True),
    "DataLoader": (lambda values, _: DataLoader(Pairs(values), batch_size=BATCH), True),
    "DataLoader with workers": (
        lambda values, _: DataLoader(Pairs(values), batch_size=BATCH, num_workers=2),
        True,
    ),
    "DataLoader with collate_fn": (
        lambda values, _: DataLoader(Pairs(values), batch_size=BATCH, collate_fn=stack_doubled),
        True,
    ),
    "IterableDataset": (lambda values, _: Streamed(values), False),
    "DataLoader of an IterableDataset": (
        lambda values, _: DataLoader(Streamed(values), batch_size=BATCH),
        False,
    ),
    "list of batches": (lambda values, _: cut(values), False),
    "generator": (lambda values, _: (batch for batch in cut(values)), False),
    "batches of pairs": (lambda values, _: [(x, x.sum()) for x in cut(values)], False),
    "batches of arrays": (lambda values, _: [batch.numpy() for batch in cut(values)], False),
    "batches of listed samples": (lambda values, _: [(list(x), 0) for x in cut(values)], False),
    "batches of dicts of lists": (lambda values, _: [{"x": list(x)} for x in cut(values)], False),
    "batches of dicts": (lambda values, _: [{"x": batch.numpy()} for batch in cut(values)], False),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def source_of(kind, folder, values=None, limit=None):
    data = KINDS[kind][0](signals() if values is None else values, folder)
    return make_source(data, batch_size=BATCH, limit=limit)


def inputs(batches):
    """Join the inputs of batches, by the number of each sample."""
    found = {}
    for batch in batches:
        (tensor,) = [*batch.args, *batch.kwargs.values()]
        assert isinstance(tensor, torch.Tensor)
        assert len(tensor) == batch.size
        found |= {batch.start + k: row.numpy() for k, row in enumerate(tensor)}
    return found


def test_the_samples_come_in_order_with_their_numbers(kind, tmp_path):
    source = source_of(kind, tmp_path)
    batches = list(source.batches(0, None))
    found = inputs(batches)

    assert source.samples == (SAMPLES if KINDS[kind][1] else None)
    assert [batch.start for batch in batches] == list(range(0, SAMPLES, BATCH))
    assert list(found) == list(range(SAMPLES))
    np.testing.assert_array_equal(np.stack(list(found.values())), signals())
    assert source.sample_index is None


@pytest.mark.parametrize("limit", [1, 7, 10, 45, 99])
def test_a_limit_keeps_exactly_the_first_samples(kind, tmp_path, limit):
    source = source_of(kind, tmp_path, limit=limit)
    found = inputs(source.batches(0, None))
    kept = min(limit, SAMPLES)

    assert source.samples == (kept if KINDS[kind][1] else None)
    np.testing.assert_array_equal(np.stack(list(found.values())), signals()[:kept])


@settings(max_examples=10, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("generator", "DataLoader with workers")]
)
def test_from_any_sample_on_the_batches_are_those_of_the_whole_run(tmp_path_factory, kind, data):
    folder = tmp_path_factory.mktemp("data", numbered=True)
    source = source_of(kind, folder, limit=data.draw(st.none() | st.integers(1, SAMPLES + 9)))
    whole = list(source.batches(0, None))
    end = whole[-1].start + whole[-1].size
    start = data.draw(st.integers(0, end - 1))
    stop = data.draw(st.integers(start + 1, end))
    part = list(source.batches(start, stop))
    expected = [b for b in whole if b.start < stop and b.start + b.size > start]

    assert [(b.start, b.size) for b in part] == [(b.start, b.size) for b in expected]
    for ours, theirs in zip(inputs(part).items(), inputs(expected).items(), strict=True):
        assert ours[0] == theirs[0]
        np.testing.assert_array_equal(ours[1], theirs[1])


# What has no length is compared when its first batch has come.
@pytest.mark.parametrize("kind", [kind for kind, (_, known) in KINDS.items() if known])
def test_the_description_tells_equal_data_from_changed(kind, tmp_path):
    other = signals()
    other[0] += 1
    described = source_of(kind, tmp_path).describe()

    assert source_of(kind, tmp_path).describe() == described
    assert source_of(kind, tmp_path, values=other).describe() != described
    assert source_of(kind, tmp_path, values=signals(44)).describe() != described
    assert source_of(kind, tmp_path, limit=44).describe() != described


def test_the_callers_data_are_not_written_to(kind, tmp_path):
    data = KINDS[kind][0](signals(), tmp_path)
    if kind == "generator":
        data = cut(signals())
    before = copy.deepcopy(data)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            return self.relu(x.sub_(100))

    given = iter(data) if kind == "generator" else data
    store = ss.extract(
        Net(), given, ["", ":in"], to=tmp_path / "s", batch_size=BATCH, progress=False
    )

    np.testing.assert_array_equal(np.asarray(store["model"]), np.maximum(signals() - 100, 0))
    place = {"x": store["model:in"]["x"]} if isinstance(store["model:in"], dict) else {}
    np.testing.assert_array_equal(np.asarray(place.get("x", store["model:in"])), signals())
    for ours, theirs in zip(flat(data), flat(before), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def inputs_of(batch):
    if isinstance(batch, dict):
        return list(batch.values())
    return batch[:1] if isinstance(batch, tuple) else [batch]


def flat(data):
    if isinstance(data, DataLoader):
        return flat(data.dataset)
    if isinstance(data, Dataset):
        return [data.values if hasattr(data, "values") else data.tensors[0]]
    if isinstance(data, list):
        parts = [
            x["x"] if isinstance(x, dict) else x[0] if isinstance(x, tuple) else x for x in data
        ]
        return [np.asarray(part) for part in parts]
    return [np.asarray(data)]


def test_a_buffer_that_is_filled_again_does_not_change_what_was_captured(tmp_path):
    buffer = np.zeros((BATCH, 2, 3), "float32")

    def refill():
        for batch in cut(signals(42)):
            buffer[:] = batch.numpy()
            yield torch.from_numpy(buffer)

    store = ss.extract(nn.Identity(), refill(), ":in", to=tmp_path / "s", progress=False)

    np.testing.assert_array_equal(np.asarray(store["model:in"]), signals(42))


def loader(**settings):
    return DataLoader(Pairs(signals()), batch_size=BATCH, **settings)


def seeded():
    return torch.Generator().manual_seed(5)


def test_a_shuffled_loader_tells_which_sample_is_which(tmp_path):
    source = make_source(loader(shuffle=True, generator=seeded()), batch_size=1)
    found = inputs(source.batches(0, None))

    assert source.sample_index is not None
    assert sorted(source.sample_index) == list(range(SAMPLES))
    assert list(source.sample_index) != list(range(SAMPLES))
    np.testing.assert_array_equal(np.stack(list(found.values())), signals()[source.sample_index])
    np.testing.assert_array_equal(
        np.stack(list(inputs(source.batches(20, 30)).values())),
        signals()[source.sample_index[14:35]],
    )


def test_the_order_of_a_shuffled_loader_is_part_of_the_data():
    described = make_source(loader(shuffle=True, generator=seeded()), batch_size=1).describe()

    assert (
        make_source(loader(shuffle=True, generator=seeded()), batch_size=1).describe() == described
    )
    assert make_source(loader(), batch_size=1).describe() != described


def test_the_sample_index_is_stored_as_the_coordinate(tmp_path):
    data = DataLoader(Pairs(signals()), batch_sampler=[[44, 3], [7], [0, 1, 2]])
    store = ss.extract(nn.Identity(), data, "model", to=tmp_path / "s", limit=5, progress=False)

    assert store.to_xarray()["sample"].values.tolist() == [44, 3, 7, 0, 1]
    np.testing.assert_array_equal(np.asarray(store["model"]), signals()[[44, 3, 7, 0, 1]])


def test_a_dropped_last_batch_is_not_counted():
    source = make_source(loader(drop_last=True), batch_size=1)

    assert source.samples == 42
    assert list(inputs(source.batches(0, None))) == list(range(42))


def test_only_the_wanted_batches_are_read():
    read = []

    class Watched(Pairs):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    source = make_source(Watched(signals()), batch_size=BATCH)
    list(source.batches(15, 22))

    assert read == list(range(14, 28))


def test_batches_need_not_be_of_one_size(tmp_path):
    sizes = [3, 0, 10, 1, 31]
    stops = [0, *itertools.accumulate(sizes)]
    batches = [torch.from_numpy(signals()[a:b]) for a, b in itertools.pairwise(stops)]
    found = inputs(make_source(batches, batch_size=1).batches(0, None))

    np.testing.assert_array_equal(np.stack(list(found.values())), signals())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.zeros((0, 3)), "must have at least one sample, got none"),
        (torch.zeros(0), "must have at least one sample, got none"),
        (Pairs([]), "must have at least one sample, got none"),
        (DataLoader(Pairs([1]), batch_size=9, drop_last=True), "at least one sample, got none"),
        (np.float32(3), "samples on its first axis, got a single number"),
        (torch.tensor(3.0), "samples on its first axis, got a single number"),
        (np.array([object()]), "an array of numbers, got one of Python objects"),
        (np.array(["a", "b"]), "an array of numbers, got one of <U1"),
        (np.zeros(3, "datetime64[s]"), r"an array of numbers, got one of datetime64\[s\]"),
        (None, "an iterable of batches, got NoneType"),
        (7, "an iterable of batches, got int"),
        ("signals.npy", "an iterable of batches, got str"),
        (nn.Sequential(), "an iterable of batches, got Sequential"),
        (cut, "an iterable of batches, got function"),
        ({"x": signals()}, r"got dict\. Named inputs come as a Dataset or an iterable of dicts"),
        (Dataset(), r"got Dataset\. A Dataset has a length: give Dataset a __len__"),
    ],
)
def test_what_is_no_data_is_refused(data, words):
    with pytest.raises(DataError, match=words):
        make_source(data, batch_size=4)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_at_least_one(limit):
    with pytest.raises(DataError, match=f"limit must be at least 1, got {limit}"):
        make_source(signals(), batch_size=4, limit=limit)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ("text", "must be a tensor with the samples on its first axis.*got str"),
        (torch.tensor(3.0), "got Tensor"),
        ({}, "got dict"),
        ((), "must hold an input, got an empty tuple"),
        (([],), "a list of tensors, a tuple that begins with either"),
        (([torch.zeros(2), 3],), "a list of tensors, a tuple that begins with either"),
        (np.array([object()]), "must be an array of numbers, got one of Python objects"),
    ],
)
def test_what_is_no_batch_is_refused(batch, words):
    with pytest.raises(DataError, match=words):
        list(make_source([batch], batch_size=4).batches(0, None))


def test_samples_that_differ_in_shape_come_as_lists():
    values = [np.full((2, size), size, "float32") for size in (3, 4, 3, 5)]
    named = [{"x": value, "y": size, "z": value[0, :3]} for size, value in enumerate(values)]
    (first, second) = make_source(Pairs(values), batch_size=3).batches(0, None)
    (batch,) = make_source(Listed(named), batch_size=4, limit=3).batches(0, None)

    assert [tensor.tolist() for tensor in first.args[0]] == [value.tolist() for value in values[:3]]
    assert second.args[0].shape == (1, 2, 5)
    assert [len(value) for value in batch.kwargs.values()] == [3, 3, 3]
    assert isinstance(batch.kwargs["z"], torch.Tensor)
    assert batch.kwargs["y"].tolist() == [0, 1, 2]


def test_a_list_beside_a_tensor_is_one_input():
    pair = [torch.zeros(4, 2), torch.zeros(4, 3)]
    (batch,) = make_source([{"x": torch.zeros(4), "pair": pair}], batch_size=1).batches(0, None)

    assert (batch.size, batch.kwargs["pair"]) == (4, pair)


def test_samples_that_cannot_be_joined_are_an_error_of_theirs():
    samples = Listed([([1.0, 2.0], 0), ([1.0], 1)])

    with pytest.raises(RuntimeError, match="each element in list of batch should be of equal size"):
        list(make_source(samples, batch_size=2).batches(0, None))


def test_a_collate_fn_that_drops_samples_is_refused():
    source = make_source(loader(collate_fn=lambda items: stack_doubled(items[1:])), batch_size=1)

    with pytest.raises(DataError, match="one sample for each of its 7 indices, got 6"):
        list(source.batches(0, None))
