import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import stratascope as ss
from stratascope.errors import CaptureError, DataError, SiteNotFoundError, StoreError
from stratascope.pipeline import Finding, Profile


class Given(nn.Module):
    """Puts out what it is given, at sites that the tests name."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Identity(), nn.ReLU()

    def forward(self, x):
        return self.second(self.first(x))


def measure(values, sites="first", **settings):
    values = np.asarray(values, "float32")
    return ss.profile(Given(), values, sites, progress=False, **settings)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.fixture
def store(tmp_path):
    return ss.extract(Given(), noise(200, 3, 8), "**", to=tmp_path / "acts.zarr", progress=False)


def kinds(findings):
    return [(finding.site, finding.kind) for finding in findings]


def test_a_dead_channel_is_found_with_the_rule_and_the_number_of_samples():
    values = noise(100, 4, 6)
    values[:, 1] = -1 - values[:, 1] ** 2
    found = measure(values, "**").findings("dead")

    assert kinds(found) == [("second", "dead")]
    assert str(found[0]) == "second: 25 % of 4 channels dead (never above 0 in 100 samples)"
    assert found[0].channels == (1,)
    assert (found[0].share, found[0].rule, found[0].severity) == (0.25, "dead", "warning")


def test_a_threshold_says_what_dead_means():
    prof = measure(np.full((10, 2, 3), 0.5), threshold=1)

    assert prof["first"].dead().all()
    assert not prof["first"].dead(0).any()


def test_nan_and_inf_are_found_with_the_first_sample_and_leave_the_other_channels_exact():
    values = noise(90, 3, 5)
    clean = measure(values, share=1)["first"]
    values[47, 1, 2], values[20, 2, 0] = np.nan, np.inf
    prof = measure(values, share=1)

    first, second = prof.findings("nan, inf")
    assert str(first) == (
        "first: 33 % of 3 channels with NaN (1 of 1,350 values, first not finite in sample 47)"
    )
    assert (second.kind, second.channels, second.severity) == ("inf", (2,), "error")
    assert prof["first"].nans.tolist() == [0, 1, 0]
    for figure in ("mean", "variance", "min", "kurtosis"):
        assert getattr(prof["first"], figure)[0] == getattr(clean, figure)[0]


def test_constant_saturated_redundant_and_flat_channels_are_found():
    values = noise(200, 6, 4)
    values[:, 0] = 3
    values[:, 1] = np.clip(values[:, 1] * 9, -1, 1)
    values[:, 4] = -2 * values[:, 3]
    found = {finding.kind: finding for finding in measure(values).findings()}

    assert found["constant"].channels == (0,)
    assert found["saturated"].channels == (1,)
    assert found["redundant"].channels == (4,)
    assert "such as 3, 4" in found["redundant"].text
    assert [finding.severity for finding in found.values()] == ["warning"] * 2 + ["note"]
    one = np.repeat(noise(200, 1, 4), 20, axis=1)
    assert "low-rank" in [kind for _, kind in kinds(measure(one).findings())]


def test_channels_without_a_number_have_no_quantiles_and_are_not_of_low_rank():
    values = noise(200, 4, 4)
    values[:, 1:] = np.nan
    for channels in (slice(1, 4), slice(0, 4)):
        prof = measure(values[:, channels])
        site = prof["first"]
        assert np.isnan(site.quantile([0.1, 0.9])[:, -3:]).all()
        assert np.isnan(site.distribution.bounds(0.5)[0][-3:]).all()
        assert np.isnan(site.quantile(0.5, layer=True)) == (channels.start == 1)
        assert np.isnan(prof.to_xarray()["first"]["quantile"][:, -3:]).all()
        assert kinds(prof.findings()) == [("first", "nan")]


def test_a_layer_far_out_of_scale_is_found():
    class Shrinking(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Identity(), nn.Identity(), nn.Identity()

        def forward(self, x):
            return self.c(self.b(self.a(x) * 1.5) * 1e-5)

    found = ss.profile(Shrinking(), noise(50, 2, 4), ["a", "b", "c"], progress=False).findings()

    assert kinds(found) == [("c", "vanishing")]
    assert found[0].rule == "vanishing>100"


def test_log_probabilities_are_not_dead():
    prof = ss.profile(nn.LogSoftmax(1), noise(30, 4), "model", progress=False)

    assert prof["model"].dead().all()
    assert prof.findings("dead") == []


def test_what_is_negative_by_design_is_not_dead_and_what_is_leaky_or_zero_is():
    values = noise(50, 3, 6)
    values[:, 0], values[:, 1] = 0, -1 - values[:, 1] ** 2
    logits = measure(values)
    leaky = ss.profile(nn.LeakyReLU(), values, "model", progress=False)

    assert logits["first"].dead().tolist() == [True, True, False]
    assert [found.channels for found in logits.findings("dead")] == [(0,)]
    assert [found.channels for found in leaky.findings("dead")] == [(0, 1)]


def test_an_operation_may_be_leaky():
    class Leaky(nn.Module):
        def forward(self, x):
            return nn.functional.leaky_relu(x * 1)

    prof = ss.profile(Leaky(), -1 - noise(9, 2, 6) ** 2, ["mul", "leaky_relu"], progress=False)
    assert kinds(prof.findings("dead")) == [("leaky_relu", "dead")]


def test_a_constant_logit_is_found_as_constant():
    values = noise(50, 2, 6)
    values[:, 1] = -3

    assert kinds(measure(values).findings("dead, constant")) == [("first", "constant")]


def test_a_network_in_order_gives_no_findings():
    assert measure(noise(300, 4, 8)).findings() == []


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("dad>0.5", r"a rule must be one of nan, inf, .* got 'dad'. Did you mean 'dead'"),
        ("nan, dead>0.5.5", r"behind > must be a number, as 'dead>0.5', got 'dead>0.5.5'"),
        ("dead<0.5", r"alone, or with > and a number, as 'dead>0.5', got 'dead<0.5'"),
        ("dead>=0.5", r"alone, or with > and a number, as 'dead>0.5', got 'dead>=0.5'"),
        ("dead>50%", r"alone, or with > and a number, as 'dead>0.5', got 'dead>50%'"),
        ("nan,dead>50", r"dead is a share, .* never above 50: as 'dead>0.5', got 'dead>50'"),
        ("low-rank>1", r"low-rank is a share, .* never above 1: as 'low-rank>0.5'"),
        ("", r"got ''"),
        ("dead>0.1, dead>0.9", r"each kind must be there once, got 'dead' several times"),
    ],
)
def test_a_rule_that_is_none_is_an_error(rules, message):
    with pytest.raises(ValueError, match=message):
        measure(noise(4, 2)).findings(rules)


def test_a_rule_with_a_limit_hits_above_it_only():
    values = noise(50, 4, 6)
    values[:, :2] = 0
    prof = measure(values)

    assert len(prof.findings("dead>0.4")) == 1
    assert prof.findings("dead>0.5") == []


def test_steps_of_a_store_are_profiled_each(tmp_path):
    for step in (0, 5):
        ss.extract(
            Given(), noise(70, 2, 4, seed=step), "first", to=tmp_path / "run.zarr", step=step
        )
    store = ss.open_store(tmp_path / "run.zarr")

    found = ss.profile(store, steps="all", progress=False)

    assert list(found) == [0, 5]
    assert ss.profile(store, progress=False).step == 5
    assert list(ss.profile(store, steps=[0], progress=False)) == [0]
    np.testing.assert_array_equal(
        found[0]["first"].mean, ss.profile(store.at(0), progress=False)["first"].mean
    )
    with pytest.raises(StoreError, match="step must be one of those"):
        ss.profile(store, steps=[3], progress=False)


def test_names_of_a_store_find_sites_of_its_profile(store):
    prof = ss.profile(store, progress=False)

    assert prof["ReLU[1]"] is prof["second"]
    with pytest.raises(SiteNotFoundError, match=r"holds no site 'secnd'. Did you mean 'second'"):
        prof["secnd"]


@pytest.mark.filterwarnings("ignore:not measured")
def test_a_site_of_several_tensors_is_asked_for_by_place():
    prof = ss.profile(nn.LSTM(3, 2, batch_first=True), noise(10, 5, 3), "model", share=1)

    assert "model [0]" in prof
    assert prof["model [0]"].channels == 2
    assert prof["model [0]"].map_shape == (5,)
    with pytest.raises(DataError, match=r"several tensors: ask for one of 'model \[0\]'"):
        prof["model"]


def test_top_samples_lie_where_they_say(store):
    top = ss.profile(store, progress=False)["first"].top_samples

    for channel in range(3):
        sample, position = top.highest_samples[channel, 0], top.highest_positions[channel, 0]
        assert store["first"][sample, channel, position] == top.highest[channel, 0]
        assert top.highest[channel, 0] == store["first"][:, channel].max()


def test_the_order_of_a_shuffled_loader_does_not_change_the_numbers_of_top_samples(tmp_path):
    values = noise(60, 2, 5)
    order = np.random.default_rng(0).permutation(60)
    loader = torch.utils.data.DataLoader(torch.from_numpy(values), sampler=order, batch_size=7)

    store = ss.extract(Given(), loader, "first", to=tmp_path / "acts.zarr", progress=False)

    for source in [(Given(), loader, "first"), (store,)]:
        site = ss.profile(*source, progress=False)["first"]
        assert site.top_samples.highest_samples[:, 0].tolist() == values.max(2).argmax(0).tolist()
        np.testing.assert_allclose(site.sample_vectors.vectors, values.mean(2), atol=1e-6)


def test_an_iterable_of_batches_is_run_through_once():
    batches = iter(torch.from_numpy(noise(50, 2, 4)).split(20))

    assert ss.profile(Given(), batches, "first", progress=False).samples == 50


def test_limit_and_transform():
    prof = ss.profile(
        Given(), noise(50, 2, 4), "first", limit=30, transform=lambda x: x.mul_(0).add_(2)
    )

    assert prof.samples == 30
    assert prof["first"].constant.all()


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ss.profile(model, noise(20, 2, 6), "**", progress=False)

    assert model.training
    assert not model[0]._forward_hooks
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_inference_mode_around_it_does_no_harm():
    with torch.inference_mode():
        assert measure(noise(20, 2, 6))["first"].samples == 20


def test_what_a_network_writes_later_is_not_seen():
    model = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    values = noise(40, 2, 6)
    prof = ss.profile(model, values, "**", progress=False)

    assert prof["0"].min.tolist() == values.min((0, 2)).tolist()


def test_a_site_that_runs_at_times_only_is_an_error():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Identity(), nn.Identity()

        def forward(self, x):
            return self.b(self.a(x)) if x.sum() > 0 else self.a(x)

    values = np.concatenate([np.ones((4, 2)), -np.ones((4, 2))])
    with pytest.raises(CaptureError, match="samples 4 to 7 differ from the first ones in b"):
        ss.profile(Moody(), values, ["a", "b"], batch_size=4, progress=False)


def test_sites_of_very_many_channels_have_no_covariance_and_one_histogram():
    prof = measure(noise(40, 2100))
    site = prof["first"]

    assert site.max.shape == (2100,)
    assert site.quantile(0.5, layer=True) == pytest.approx(0, abs=0.05)
    with pytest.raises(DataError, match=r"covariance must be of at most 2,048 channels"):
        _ = site.effective_rank
    assert "more than 2,048 channels" in repr(prof)
    assert "first" in prof.table()


def test_what_was_left_out_says_how_to_have_it():
    site = measure(noise(40, 2, 4), covariance=False, bins=0, top=0, reservoir=0)["first"]

    for name, setting in (
        ("effective_rank", "covariance= other than False"),
        ("distribution", "bins= other than 0"),
        ("layer_distribution", "bins= other than 0"),
        ("top_samples", "top= other than 0"),
        ("intrinsic_dimension", "reservoir= other than 0"),
    ):
        with pytest.raises(DataError, match=setting):
            getattr(site, name)
    assert site.max.shape == (2,)


def test_the_intrinsic_dimension_is_that_of_the_samples():
    plane = noise(1500, 2) @ noise(2, 12, seed=1)
    found = measure(plane, reservoir=2000)["first"].intrinsic_dimension

    assert found.dimension == pytest.approx(2, abs=0.2)
    assert found.points == 1500


def test_a_saved_profile_is_the_same_when_it_is_loaded(store, tmp_path):
    prof = ss.profile(store, progress=False)
    folder = prof.save()

    assert folder == store.path / "profile" / "0"
    for path in (folder, store.path):
        again = Profile.load(path)
        assert again.table() == prof.table()
        assert repr(again) == repr(prof)
        np.testing.assert_array_equal(
            again["second"].quantile([0.1, 0.9]), prof["second"].quantile([0.1, 0.9])
        )
        assert again.merge(prof).samples == 400
    plain = json.loads((folder / "profile.json").read_text())
    assert plain["sites"][0]["channels"]["mean"] == prof["first"].mean.tolist()
    columns = __import__("pyarrow.parquet").parquet.read_table(folder / "channels.parquet")
    assert columns.column("max").to_pylist()[:3] == prof["first"].max.tolist()
    assert prof.save() == folder  # again, over the earlier one


def test_a_profile_beside_a_store_changes_nothing_of_it(store):
    ss.profile(store, progress=False).save()

    assert store.verify(deep=True) == []
    assert store.steps == (0,)
    again = ss.extract(Given(), noise(200, 3, 8), "**", to=store.path, resume=True)
    assert again.complete


def test_a_path_of_a_store_is_profiled_as_the_store(store):
    found = ss.profile(store.path, progress=False)

    assert found.table() == ss.profile(str(store.path), progress=False).table()
    assert found.table() == ss.profile(store, progress=False).table()


def test_a_profile_is_not_written_to_a_bucket(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prof = ss.profile(store, progress=False)

    for place in ("s3://bucket/prof", Path("gs://bucket/prof")):
        with pytest.raises(StoreError, match="must be written to a folder of this machine, got"):
            prof.save(place)
    assert [path.name for path in tmp_path.iterdir()] == ["acts.zarr"]


def test_places_that_hold_no_profile_are_named(store, tmp_path):
    prof = measure(noise(10, 2))
    with pytest.raises(DataError, match="lies beside no store: give save"):
        prof.save()
    with pytest.raises(StoreError, match="holds something other than a profile"):
        prof.save(store.path)
    with pytest.raises(StoreError, match="got those of steps none"):
        Profile.load(store.path)
    with pytest.raises(StoreError, match="holds no profile"):
        Profile.load(tmp_path / "nowhere")
    folder = prof.save(tmp_path / "prof")
    (folder / "state.npz").write_bytes(b"no archive")
    with pytest.raises(StoreError, match="is damaged: it must hold a profile"):
        Profile.load(folder)


def test_a_profile_becomes_tables_of_other_libraries(store):
    prof = ss.profile(store, progress=False)

    frame = prof.to_pandas()
    assert frame.loc[("first", 2), "std"] == prof["first"].std[2]
    tree = prof.to_xarray()
    assert float(tree["second"]["zero_fraction"][1]) == prof["second"].zero_fraction[1]
    assert tree["second"]["covariance"].shape == (3, 3)
    assert tree["second"]["quantile"].dims == ("q", "channel")
    plain = json.loads(json.dumps(prof.to_dict(), allow_nan=False))
    assert plain["sites"][1]["layer"]["dead"] == 0


def test_a_notebook_shows_the_table_and_the_findings():
    values = noise(20, 2, 4)
    values[:, 0] = 0
    html = measure(values)._repr_html_()

    assert "first: 50 % of 2 channels dead" in html
    assert "<table>" in html


def test_a_store_is_profiled_without_torch(store):
    code = (
        "import sys, stratascope as ss\n"
        f"prof = ss.profile(ss.open_store({str(store.path)!r}), progress=False)\n"
        "prof.save(); prof.findings(); prof.table()\n"
        "print('torch' in sys.modules, prof.samples)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "200"]


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        (["model", "data"], {}, TypeError, "sites must say what of a model"),
        (["nothing", "data", "**"], {}, TypeError, "must be a Store or a torch.nn.Module, got int"),
        (["path"], {}, StoreError, "acts does not exist"),
        (["store", "data"], {}, TypeError, "a store has its values: leave out data"),
        (["model", "data", "**"], {"steps": "all"}, TypeError, "steps are those of a store"),
        (["store"], {"steps": "every"}, ValueError, "steps must be numbers, 'all' or None"),
        (["store"], {"bins": 7}, ValueError, "bins must be 0 or a power of two up to 128, got 7"),
        (["store"], {"top": -1}, ValueError, "top must not be negative, got -1"),
        (["store"], {"share": 0}, ValueError, "share must be above 0 and at most 1, got 0"),
        (["store"], {"threshold": np.nan}, ValueError, "threshold must be finite, got nan"),
        (["store"], {"limit": 0}, ValueError, "limit must be at least 1, got 0"),
        (["store"], {"shard": (2, 2)}, ValueError, "shard must be a number from 0"),
        (["store"], {"shard": (1, 9)}, DataError, "each shard must have at least one of the 1"),
        (["store"], {"sites": "frst"}, SiteNotFoundError, "Did you mean 'first'"),
        (["model", "batches", "**"], {"workers": 2}, DataError, "data must have a length"),
        (["model", "data", "**"], {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(store, arguments, settings, error, message):
    given = {
        "store": store,
        "model": Given(),
        "data": noise(20, 3, 8),
        "batches": iter([torch.zeros(3, 2)]),
        "nothing": 7,
        "path": "acts",
        "**": "**",
    }
    with pytest.raises(error, match=message):
        ss.profile(*(given[name] for name in arguments), progress=False, **settings)


def test_profiles_of_other_sites_or_settings_are_not_merged(store):
    prof = ss.profile(store, progress=False)

    with pytest.raises(DataError, match="must be of the same sites and settings"):
        prof.merge(ss.profile(store, sites="first", progress=False))
    with pytest.raises(DataError, match="must be of the same sites and settings"):
        prof.merge(ss.profile(store, threshold=1, progress=False))


def test_an_unfinished_store_is_refused_and_what_is_there_can_be_asked_for(tmp_path):
    def stop():
        yield torch.from_numpy(noise(128, 2, 4))
        raise KeyboardInterrupt("of the user")

    with pytest.raises(KeyboardInterrupt, match="of the user"):
        ss.extract(Given(), stop(), "first", to=tmp_path / "cut.zarr", unit_size=64)
    with pytest.warns(UserWarning, match="is unfinished"):
        store = ss.open_store(tmp_path / "cut.zarr")

    assert ss.profile(store, limit=64, progress=False).samples == 64


def test_findings_are_plain_values():
    finding = Finding("a", "nan", "text", "nan", (1,), 0.5, "error")

    assert finding == Finding("a", "nan", "text", "nan", (1,), 0.5, "error")
    assert str(finding) == "a: text"
