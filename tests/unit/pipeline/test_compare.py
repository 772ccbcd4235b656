import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import stratascope as ss
from stratascope.errors import DataError, SiteNotFoundError
from stratascope.pipeline import Comparison
from stratascope.store import ArraySpec, StepSpec, StepWriter, open_store
from tables import write_table

RNG = np.random.default_rng
N = 70


def normal(*shape, seed=0):
    return RNG(seed).standard_normal((N, *shape)).astype("float32")


@pytest.fixture
def pair(tmp_path):
    """Write two stores of values, each by site."""

    def write(ours, theirs, **settings):
        return (
            write_table(tmp_path / "a.zarr", ours, **settings),
            write_table(tmp_path / "b.zarr", theirs, **settings),
        )

    return write


def compare_values(pair, ours, theirs, **how):
    """Compare two arrays as the only site of two stores."""
    found = ss.compare(*pair({"it": ours}, {"it": theirs}), **how)
    return found, found.differences["sites.it"]


def test_a_store_is_identical_to_itself(pair):
    found, difference = compare_values(pair, normal(3, 5), normal(3, 5))
    assert difference.identical
    assert (difference.changed, difference.largest, difference.relative) == (0, 0, 0)
    assert difference.worst() is None
    assert found.first_divergence() is None
    assert str(difference) == "sites.it: identical to the bit"
    assert "identical" in found.table()


def test_a_zero_of_the_other_sign_is_equal_but_not_identical(pair):
    ours, theirs = np.zeros((N, 3), "float32"), np.zeros((N, 3), "float32")
    theirs[4, 1] = -0.0
    found, difference = compare_values(pair, ours, theirs)
    assert not difference.identical
    assert difference.changed == 0
    assert found.first_divergence() is None
    assert str(difference) == "sites.it: equal in value, not to the bit"


def test_another_type_is_not_identical(pair):
    whole = np.round(normal(3))
    assert not compare_values(pair, whole, whole.astype("float64"))[1].identical


def test_one_value_is_found_where_it_differs(pair):
    ours = normal(4, 6)
    theirs = ours.copy()
    theirs[37, 2, 5] += 0.5
    found, difference = compare_values(pair, ours, theirs)
    apart = float(abs(theirs[37, 2, 5].astype("float64") - ours[37, 2, 5]))
    assert (difference.changed, difference.largest) == (1, apart)
    for measure in ("relative", "cosine", "largest"):
        assert difference.worst(measure) == (2, 37)
    assert difference.channels.relative[[0, 1, 3]].tolist() == [0, 0, 0]
    assert difference.channels.largest_sample.tolist() == [-1, -1, 37, -1]
    assert found.first_divergence(difference.relative) is None
    assert found.first_divergence(0.4, measure="largest") is difference
    assert "in channel 2 of sample 37" in str(difference)


def test_nan_and_infinity_in_both_do_not_differ(pair):
    ours = normal(3, 4)
    ours[5, 0, 1], ours[9, 0, 0] = np.nan, np.inf
    difference = compare_values(pair, ours, ours)[1]
    assert difference.identical
    assert difference.changed == 0
    np.testing.assert_allclose(difference.channels.cosine, 1)


def test_nan_and_infinity_count_as_differences_where_they_are_not_in_both(tmp_path):
    ours = normal(3, 4)
    ours[5, 0, 1], ours[9, 0, 0], ours[11, 0, 3] = np.nan, np.inf, np.inf
    theirs = ours.copy()
    theirs[5, 0, 1], theirs[11, 0, 3], theirs[20, 1, 2] = 1, -np.inf, np.nan
    a, b = (write_table(tmp_path / f"{k}.zarr", {"it": v}) for k, v in enumerate((ours, theirs)))
    found = ss.compare(a, b)
    difference = found.differences["sites.it"]
    assert difference.changed == 3
    assert difference.channels.largest.tolist() == [np.inf, np.inf, 0]
    assert difference.channels.relative.tolist() == [np.inf, np.inf, 0]
    np.testing.assert_allclose(difference.channels.cosine, 1)
    assert found.first_divergence(1e6) is difference
    assert np.isnan(found.matrix).all()
    assert len([note for note in found.notes if "values that are not finite" in note]) == 2


