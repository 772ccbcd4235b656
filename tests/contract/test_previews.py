"""Previews and histograms: the same bytes however they came about, and as well kept as values."""

import math
import warnings

import numpy as np
import pytest
import tensorstore
import torch
import xarray
import zarr
from torch import nn
from torch.utils.data import DataLoader

import jobs
import stored
import stratascope as ss
from stratascope.errors import StoreError
from stratascope.pipeline import Processes
from stratascope.store._bins import find_bins

SAMPLES = 150
INPUTS = np.random.default_rng(0).normal(size=(SAMPLES, 1, 20, 24)).astype("f4")
SIGNALS = [
    torch.from_numpy(np.resize(sample, (1, 200 + 10 * n))) for n, sample in enumerate(INPUTS[:70])
]
ARRAY = "data.zarr/0/maps"


def run(root, data=INPUTS, **settings):
    settings = {"batch_size": 20, "unit_size": 64, "progress": False, **settings}
    return ss.extract(jobs.Maps(), data, ["maps", "act"], to=root, **settings)


def arrays(root):
    """Read all files of the arrays, and what the manifests say of them."""
    files = [*root.glob("data.zarr/0/*/**/*"), *root.glob("commits/0/u*.json")]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.is_file()}


def pool(values, block):
    """Take the means of blocks of maps."""
    for axis, size in ((2, block[1]), (3, block[2])):
        first = np.arange(0, values.shape[axis], size)
        counts = np.diff([*first, values.shape[axis]])
        shape = (-1, 1) if axis == 2 else (-1,)
        values = np.add.reduceat(values, first, axis) / counts.reshape(shape)
    return values


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return run(tmp_path_factory.mktemp("previews") / "store.zarr")


@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 7},
        {"batch_size": 150},
        {"executor": Processes(2)},
        {"data": lambda: iter(torch.from_numpy(INPUTS).split(33))},
    ],
    ids=["small batches", "one batch", "processes", "an iterable"],
)
def test_bytes_are_the_same_however_they_came_about(tmp_path, store, settings):
    # Of an iterable the length is not known, and neither how much is to be counted.
    settings = dict(settings)
    data = settings.pop("data", lambda: INPUTS)()
    other = run(tmp_path / "other.zarr", data, **settings)

    ours, theirs = arrays(store.path), arrays(other.path)
    if isinstance(data, np.ndarray):
        assert ours == theirs
    else:
        same = [name for name in ours if "/preview/" in name]
        assert len(same) == 8
        assert all(ours[name] == theirs[name] for name in same)


def test_bytes_are_the_same_in_shards_and_after_a_stop(tmp_path, store):
    fatal = tmp_path / "fatal"
    fatal.touch()
    data = jobs.Pairs(INPUTS, fatal, fails_at=100)
    with pytest.raises(jobs.Stop, match="sample 100"):
        run(tmp_path / "stopped.zarr", data)
    stopped = ss.open_store(tmp_path / "stopped.zarr")
    assert not stopped.complete
    assert stopped["maps"].histogram.samples == 64
    np.testing.assert_array_equal(stopped["maps"].preview[:64], store["maps"].preview[:64])
    with pytest.raises(StoreError, match=r"of step 0 samples 0 to 63 are there"):
        stopped["maps"].preview[64]
    fatal.unlink()
    run(tmp_path / "stopped.zarr", data, resume=True)
    for part in (1, 0):
        run(tmp_path / "shards.zarr", shard=(part, 2))

    # Pairs have targets, which the store itself has not.
    ours = {name: content for name, content in arrays(store.path).items() if "/0/u" not in name}
    theirs = arrays(tmp_path / "stopped.zarr")
    assert ours.items() <= theirs.items()
    assert arrays(tmp_path / "shards.zarr") == arrays(store.path)


