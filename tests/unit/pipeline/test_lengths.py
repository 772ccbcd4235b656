import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import stratascope as ss
from stratascope.errors import CaptureError, DataError, StoreError
from stratascope.pipeline._lengths import find_extent, split_batch
from stratascope.pipeline._source import make_source

SAMPLES = 130
LENGTHS = np.random.default_rng(0).choice(np.arange(20, 41, 4), SAMPLES)


def make_signals(channels=2):
    rng = np.random.default_rng(1)
    return [rng.normal(size=(channels, size)).astype("float32") for size in LENGTHS]


SIGNALS = make_signals()


class Listed(Dataset):
    """Gives one sample after the other, as what a function makes of it, and counts."""

    def __init__(self, make=lambda signal: signal, signals=SIGNALS):
        self.make, self.signals, self.reads = make, signals, 0

    def __len__(self):
        return len(self.signals)

    def __getitem__(self, index):
        self.reads += 1
        return self.make(self.signals[index])


class Net(nn.Module):
    """What becomes of a length: shorter, the same, the same number whatever it was, none."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Conv1d(2, 3, 5, stride=3)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool1d(4)
        self.flat = nn.Flatten()
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return self.flat(self.pool(self.relu(self.down(x))))


class Tokens(nn.Module):
    """Takes named inputs, and gives features, their sizes and a choice for each token."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 70)

    def forward(self, features, mask):
        found = self.layer(features * mask[..., None])
        return {"features": found, "choice": found.argmax(-1), "mask": mask > 0}


def named(signal):
    size = signal.shape[1]
    features = np.resize(signal, (size, 6))
    return {"features": features, "mask": np.arange(size, dtype="float32")}, size


def pad(items):
    """Fill the signals of a batch up, as a collate_fn of the user's own does."""
    width = max(item.shape[1] for item in items)
    return torch.stack(
        [nn.functional.pad(torch.as_tensor(x), (0, width - x.shape[1])) for x in items]
    )


@pytest.fixture
def run(tmp_path):
    def extract(data, model=None, sites="**", to="s", **settings):
        settings = {"batch_size": 20, "unit_size": 64, "progress": False, **settings}
        settings = {"length": "longest", **settings}
        return ss.extract(model or Net(), data, sites, to=tmp_path / to, **settings)

    return extract


def run_alone(model, signal, site):
    with torch.no_grad(), ss.tap(model.eval(), site) as acts:
        model(torch.as_tensor(signal)[None])
    return acts[site][0].numpy()