def test_what_is_too_large_to_be_squared_diverges(pair):
    found, difference = compare_values(pair, np.full((N, 3), 1e300), np.full((N, 3), 2e300))
    assert difference.largest == 1e300
    assert found.first_divergence(0.1) is difference


def test_the_first_site_to_differ_is_found_in_the_order_of_execution(pair):
    values = {"last": normal(3), "first": normal(3, seed=1)}
    found = ss.compare(*pair(values, {name: array + 1 for name, array in values.items()}))
    assert found.first_divergence().site == "sites.last"


def test_a_site_that_was_not_compared_names_what_is_near(pair):
    found = ss.compare(*pair({"head": normal(3)}, {"head": normal(3, seed=1)}))

    assert found.similarity("sites.head") < 1
    with pytest.raises(SiteNotFoundError, match=r"has no 'sites.hed' here. Did you mean 'sites.h"):
        found.similarity("sites.hed")
    with pytest.raises(SiteNotFoundError, match=r"have a site 'sites.hed' .* 'sites.head'\?"):
        found.differences["sites.hed"]
    assert found.differences.get("sites.hed") is None
    with pytest.raises(ValueError, match=r"one of 'relative', 'largest', got 'lagest'. Did you m"):
        found.first_divergence(1e-3, measure="lagest")


def test_samples_are_lined_up_by_their_index_and_the_others_left_out(tmp_path):
    values = {"it": normal(3, 4)}
    a = write_table(tmp_path / "a.zarr", values, order=range(10, 60))
    b = write_table(tmp_path / "b.zarr", values, order=[*range(69, 30, -1), 5])
    with pytest.warns(UserWarning, match="left out") as warned:
        found = ss.compare(a, b)
    assert found.samples.tolist() == list(range(31, 60))
    assert found.differences["sites.it"].identical
    assert [str(each.message) for each in warned] == list(found.notes)
    assert found.notes[0].startswith("21 of the 50 samples of ")
    assert found.notes[1].startswith("11 of the 40 samples of ")


def test_a_sample_that_comes_twice_counts_once(tmp_path):
    a = write_table(tmp_path / "a.zarr", {"it": normal(3)}, order=[3, 4, 3, 5, 6, 7])
    with pytest.warns(UserWarning, match="1 of the 6 samples of .* or are there twice"):
        found = ss.compare(a)
    assert found.samples.tolist() == [3, 4, 5, 6, 7]


def test_stores_without_a_common_sample_are_refused(tmp_path):
    values = {"it": normal(3)}
    a = write_table(tmp_path / "a.zarr", values, order=range(10))
    b = write_table(tmp_path / "b.zarr", values, order=range(10, 20))
    with pytest.raises(DataError, match=r"in common .* has samples 0 to 9 and .* 10 to 19"):
        ss.compare(a, b)


def test_of_an_unfinished_store_what_is_there_is_compared(tmp_path):
    values = normal(3)
    array = ArraySpec("it/activation", "it", "", (3,), "float32", "float32", ("channel",))
    for name, samples in (("whole", N), ("part", 64)):
        writer = StepWriter(tmp_path / name, StepSpec(0, N, 64, (array,)))
        writer.write(0, {array.key: values[:samples]})
        writer.finish() if samples == N else writer.abort()
    with pytest.warns(UserWarning, match="6 of the 70 samples"):
        found = ss.compare(tmp_path / "whole", tmp_path / "part")
    assert len(found.samples) == 64
    assert found.differences["it"].identical


def test_a_name_must_pick_a_site_in_one_of_the_two(pair):
    a, b = pair({"x": normal(3), "y": normal(2)}, {"y": normal(2), "z": normal(4)})
    found = ss.compare(a, b, sites=["sites.x", "sites.y"])
    assert (found.sites_a, found.sites_b) == (("sites.x", "sites.y"), ("sites.y",))
    assert list(found.differences) == ["sites.y"]
    with pytest.raises(SiteNotFoundError, match=r"holds no site 'sites\.w'"):
        ss.compare(a, b, sites=["sites.y", "sites.w"])
    with pytest.raises(SiteNotFoundError, match=r"b\.zarr step 0 holds none of the sites sites\.x"):
        ss.compare(a, b, sites="sites.x")
    with pytest.raises(SiteNotFoundError, match=r"holds none of the sites \(none named\)"):
        ss.compare(a, b, sites=[])