def test_a_preview_is_read_like_values(store):
    preview = store["maps"].preview

    assert repr(preview) == "StoredArray 'maps' preview (150, 16, 10, 12) float16"
    assert preview.dims == ("sample", "preview_channel", "preview_y", "preview_x")
    assert preview.channels == tuple((2 * n + 1) * 40 // 32 for n in range(16))
    assert preview.block == (1, 2, 2)
    means = pool(store["maps"][:][:, preview.channels], preview.block)
    np.testing.assert_allclose(preview[:], means, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(preview[-1, 3], preview[:][-1, 3])
    assert store["maps"].channels is store["maps"].block is None


def test_a_histogram_is_of_all_units(store):
    histogram = store["maps"].histogram
    values = store["maps"][:].reshape(SAMPLES, 40, -1)
    every = round(1 / histogram.share)
    number = np.arange(480) + np.arange(SAMPLES)[:, None]
    counted = values.transpose(1, 0, 2)[:, number % every == 0]

    assert (every, histogram.samples) == (17, SAMPLES)
    expected = [np.bincount(find_bins(row), minlength=248) for row in counted]
    np.testing.assert_array_equal(histogram.counts, expected)
    assert store["act"].histogram.zero_share == pytest.approx(0.5, abs=0.05)
    assert histogram.nan_share.tolist() == [0] * 40
    true = np.quantile(values, 0.9, axis=(0, 2))
    np.testing.assert_allclose(histogram.quantile(0.9), true, rtol=0.2)


@pytest.mark.parametrize("dtype", ["float16", "uint8", "bfloat16"])
def test_values_of_other_types_have_previews_of_what_is_read(tmp_path, dtype):
    data = np.array(INPUTS)
    data[3, 0, 5, 5] = np.nan
    store = run(tmp_path / "store.zarr", data, dtype=dtype)
    preview, values = store["maps"].preview, store["maps"][:].astype("f4")
    means = pool(values[:, preview.channels], preview.block)

    np.testing.assert_allclose(preview[:], means, rtol=1e-3, atol=1e-4)
    assert np.isnan(preview[:]).sum() == len(preview.channels)
    histogram = store["maps"].histogram
    every = round(1 / histogram.share)
    number = np.arange(480) + np.arange(SAMPLES)[:, None]
    counted = values.reshape(SAMPLES, 40, -1).transpose(1, 0, 2)[:, number % every == 0]
    expected = [np.bincount(find_bins(row), minlength=248) for row in counted]
    np.testing.assert_array_equal(histogram.counts, expected)


def test_samples_of_several_lengths_have_previews_as_long(tmp_path):
    loader = DataLoader(SIGNALS, batch_size=8)
    store = run(tmp_path / "store.zarr", loader, length="longest")
    array, (_, block) = store["maps"], store["maps"].preview.block
    ends = np.isnan(array.preview[:, 0]).argmax(1)

    assert array.preview.shape == (70, 16, math.ceil(890 / block))
    assert ends[:-1].tolist() == [math.ceil(n / block) for n in array.lengths[:-1]]
    assert array.histogram.nan_share.tolist() == [0] * 40
    loader = DataLoader(SIGNALS, batch_size=13)
    other = run(tmp_path / "other.zarr", loader, length="longest")
    assert arrays(other.path) == arrays(store.path)


def test_every_reader_opens_them_without_a_warning(store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(store.path / "data.zarr", mode="r")["0/maps"]
        with xarray.open_datatree(
            store.path / "data.zarr", engine="zarr", consolidated=False
        ) as tree:
            node = tree["0/maps"].load()
        by_name = {
            name: tensorstore.open(
                {"driver": "zarr3", "kvstore": f"file://{store.path / ARRAY / name}"},
                read=True,
                open=True,
            ).result()
            for name in ("preview", "histogram")
        }

    assert sorted(group.array_keys()) == ["activation", "histogram", "preview"]
    assert group["activation"].attrs["preview"] == "preview"
    assert group["preview"].attrs["channels"] == list(store["maps"].preview.channels)
    assert group["histogram"].attrs["every"] == 17
    np.testing.assert_array_equal(group["preview"][:], store["maps"].preview[:])
    np.testing.assert_array_equal(node["preview"].values, store["maps"].preview[:])
    np.testing.assert_array_equal(by_name["preview"].read().result(), group["preview"][:])
    counts = store["maps"].histogram.counts
    assert node["histogram"].dims == ("unit", "channel", "bin")
    assert by_name["histogram"].read().result().shape == (3, 40, 248)
    for found in (group["histogram"][:], node["histogram"].values):
        np.testing.assert_array_equal(found.sum(0), counts)
    tree = store.to_xarray()
    assert tree["maps/histogram"].sizes == {"unit": 3, "channel": 40, "bin": 248}
    assert tree["maps"].sizes["sample"] == 150


@pytest.mark.parametrize("name", ["preview", "histogram"])
@pytest.mark.parametrize("lost", [True, False], ids=["lost", "flipped"])
def test_damage_is_found_told_and_mended(tmp_path, store, name, lost):
    other = run(tmp_path / "other.zarr")
    (path,) = (other.path / ARRAY / name / "c/1").rglob("0/0/0" if name == "preview" else "0/0")
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    if lost:
        path.unlink()
        with pytest.raises(StoreError, match=r"samples 64 to 127 cannot be read"):
            other.to_xarray()
    else:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=r"step 0, site 'maps', samples 64 to [17]\d+ cannot be"):
        other["maps"].preview[64:] if name == "preview" else other["maps"].histogram
    np.testing.assert_array_equal(other["maps"][:], store["maps"][:])

    damages = other.verify(deep=True)
    assert {damage.site for damage in damages} == {"maps"}
    assert all(64 <= damage.samples.start < 128 for damage in damages)
    other.uncommit(damages)
    assert run(other.path, resume=True).verify(deep=True) == []
    assert arrays(other.path) == arrays(store.path)


def test_a_step_goes_on_as_it_was_begun(tmp_path):
    store = run(tmp_path / "without.zarr", previews=False)
    assert not (store.path / ARRAY / "preview").exists()
    manifest = store.path / "commits/0/u00000001.json"
    before = manifest.read_bytes()
    (store.path / "commits/0/complete.json").unlink()
    manifest.unlink()
    run(store.path, resume=True)

    assert manifest.read_bytes() == before
    with pytest.raises(StoreError, match=r"'maps' has no preview: it was written without"):
        _ = store["maps"].preview
    with pytest.raises(StoreError, match=r"'act' has no histogram: it was written without"):
        _ = store["act"].histogram


def test_what_has_no_maps_has_no_preview_but_a_histogram(tmp_path):
    store = ss.extract(nn.Flatten(), INPUTS, "model", to=tmp_path / "flat.zarr", progress=False)

    with pytest.raises(StoreError, match=r"'model' has no preview: a sample has no maps"):
        _ = store["model"].preview
    assert store["model"].histogram.counts.shape == (480, 248)
    assert store["model"].nbytes_previews > 0


@pytest.mark.parametrize("name", ["early", "sites"])
def test_stores_of_earlier_releases_have_none(name):
    store = ss.open_store(stored.FIXTURES / f"{name}.zarr", step=0)

    for role in ("preview", "histogram"):
        with pytest.raises(StoreError, match=rf"'enc.0@1' has no {role}: it was written without"):
            getattr(store["enc.0@1"], role)
    assert store["enc.0@1"].nbytes_previews == 0


def test_a_training_that_is_recorded_has_them_in_each_step(tmp_path):
    model, probe = jobs.Maps(), torch.from_numpy(INPUTS[:70])
    for previews, resume in ((False, False), (True, True)):
        with ss.record(
            *(model, "maps"),
            to=tmp_path / "run.zarr",
            every=1,
            probe=probe,
            previews=previews,
            resume=resume,
        ) as rec:
            rec.step(0)
            if resume:
                rec.step(1)
    first, second = (ss.open_store(tmp_path / "run.zarr", step=step) for step in (0, 1))

    with pytest.raises(StoreError, match=r"'maps' has no preview: it was written without"):
        _ = first["maps"].preview
    assert second["maps"].preview.shape == (70, 16, 10, 12)
    assert second["maps"].histogram.samples == 70
    assert second.verify(deep=True) == []