KINDS = {
    "Dataset": lambda: Listed(),
    "Dataset of tensors": lambda: Listed(torch.from_numpy),
    "Dataset of pairs": lambda: Listed(lambda signal: (signal, signal[0, 0])),
    "Dataset of pairs of both": lambda: Listed(lambda signal: (signal, signal[0])),
    "DataLoader": lambda: DataLoader(Listed(), batch_size=20),
    "DataLoader of a list": lambda: DataLoader(SIGNALS, batch_size=20),
    "DataLoader with workers": lambda: DataLoader(SIGNALS, batch_size=20, num_workers=2),
    "DataLoader that lists": lambda: DataLoader(
        SIGNALS, batch_size=20, collate_fn=lambda items: (items, None)
    ),
    "one by one": lambda: DataLoader(SIGNALS, batch_size=1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_has_what_the_network_makes_of_it_alone(run, kind):
    store = run(KINDS[kind]())
    down, relu = store["down"], store["relu"]
    model = Net()

    assert (down.shape, down.length_dim) == ((SAMPLES, 3, 12), "time")
    np.testing.assert_array_equal(down.lengths[:], (LENGTHS - 5) // 3 + 1, strict=True)
    np.testing.assert_array_equal(relu.lengths[:], down.lengths[:])
    for number in (0, 1, 64, 129):
        expected = run_alone(model, SIGNALS[number], "down")
        size = expected.shape[1]
        np.testing.assert_allclose(down[number, :, :size], expected, rtol=1e-5, atol=1e-6)
        assert np.isnan(down[number, :, size:]).all()
    assert (np.isnan(down[:]).sum((1, 2)) == 3 * (12 - down.lengths[:])).all()


def test_what_does_not_depend_on_the_length_has_none(run):
    store = run(Listed())
    expected = np.stack([run_alone(Net(), signal, "flat") for signal in SIGNALS])

    assert (store["pool"].length_dim, store["flat"].length_dim) == (None, None)
    np.testing.assert_allclose(store["flat"][:], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(StoreError, match=r"'flat' has no lengths: .* whole, of shape \(12,\)"):
        _ = store["flat"].lengths


def test_samples_of_one_length_run_together_and_without_padding(run):
    model = Net()
    run(Listed(), model)
    probes, batches = model.seen[:2], model.seen[2:]
    expected = sum(len(np.unique(LENGTHS[k : k + 20])) for k in range(0, SAMPLES, 20))

    assert [tuple(probe.shape) for probe in probes] == [(2, 2, 40), (2, 2, 20)]
    assert len(batches) == expected
    given = [signal.tobytes() for signal in SIGNALS]
    assert sorted(row.numpy().tobytes() for batch in batches for row in batch) == sorted(given)


def test_a_batch_that_comes_padded_counts_as_long_as_it_is(run):
    store = run(DataLoader(SIGNALS, batch_size=3, collate_fn=pad))
    widths = np.repeat([max(LENGTHS[k : k + 3]) for k in range(0, SAMPLES, 3)], 3)[:SAMPLES]

    np.testing.assert_array_equal(store["down"].lengths[:], (widths - 5) // 3 + 1)


def test_tokens_lie_along_the_axis_that_differs(run):
    store = run(Listed(named), Tokens(), ["", "layer"])
    features, choice, mask = (store["model"][place] for place in ("features", "choice", "mask"))
    number = int(LENGTHS.argmin())
    inputs = {
        name: torch.as_tensor(value)[None] for name, value in named(SIGNALS[number])[0].items()
    }
    with torch.no_grad():
        expected = Tokens()(**inputs)
    size = LENGTHS[number]

    assert (features.shape, store["layer"].dims) == (
        (SAMPLES, 40, 70),
        ("sample", "token", "channel"),
    )
    assert (store["layer"].length_dim, choice.dtype, mask.dtype) == ("token", "int64", "bool")
    for array in (features, choice, mask, store["layer"]):
        np.testing.assert_array_equal(array.lengths[:], LENGTHS)
    np.testing.assert_allclose(features[number, :size], expected["features"][0], rtol=1e-4)
    np.testing.assert_array_equal(choice[number, :size], expected["choice"][0])
    assert np.isnan(features[number, size:]).all()
    assert not choice[number, size:].any()
    assert not mask[number, size:].any()


@pytest.mark.parametrize("model", [Net, Tokens])
def test_codes_of_a_byte_end_where_the_sample_ends(run, model):
    make = named if model is Tokens else (lambda signal: signal)
    sites = "layer" if model is Tokens else "down"
    exact = run(Listed(make), model(), sites)[sites]
    codes = run(Listed(make), model(), sites, to="t", dtype="uint8")[sites]

    np.testing.assert_array_equal(np.isnan(codes[:]), np.isnan(exact[:]))
    np.testing.assert_array_equal(codes.lengths[:], exact.lengths[:])
    assert np.nanmax(abs(codes[:] - exact[:])) < 0.004 * np.nanmax(abs(exact[:]))
    number = int(LENGTHS.argmin())
    assert codes.codes[number].max() == 255


def test_xarray_has_the_lengths_as_a_coordinate(run):
    tree = run(Listed(named), Tokens(), ["", "layer"], dtype="uint8").to_xarray()

    np.testing.assert_array_equal(tree["layer"]["activation"].length, LENGTHS)
    np.testing.assert_array_equal(tree["model"]["activation.mask"].coords["length.mask"], LENGTHS)
    short = tree["layer"]["activation"].where(tree["layer"].length < 30, drop=True)
    assert short.sizes["sample"] == (LENGTHS < 30).sum()


def test_a_length_may_be_given(run):
    data = Listed()
    store = run(data, sites="down", length=100)

    assert store["down"].shape == (SAMPLES, 3, 32)
    np.testing.assert_array_equal(store["down"].lengths[:], (LENGTHS - 5) // 3 + 1)
    # The first batch has samples that differ, and no more is looked at.
    assert data.reads == 20 + 8 + SAMPLES


def test_samples_of_one_length_are_filled_up_to_a_given_one(run):
    data = np.stack([signal[:, :20] for signal in SIGNALS])
    whole, longer = run(data, sites="down"), run(data, sites="down", to="t", length=40)

    assert (whole["down"].shape, whole["down"].length_dim) == ((SAMPLES, 3, 6), None)
    assert longer["down"].shape == (SAMPLES, 3, 12)
    assert (longer["down"].lengths[:] == 6).all()
    np.testing.assert_array_equal(longer["down"][..., :6], whole["down"][:])


def test_without_a_length_what_does_not_depend_on_it_is_stored(run):
    store = run(Listed(), sites="flat", length=None)

    np.testing.assert_array_equal(store["flat"][:], run(Listed(), sites="flat", to="t")["flat"][:])
    with pytest.raises(
        DataError,
        match=r"samples of 'down' must have shape \(3, \d+\), got \(3, \d+\): extract with length=",
    ):
        run(Listed(), sites="down", length=None, to="u")


def test_a_step_is_continued_and_cut_to_the_same_bytes(run):
    store = run(Listed())

    def read():
        return {
            path.relative_to(store.path): path.read_bytes()
            for path in store.path.rglob("*")
            if path.is_file()
        }

    whole = read()
    for name in ("complete", "u00000001"):
        (store.path / "commits" / "0" / f"{name}.json").unlink()
    run(Listed(), resume=True)
    assert read() == whole
    with pytest.raises(StoreError, match=r"length \(was 'longest', is 40\) changed"):
        run(Listed(), resume=True, length=40)
    for number in (0, 1):
        part = run(Listed(), to="parts", shard=(number, 2))
    np.testing.assert_array_equal(part["down"][:], store["down"][:])


def test_a_limit_keeps_exactly_the_first_samples(run):
    store = run(Listed(), limit=27)

    np.testing.assert_array_equal(store["down"].lengths[:], (LENGTHS[:27] - 5) // 3 + 1)


def test_damage_to_the_lengths_is_found(run):
    store = run(Listed(), sites="down")
    path = store.path / "data.zarr/0/down/length/c/1"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(StoreError, match=r"'down', samples 64 to 127 cannot be read: .*length"):
        store["down"].lengths[70]
    assert [damage.path for damage in store.verify()] == [path]
    assert store["down"].lengths[0] == (LENGTHS[0] - 5) // 3 + 1


class Both(nn.Module):
    def forward(self, x):
        return x.mT @ x


class Turned(nn.Module):
    def forward(self, x):
        return torch.zeros(len(x), 50 - x.shape[-1])


@pytest.mark.parametrize(
    ("data", "settings", "error", "words"),
    [
        (SIGNALS, {}, DataError, "data must be there to be looked at .* got an iterable of batch"),
        (Listed(), {"length": 0}, ValueError, "length must be a number from 1 or 'longest', got 0"),
        (Listed(), {"length": "long"}, ValueError, "or 'longest', got 'long'"),
        (
            Listed(),
            {"length": 8},
            DataError,
            r"at least that of the .* got 8 for one of 40",
        ),
        (
            Listed(lambda x: x.T[: x.shape[1] - 1, : x.shape[1] - 20]),
            {"model": nn.Identity(), "sites": ""},
            DataError,
            r"samples must have one axis along which they differ .* \(19, 0\) and \(39, 2\)",
        ),
        (Listed(lambda x: x[0, 0]), {"model": nn.Identity(), "sites": ""}, DataError, "one axis"),
        (
            Listed(),
            {"model": Both(), "sites": ""},
            CaptureError,
            "'model' must grow along one axis",
        ),
        (Listed(), {"model": Turned(), "sites": ""}, CaptureError, r"\(30,\) and \(10,\): give a"),
    ],
)
def test_what_has_no_length_is_refused(run, tmp_path, data, settings, error, words):
    with pytest.raises(error, match=words):
        run(data, **settings)
    assert not (tmp_path / "s").exists()


def test_a_sample_that_is_longer_than_it_was_said_is_an_error(run):
    signals = [*SIGNALS[:100], np.zeros((2, 90), "float32")]

    with pytest.raises(
        DataError,
        match=r"'down' must have shape \(3, 18\) or be shorter, got \(3, 29\): .* greater",
    ):
        run(Listed(signals=signals), sites="down", length=58)


def test_samples_of_another_type_are_an_error(run):
    signals = [SIGNALS[0], SIGNALS[1].astype("float64")]
    data = DataLoader(signals, batch_size=2, collate_fn=lambda items: (items, None))

    with pytest.raises(DataError, match=r"of 'model' must all be float64, .* got float32: give"):
        run(data, nn.Identity(), "")


def test_a_forward_that_fails_names_the_samples_of_its_length(run):
    class Fails(nn.Module):
        def forward(self, x):
            if len(x) > 2 and x.shape[-1] == LENGTHS[0]:
                raise RuntimeError("no")
            return x

    numbers = [str(number) for number in range(20) if LENGTHS[number] == LENGTHS[0]]
    assert len(numbers) > 2
    with pytest.raises(
        DataError, match=f"cannot take samples {', '.join(numbers[:8])} .*of the data"
    ):
        run(Listed(), Fails(), "")


def test_a_batch_is_split_by_shape_and_keeps_its_order():
    (batch,) = make_source([(SIGNALS[:20], 0)], batch_size=1).batches(0, None)
    groups = split_batch(batch)

    assert sorted(itertools.chain(*(group.places for group in groups))) == list(range(20))
    for group in groups:
        (tensor,) = group.batch.args
        assert group.batch.size == len(group.places) == len(tensor)
        for place, row in zip(group.places, tensor, strict=True):
            np.testing.assert_array_equal(row, SIGNALS[place])


def test_an_array_is_not_looked_at_sample_by_sample(monkeypatch):
    source = make_source(np.zeros((1000, 2, 9)), batch_size=10)
    seen = []
    batches = source.batches
    monkeypatch.setattr(
        source, "batches", lambda *span: (seen.append(b) or b for b in batches(*span))
    )

    assert find_extent(source, "longest").longest == 9
    assert len(seen) == 1