def test_sites_of_another_shape_are_compared_as_wholes_only(pair):
    found = ss.compare(*pair({"it": normal(3, 4)}, {"it": normal(5)}))
    assert np.isfinite(found.matrix).all()
    assert not found.differences
    assert found.notes == ("not compared by value, since their shapes differ: sites.it",)
    with pytest.raises(ValueError, match="must have a site of the same name and shape"):
        found.first_divergence()


def test_a_constant_site_is_like_no_other_and_it_is_said(pair):
    # The mean of equal values is not always one of them.
    values = {"it": normal(3), "dead": np.full((N, 2, 3), 0.1, "float32")}
    stores = pair(values, values)
    for method in ("minibatch_cka", "cka", "unbiased_cka", "svcca", "procrustes"):
        found = ss.compare(*stores, method=method)
        assert np.isnan(found.matrix[1]).all()
        assert np.isnan(found.matrix[:, 1]).all()
        assert np.isfinite(found.matrix[0, 0])
        assert "'sites.dead' of a is like no other: it is the same for all samples" in found.notes
        assert "–" in found.table()


@pytest.mark.parametrize(("method", "fewest"), [("minibatch_cka", 4), ("rsa", 3), ("cka", 2)])
def test_too_few_samples_are_like_nothing_but_their_values_are_compared(tmp_path, method, fewest):
    values = {"it": normal(5)}
    a, b = (write_table(tmp_path / name, values, order=range(fewest - 1)) for name in ("a", "b"))
    found = ss.compare(a, b, method=method)
    assert np.isnan(found.matrix).all()
    assert f"{method} needs {fewest} samples at least, of which there are" in found.notes[-1]
    assert found.differences["sites.it"].identical


def test_rsa_looks_at_a_part_of_many_samples_and_says_so(tmp_path):
    values = RNG(0).standard_normal((1200, 4))
    a = write_table(tmp_path / "a.zarr", {"it": values}, unit_size=256)
    found = ss.compare(a, method="rsa")
    assert found.notes == ("rsa looks at 1,024 of the samples",)
    np.testing.assert_allclose(found.matrix, 1)


def test_complex_values_count_as_pairs(pair):
    ours = (normal(4, 6) + 1j * normal(4, 6, seed=1)).astype("complex64")
    pairs = np.concatenate([ours.real, ours.imag], 1)
    a, b = pair({"it": ours, "pairs": pairs}, {"it": ours * 1j, "pairs": pairs})
    for method in ("minibatch_cka", "cka", "procrustes"):
        found = ss.compare(a, b, method=method).matrix
        np.testing.assert_allclose(found, found[0, 0], atol=1e-7)
    difference = ss.compare(a, b).differences["sites.it"]
    np.testing.assert_allclose(difference.relative, np.sqrt(2))
    np.testing.assert_allclose(difference.cosine, 0, atol=1e-7)
    np.testing.assert_allclose(difference.largest, np.sqrt(2) * np.abs(ours).max(), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float64"])
def test_every_type_of_number_is_compared(pair, dtype):
    ours, theirs = (
        np.clip(np.round(normal(3, 4, seed=seed) * 2), 0, 5).astype(dtype) for seed in (0, 1)
    )
    found, difference = compare_values(pair, ours, theirs)
    apart = ours.astype("float64") - theirs.astype("float64")
    assert difference.changed == np.count_nonzero(apart)
    assert difference.largest == np.abs(apart).max()
    assert abs(found.matrix[0, 0]) < 0.5


def test_a_single_number_a_sample_has_one_channel(pair):
    found, difference = compare_values(pair, normal(), 2 * normal())
    assert found.matrix[0, 0] == pytest.approx(1)
    np.testing.assert_allclose(difference.channels.relative, [1])


def test_an_empty_site_is_like_no_other(pair):
    values = {"it": normal(0, 4), "real": normal(3)}
    found = ss.compare(*pair(values, values))
    assert np.isnan(found.matrix[0]).all()
    assert found.differences["sites.it"].identical


class Tokens(nn.Module):
    """Gives tokens with their channels last, and several tensors."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.norm = nn.LayerNorm(3)
        self.lstm = nn.LSTM(3, 2, batch_first=True)
        torch.manual_seed(0)
        with torch.no_grad():
            self.norm.bias[2] = shift
            for parameter in self.lstm.parameters():
                parameter.normal_()

    def forward(self, x):
        return self.lstm(self.norm(x))


@pytest.mark.filterwarnings("ignore:not stored")
def test_tokens_have_their_channels_last_and_several_tensors_are_sites_each(tmp_path):
    x = normal(5, 3)
    a, b = (
        ss.extract(Tokens(shift), x, ["norm", "lstm"], to=tmp_path / f"{shift}")
        for shift in (0, 0.5)
    )
    found = ss.compare(a, b, method="cka")
    assert found.sites_a[0] == "norm"
    assert all(site.startswith("lstm [") for site in found.sites_a[1:])
    norm = found.differences["norm"].channels
    np.testing.assert_allclose(norm.largest, [0, 0, 0.5], atol=1e-6)
    means = a["norm"][:].mean(1)
    np.testing.assert_allclose(
        ss.compare(a, sites="norm", method="svcca").matrix, 1, err_msg=str(means.shape)
    )
    assert norm.relative.shape == (3,)
    tokens = (store["lstm"]["0"][:] for store in (a, b))
    apart = np.subtract(*tokens, dtype=np.float64)
    np.testing.assert_allclose(
        found.differences["lstm [0]"].channels.largest, np.abs(apart).max((0, 1))
    )


def test_quantized_values_are_compared_as_what_they_stand_for(tmp_path):
    values = {"it": normal(3, 80)}
    a = write_table(tmp_path / "a.zarr", values)
    b = write_table(tmp_path / "b.zarr", values, dtype="uint8")
    found = ss.compare(a, b)
    difference = found.differences["sites.it"]
    assert 0 < difference.relative < 0.01
    assert not difference.identical
    assert found.first_divergence(0.01) is None
    assert found.first_divergence(1e-4) is difference


def test_samples_of_several_lengths_are_compared_by_channel_means(tmp_path):
    lengths = RNG(2).integers(6, 12, N)
    signals = [normal(2, 12)[k, :, :size] for k, size in enumerate(lengths)]
    stores = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        data = DataLoader(signals, batch_size=16)
        model = nn.Conv1d(2, 4, 3)
        to = tmp_path / f"{seed}.zarr"
        stores.append(ss.extract(model, data, "model", to=to, length="longest", progress=False))
    found = ss.compare(*stores)
    assert np.isnan(found.matrix).all()
    assert "differ in length; method='unbiased_cka' compares" in found.notes[0]
    difference = found.differences["model"]
    x, y = (store["model"][:].astype("float64") for store in stores)
    assert difference.largest == np.nanmax(np.abs(x - y))
    np.testing.assert_allclose(
        difference.relative, np.sqrt(np.nansum((x - y) ** 2) / np.nansum(x**2))
    )
    means = [np.nanmean(store, -1) for store in (x, y)]
    flat = (
        write_table(tmp_path / "x", {"m": means[0]}),
        write_table(tmp_path / "y", {"m": means[1]}),
    )
    np.testing.assert_allclose(
        ss.compare(*stores, method="unbiased_cka").matrix,
        ss.compare(*flat, method="unbiased_cka").matrix,
        rtol=1e-9,
    )


def test_what_takes_too_much_memory_is_refused(pair, monkeypatch):
    a, b = pair({"it": normal(30, 9)}, {"it": normal(30, 9)})
    monkeypatch.setattr("stratascope.pipeline._compare_layers._MOST_BYTES", 50_000)
    ss.compare(a, b, method="cka")
    ss.compare(a, b)
    for method in ("cka", "rsa"):
        with pytest.raises(DataError, match=f"what {method} keeps .* use method='minibatch_cka'"):
            ss.compare(a, b, method=method, flatten=True)


def test_windows_and_pieces_change_nothing(pair, monkeypatch):
    a, b = pair({"it": normal(4, 50)}, {"it": normal(4, 50, seed=1)})
    for method in ("minibatch_cka", "unbiased_cka"):
        whole = ss.compare(a, b, method=method)
        with monkeypatch.context() as patch:
            patch.setattr("stratascope.pipeline._compare._WINDOW", 32)
            patch.setattr("stratascope.store._array._BLOCK_BYTES", 1)
            patch.setattr("stratascope.pipeline._compare_channels._IN_CACHE", 300)
            cut = ss.compare(a, b, method=method)
        np.testing.assert_allclose(cut.matrix, whole.matrix, rtol=1e-12)
        one, other = cut.differences["sites.it"], whole.differences["sites.it"]
        assert (one.changed, one.largest) == (other.changed, other.largest)
        np.testing.assert_allclose(one.channels.relative, other.channels.relative, rtol=1e-12)
        np.testing.assert_array_equal(one.channels.cosine_sample, other.channels.cosine_sample)


def test_other_data_is_noticed(tmp_path):
    model = nn.Conv1d(2, 3, 3)
    a, b = (
        ss.extract(model, normal(2, 8, seed=seed), "model", to=tmp_path / f"{seed}")
        for seed in (0, 1)
    )
    with pytest.warns(UserWarning, match="were made from different data"):
        assert not ss.compare(a, b).differences["model"].identical


def test_batches_of_a_training_are_noticed(tmp_path):
    model, to = nn.Conv1d(2, 3, 3), tmp_path / "run.zarr"
    with ss.record(model, "model", to=to, every=1) as record:
        for step in (0, 1):
            model(torch.from_numpy(normal(2, 8, seed=step)))
            record.step(step)
    store = open_store(to)
    with pytest.warns(UserWarning, match="other samples at every step.*: record a probe"):
        found = ss.compare(store.at(0), store.at(1))
    assert found.a.endswith("run.zarr step 0")
    assert found.b.endswith("run.zarr step 1")


def test_what_is_no_method(pair):
    a, _ = pair({"it": normal(3)}, {"it": normal(3)})
    with pytest.raises(ValueError, match=r"must be one of minibatch_cka, cka, .* got 'ckaa'"):
        ss.compare(a, method="ckaa")


def make_comparison(pair) -> Comparison:
    ours = {"x": normal(3), "y": normal(2, 4), "gone": normal(2)}
    theirs = {"y": normal(2, 4) + 1, "x": normal(3)}
    return ss.compare(*pair(ours, theirs), method="unbiased_cka")


def test_the_table_has_a_row_for_each_site_of_the_first(pair):
    found = make_comparison(pair)
    lines = found.table().splitlines()
    assert lines[0].startswith("unbiased_cka of ")
    assert lines[1].split()[:3] == ["site", "itself", "most"]
    assert [line.split()[0] for line in lines[2:]] == ["sites.x", "sites.y", "sites.gone"]
    assert repr(found) == found.table()
    assert found._repr_html_().count("<tr>") == 4
    alone = ss.compare(found.a.removesuffix(" step 0"), method="procrustes")
    nearest = np.where(np.eye(3, dtype=bool), np.inf, alone.matrix).argmin(1)
    rows = alone.table().splitlines()[2:]
    assert [row.split()[1] for row in rows] == [alone.sites_b[place] for place in nearest]


def test_pandas_and_xarray_have_the_sites_as_labels(pair):
    found = make_comparison(pair)
    frame, array = found.to_pandas(), found.to_xarray()
    assert frame.loc["sites.gone", "sites.y"] == found.matrix[2, 0]
    assert array.sel(site_a="sites.gone", site_b="sites.y") == found.matrix[2, 0]
    channels = found.to_pandas("channels")
    assert (
        channels.loc[("sites.y", 1), "largest"] == found.differences["sites.y"].channels.largest[1]
    )
    assert len(channels) == 3 + 2
    assert len(ss.compare(found.a.removesuffix(" step 0")).to_pandas("channels")) == 0


def test_two_stores_are_compared_without_torch(pair):
    a, b = pair({"it": normal(3)}, {"it": normal(3)})
    code = (
        "import sys, stratascope as ss; "
        f"assert ss.compare({str(a.path)!r}, {str(b.path)!r}).first_divergence() is None; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
