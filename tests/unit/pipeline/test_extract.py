import json
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import stratascope as ss
from stratascope._progress import ProgressBar
from stratascope.errors import CaptureError, DataError, SiteNotFoundError, StoreError

SIGNALS = np.random.default_rng(0).normal(size=(150, 2, 12)).astype("float32")


def convnet():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 5, 3), nn.BatchNorm1d(5), nn.ReLU(inplace=True))


class Reused(nn.Module):
    """One module three times, and one named like the coordinate."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.sample = nn.Conv1d(2, 2, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x):
        for _ in range(3):
            x = self.relu(self.sample(x) - 0.1)
        return {"half": x[:, :1], "whole/x": x}


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(2, 3, num_layers=2, batch_first=True)
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.lstm(x.mT)[0][:, -1]).squeeze(-1)


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat = nn.Flatten()

    def forward(self, x):
        return torch.fft.rfft(self.flat(x)).conj()


@pytest.fixture
def run(tmp_path):
    def extract(model, sites="**", data=SIGNALS, to="s", **settings):
        settings = {"batch_size": 20, "unit_size": 64, "progress": False, **settings}
        return ss.extract(model, data, sites, to=tmp_path / to, **settings)

    return extract


def tree(root):
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def plain_loop(model, sites, batch_size=20):
    """Capture by the shortest code there is: hooks that copy."""
    calls, found = {}, {}

    def keep(name):
        def hook(module, args, output):
            calls[name] = calls.get(name, 0) + 1
            found.setdefault(f"{name}@{calls[name]}", []).append(output.clone())

        return hook

    modules = dict(model.named_modules())
    hooks = [modules[site].register_forward_hook(keep(site)) for site in sites]
    model.eval()
    with torch.no_grad():
        for first in range(0, len(SIGNALS), batch_size):
            calls.clear()
            model(torch.from_numpy(SIGNALS[first : first + batch_size].copy()))
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


@pytest.mark.parametrize(
    ("make", "sites"),
    [
        (convnet, ["0", "1", "2"]),
        (Reused, ["sample", "relu"]),
        (Recurrent, ["head"]),
        (Complex, ["", "flat"]),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_values_are_those_of_a_plain_loop_bit_for_bit(run, make, sites, batch_size):
    store = run(make(), sites, batch_size=batch_size)
    expected = plain_loop(make(), sites, batch_size)

    assert len(store) == len(expected)
    for name, values in expected.items():
        ours = store[name.replace("@1", "") if name == "@1" else name][:]
        np.testing.assert_array_equal(ours, values, strict=True)


def test_each_call_of_a_reused_module_is_a_site(run):
    store = run(Reused(), ["relu", "sample"])

    assert list(store) == [f"{name}@{k}" for k in (1, 2, 3) for name in ("sample", "relu")]
    assert store.to_xarray()["relu@2"]["activation"].shape == (150, 2, 12)


def test_a_module_named_like_the_coordinate_has_its_place(run):
    model = nn.Sequential()
    model.add_module("sample", nn.ReLU())
    store = run(model, ["sample", "sample:in"])
    tree = store.to_xarray()

    assert list(store) == ["sample:in", "sample"]
    np.testing.assert_array_equal(store["sample:in"][:], SIGNALS)
    np.testing.assert_array_equal(tree["sample~"]["activation"].values, SIGNALS.clip(0))
    np.testing.assert_array_equal(tree["sample~"]["sample"].values, np.arange(150))


def test_a_dict_that_a_module_passes_is_a_dict_of_arrays(run):
    store = run(Reused(), "")

    assert {place: array.shape for place, array in store["model"].items()} == {
        "half": (150, 1, 12),
        "whole/x": (150, 2, 12),
    }
    assert store.to_xarray()["model"]["activation.whole~x"].shape == (150, 2, 12)


def test_a_module_with_a_slash_in_its_name_is_read_by_xarray(run):
    model = nn.Sequential()
    model.add_module("block/relu", nn.ReLU())

    assert run(model)["block/relu"].shape == (150, 2, 12)
    assert run(model, to="t").to_xarray()["block~relu"]["activation"].shape == (150, 2, 12)


def test_states_that_have_no_sample_axis_are_left_out_by_name(run):
    with pytest.warns(
        UserWarning,
        match=r"not stored: lstm/activation\.1\.0: its shape \(2, 20, 3\) does not begin with",
    ):
        store = run(Recurrent(), "lstm")

    assert list(store["lstm"]) == ["0"]
    assert store["lstm"]["0"].shape == (150, 12, 3)
    assert sorted(store.skipped) == ["lstm/activation.1.0", "lstm/activation.1.1"]


def test_what_is_left_out_is_left_out_of_a_resumed_run_too(run, tmp_path):
    with pytest.warns(UserWarning, match="not stored: lstm"):
        run(Recurrent(), "lstm")
    (tmp_path / "s" / "commits" / "0" / "u00000001.json").unlink()
    (tmp_path / "s" / "commits" / "0" / "complete.json").unlink()

    assert run(Recurrent(), "lstm", resume=True).complete


def test_nothing_that_can_be_stored_is_an_error(run, tmp_path):
    class Sum(nn.Module):
        def forward(self, x):
            return x.sum()

    with pytest.raises(CaptureError, match=r"nothing of the chosen sites can be stored .*\(\)"):
        run(nn.Sequential(Sum()))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("dtype", ["float16", torch.bfloat16, "float64"])
def test_a_type_is_what_torch_itself_casts_to(run, dtype):
    store = run(convnet(), "0", dtype=dtype)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    expected = torch.from_numpy(plain_loop(convnet(), ["0"])["0@1"]).to(wanted)
    expected = expected.float() if wanted is torch.bfloat16 else expected

    np.testing.assert_array_equal(store["0"][:], expected.numpy(), strict=True)
    assert store["0"].source_dtype == str(wanted).removeprefix("torch.")


class Parts(nn.Module):
    """Passes maps, a vector, one number, whole numbers and truth values."""

    def forward(self, x):
        maps = torch.cat([x, x.roll(3, -1), x, x, x, x], -1) * torch.tensor([1.0, 100.0])[:, None]
        return {
            "maps": maps,
            "vector": maps[:, 0] - 5,
            "number": maps.sum((1, 2)),
            "whole": maps.argmax(-1),
            "truth": maps > 0,
        }


def test_codes_of_a_byte_are_read_as_numbers(run):
    exact = run(Parts(), "")["model"]
    store = run(Parts(), "", dtype="uint8", to="t")
    tree = store.to_xarray()["model"]
    for place in ("maps", "vector", "number"):
        ours, codes, values = store["model"][place], store["model"][place].codes, exact[place][:]
        within = tuple(range(2 if place == "maps" else 1, values.ndim))
        step = np.ptp(values, axis=within, keepdims=True) / 252

        assert (ours.dtype, ours.stored_dtype, codes.dtype) == ("float32", "uint8", "uint8")
        assert (ours.source_dtype, ours.shape) == ("float32", values.shape)
        assert (abs(ours[:] - values) <= 0.501 * step + 1e-4 * abs(values)).all()
        assert codes[:].max(initial=0, where=step > 0) == (252 if step.any() else 0)
        np.testing.assert_array_equal(tree[f"activation.{place}"].values, ours[:], strict=True)


def test_whole_numbers_and_truth_values_are_kept_as_they_are(run):
    store = run(Parts(), "", dtype=torch.uint8)["model"]

    assert (store["whole"].dtype, store["truth"].dtype) == ("int64", "bool")
    with pytest.raises(StoreError, match=r"'model' \[whole\] has no codes: .* stored as int64"):
        _ = store["whole"].codes


def test_parts_of_codes_are_those_of_the_whole(run):
    store = run(Parts(), "", dtype="uint8")
    maps = store["model"]["maps"]
    whole = maps[:]
    variable = store.to_xarray()["model"]["activation.maps"]

    for index in [17, (17, 1), (..., 3), (slice(60, 70), 1), ([3, 149, 3],), (5, [1, 0]), -1]:
        np.testing.assert_array_equal(maps[index], whole[index], strict=True)
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in maps.blocks()]), whole)
    np.testing.assert_array_equal(store.to_numpy()["model"]["maps"], whole)
    np.testing.assert_array_equal(store.to_torch()[64]["model"]["maps"].numpy(), whole[64])
    np.testing.assert_array_equal(variable[9:3:-2, ::-1, [0, 5]], whole[9:3:-2, ::-1][..., [0, 5]])
    assert maps.nbytes == whole.nbytes
    assert maps.nbytes_stored < 0.5 * whole.nbytes


def test_a_step_of_codes_is_continued_to_the_same_bytes(run):
    store = run(convnet(), dtype="uint8")
    whole = {name: content for name, (content, _) in tree(store.path).items()}
    for name in ("complete", "u00000001"):
        (store.path / "commits" / "0" / f"{name}.json").unlink()
    run(convnet(), dtype="uint8", resume=True)

    assert {name: content for name, (content, _) in tree(store.path).items()} == whole


@pytest.mark.parametrize("role", ["scale", "offset"])
def test_a_lost_scale_is_a_lost_value(run, role):
    store = run(convnet(), "0", dtype="uint8")
    path = store.path / f"data.zarr/0/0/{role}/c/1"
    path = path if path.is_file() else path / "0"
    path.unlink()

    with pytest.raises(StoreError, match=rf"site '0', samples 64 to 127 .*{role}.* is not there"):
        store["0"][70]
    with pytest.raises(StoreError, match=rf"samples 64 to 127 .*{role}.* is not there"):
        store.to_xarray()
    (damage,) = store.verify()
    assert (damage.path, damage.site, damage.samples) == (path, "0", range(64, 128))
    assert store["0"][:64].shape == (64, 5, 10)


def test_codes_of_values_of_several_types_are_refused(run):
    data = [torch.zeros(20, 2, 12), torch.zeros(20, 2, 12, dtype=torch.float64)]

    with pytest.raises(
        DataError, match=r"samples of '0' must all be float32, .* got float64: give"
    ):
        run(nn.Sequential(nn.ReLU()), data=data, dtype="uint8")


@pytest.mark.parametrize("dtype", ["int8", "float", "nonsense", torch.int32])
def test_a_type_that_is_no_floating_point_type_is_refused(run, dtype):
    if dtype == "float":  # an alias that torch has
        assert run(convnet(), "0", dtype=dtype)["0"].dtype == "float32"
        return
    with pytest.raises(ValueError, match=r"dtype must be a floating-point type .*, got "):
        run(convnet(), dtype=dtype)


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_compact_takes_less_room_and_holds_the_same_values(run, dtype):
    fast = run(convnet(), dtype=dtype)
    compact = run(convnet(), dtype=dtype, codec="compact", to="t")

    assert (fast.codec, compact.codec) == ("fast", "compact")
    assert compact.nbytes < fast.nbytes
    for site, array in fast.items():
        np.testing.assert_array_equal(compact[site][:], array[:], strict=True)
        by_xarray = compact.to_xarray()[site]["activation"].values
        np.testing.assert_array_equal(by_xarray, array[:], strict=True)
    assert compact.verify(deep=True) == []


def test_a_compact_step_is_continued_to_the_same_bytes(run):
    store = run(convnet(), codec="compact")
    whole = {name: content for name, (content, _) in tree(store.path).items()}
    for name in ("complete", "u00000001"):
        (store.path / "commits" / "0" / f"{name}.json").unlink()
    run(convnet(), codec="compact", resume=True)

    assert {name: content for name, (content, _) in tree(store.path).items()} == whole


def test_a_transform_is_applied_to_what_is_stored(run):
    store = run(convnet(), "2", transform=lambda x: x.amax(-1))

    np.testing.assert_array_equal(store["2"][:], plain_loop(convnet(), ["2"])["2@1"].max(-1))


def test_the_device_may_be_named(run):
    assert run(convnet(), device="cpu").complete


def test_the_model_is_left_as_it_was(run):
    model = convnet().train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grad = []
    model[0].register_forward_pre_hook(lambda *_: grad.append(torch.is_grad_enabled()))
    run(model)

    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert set(grad) == {False}
    assert torch.is_grad_enabled()


def hooks_of(model):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a device that is not there")
def test_no_hook_stays_where_the_model_cannot_be_moved(run, tmp_path):
    model = convnet()

    with pytest.raises(DataError, match="device must be one that is there, got 'cuda:99'"):
        run(model, device="cuda:99")
    assert hooks_of(model) == 0
    assert not (tmp_path / "s").exists()


def test_a_forward_that_fails_names_samples_shapes_and_remedy(run, tmp_path):
    model = convnet()
    data = [torch.zeros(20, 2, 12), torch.zeros(5, 3, 12)]

    with pytest.raises(
        DataError,
        match=r"cannot take samples 20 to 24 of the data, float32 \(5, 3, 12\): .*Give data of the",
    ) as caught:
        run(model, data=data)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert hooks_of(model) == 0
    assert list(tmp_path.rglob("*.tmp-*")) == []


def test_samples_that_change_their_size_are_an_error(run):
    with pytest.raises(DataError, match=r"samples of '0' must all have shape \(5, 10\), got"):
        run(convnet(), "0", data=[torch.zeros(20, 2, 12), torch.zeros(20, 2, 10)])


class Switching(nn.Module):
    """Takes another path when the signal is positive."""

    def __init__(self):
        super().__init__()
        self.always, self.sometimes, self.never = nn.ReLU(), nn.Tanh(), nn.ELU()

    def forward(self, x):
        x = self.always(x)
        return self.sometimes(x) if x.mean() > 5 else x


def test_a_site_that_runs_for_some_batches_only_is_an_error(run):
    data = [torch.full((20, 2, 12), 10.0), torch.zeros(20, 2, 12)]

    with pytest.raises(
        CaptureError,
        match=r"samples 20 to 39 differ from the first ones in sometimes/activation: choose sites",
    ):
        run(Switching(), ["always", "sometimes"], data=data)


def test_a_site_that_never_runs_is_an_error_before_anything_is_written(run, tmp_path):
    model = Switching()

    with pytest.raises(CaptureError, match="nothing was captured at 'never'"):
        run(model, ["always", "never"])
    assert not (tmp_path / "s").exists()
    assert hooks_of(model) == 0


def test_a_site_that_is_not_there_is_an_error_before_anything_is_written(run, tmp_path):
    with pytest.raises(SiteNotFoundError, match="no site of the model matches 'sometime'"):
        run(Switching(), "sometime")
    assert not (tmp_path / "s").exists()


def test_sites_may_come_one_by_one(run):
    assert list(run(convnet(), (name for name in ("2", "0")))) == ["0", "2"]


def test_an_input_is_a_site(run):
    store = run(convnet(), ["0:in", "Conv1d[1]"])

    np.testing.assert_array_equal(store["0:in"][:], SIGNALS)
    assert (store.path / "data.zarr" / "0" / "0~in" / "activation").is_dir()


def test_data_may_be_dicts_of_named_inputs(run):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.add = nn.Identity()

        def forward(self, x, *, scale):
            return self.add(x * scale)

    data = [{"x": SIGNALS[:20], "scale": 2.0}, {"x": SIGNALS[20:30], "scale": 3.0}]
    store = run(Two(), "add", data=data, limit=25)

    np.testing.assert_array_equal(store["add"][:20], SIGNALS[:20] * 2)
    np.testing.assert_array_equal(store["add"][20:], SIGNALS[20:25] * 3)


def test_one_sample_is_enough(run):
    assert run(convnet(), data=SIGNALS[:1])["2"].shape == (1, 5, 10)


def test_data_without_a_batch_are_an_error(run, tmp_path):
    with pytest.raises(DataError, match="data must have at least one sample, got none"):
        run(convnet(), data=[])
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"unit_size": 100}, "unit_size must be a multiple of 64, got 100"),
        ({"unit_size": 0}, "unit_size must be a multiple of 64, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"step": -1}, "step must not be negative, got -1"),
        ({"codec": "zip"}, "codec must be 'fast' or 'compact', got 'zip'"),
    ],
)
def test_settings_that_cannot_be_are_refused(run, settings, words):
    with pytest.raises(ValueError, match=words):
        run(convnet(), **settings)


@pytest.mark.parametrize("unit_size", [64, 128, 256])
def test_the_unit_decides_the_files_and_not_the_values(run, unit_size):
    store = run(convnet(), "0", unit_size=unit_size)
    shards = list((store.path / "data.zarr" / "0" / "0" / "activation" / "c").iterdir())

    assert len(shards) == -(-150 // unit_size)
    np.testing.assert_array_equal(store["0"][:], plain_loop(convnet(), ["0"])["0@1"])


def test_a_second_step_stands_beside_the_first(run):
    first = run(convnet(), "0")
    before = first["0"][:]
    trained = convnet()
    nn.init.ones_(trained[0].weight)
    second = run(trained, ["0", "2"], step=500)

    assert second.steps == (0, 500)
    assert list(second) == ["0", "2"]
    assert list(second.at(0)) == ["0"]
    np.testing.assert_array_equal(ss.open_store(first.path, step=0)["0"][:], before)
    assert not np.array_equal(second["0"][:], before)


def test_a_step_that_is_there_is_not_written_over(run):
    store = run(convnet())
    before = tree(store.path)

    with pytest.raises(StoreError, match=r"holds step 0 \(complete\) of the same run: nothing was"):
        run(convnet())
    (store.path / "commits" / "0" / "complete.json").unlink()
    with pytest.raises(StoreError, match=r"holds step 0 \(unfinished\).*resume=True \(--resume\)"):
        run(convnet())
    assert before.items() >= tree(store.path).items()


def test_resuming_a_complete_step_does_nothing(run):
    model = convnet()
    store = run(model)
    before = tree(store.path)
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))

    assert run(model, resume=True).complete
    assert tree(store.path) == before


def tuned():
    model = convnet()
    with torch.no_grad():
        model[0].weight[0, 0, 0] += 1
    return model


def moved():
    model = convnet()
    model[1].running_mean += 1
    return model


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": tuned()}, "the model's parameters changed"),
        ({"model": moved()}, "the model's parameters changed"),
        ({"data": SIGNALS + 1}, "the data changed"),
        ({"data": SIGNALS[:149]}, r"the number of samples \(was 150, is 149\)"),
        ({"data": TensorDataset(torch.from_numpy(SIGNALS))}, r"data.kind \(was 'array', is 'Tens"),
        ({"dtype": "float16"}, r"dtype \(was None, is 'float16'\) changed"),
        ({"codec": "compact"}, r"codec \(was 'fast', is 'compact'\) changed"),
        ({"batch_size": 21}, r"batch_size \(was 20, is 21\) changed"),
        ({"unit_size": 128}, r"unit_size \(was 64, is 128\) changed"),
        ({"sites": "0"}, r"the sites \(was \['0', '1', '2'\], is \['0'\]\) changed"),
        ({"transform": nn.functional.relu}, r"transform \(was None, is 'relu'\) changed"),
        ({"limit": 150}, r"data.limit \(was None, is 150\) changed"),
    ],
)
@pytest.mark.parametrize("finished", [True, False], ids=["complete", "unfinished"])
def test_a_run_that_differs_is_not_continued(run, changed, words, finished):
    store = run(convnet())
    if not finished:
        (store.path / "commits" / "0" / "complete.json").unlink()
    before = tree(store.path)

    with pytest.raises(StoreError, match=rf"since its step 0 was begun, .*{words}.*Restore"):
        run(**{"model": convnet(), **changed}, resume=True)
    assert tree(store.path) == before


def test_the_settings_are_kept_with_the_data(run):
    store = run(convnet(), "0", dtype="float16", transform=nn.functional.relu)
    group = json.loads((store.path / "data.zarr" / "0" / "zarr.json").read_text())

    assert group["attributes"]["settings"] == store.settings
    assert store.settings["dtype"] == "float16"
    assert store.settings["transform"] == "relu"
    assert store.settings["data"]["samples"] == 150
    assert store.settings["written_by"].startswith("stratascope ")


def test_command_versions_and_what_the_caller_adds_are_kept_with_the_data(run, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--rate", "a b"])
    store = run(convnet(), "0", provenance={"weights": {"file": "best.pt", "folds": (1, 2)}})
    group = json.loads((store.path / "data.zarr" / "0" / "zarr.json").read_text())

    assert group["attributes"]["provenance"] == store.provenance
    assert store.provenance["command"] == "train.py --rate 'a b'"
    assert store.provenance["versions"]["torch"] == torch.__version__
    assert store.provenance["weights"] == {"file": "best.pt", "folds": [1, 2]}


def test_what_json_cannot_hold_is_refused_before_anything_is_written(run, tmp_path):
    with pytest.raises(TypeError, match=r"provenance must be what JSON can hold: .*Conv1d"):
        run(convnet(), provenance={"layer": nn.Conv1d(1, 1, 1)})
    assert not (tmp_path / "s").exists()


def test_another_command_continues_and_changes_nothing(run, monkeypatch):
    store = run(convnet(), "0", provenance={"weights": "best.pt"})
    whole = {name: content for name, (content, _) in tree(store.path).items()}
    for name in ("complete", "u00000001"):
        (store.path / "commits" / "0" / f"{name}.json").unlink()
    monkeypatch.setattr("sys.argv", ["another.py"])
    run(convnet(), "0", resume=True, provenance={"weights": "renamed.pt"})

    assert {name: content for name, (content, _) in tree(store.path).items()} == whole


class Twice(nn.Module):
    """A shared module under two names, a block in a block, and what never runs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.unused = nn.Conv1d(2, 2, 1)
        self.last = nn.Conv1d(2, 2, 1)
        self.enc = nn.Sequential(nn.Sequential(nn.Conv1d(2, 2, 3, padding=1), nn.ReLU()))
        self.dec = self.enc

    def forward(self, x):
        return self.last(self.dec(self.enc(x)))


def test_sites_are_found_by_every_name_that_a_tap_knows(run):
    model = Twice()
    x = torch.from_numpy(SIGNALS)
    names = ["dec@1", "dec.0.1@-1", "Conv1d[1]@2", "Conv1d[2]", "_ConvNd[2]:in", "Sequential[2]@2"]
    names += ["model", "last@1", "dec.0.0@2:in"]
    with torch.no_grad(), ss.tap(model.eval(), ["**", "**:in", "", *names]) as acts:
        model(x)
    store = run(model, ["", "**", "**:in"], batch_size=150)

    for name in (*names, ""):
        np.testing.assert_array_equal(store[name][:], acts[name].numpy(), strict=True)
    assert store.find("Conv1d[2]") == "last"
    with pytest.raises(SiteNotFoundError, match=r"It ran several times: .* 'enc@1', 'enc@2'"):
        store["dec"]
    with pytest.raises(SiteNotFoundError, match=r"Of that class it holds Conv1d\[1\], .*Conv1d\[2"):
        store["Conv1d[3]"]


def test_a_class_is_counted_also_where_only_one_of_it_is_stored(run):
    store = run(Twice(), "last")

    assert store.find("Conv1d[2]") == "last"
    with pytest.raises(SiteNotFoundError, match=r"Of that class it holds Conv1d\[2\]\."):
        store["Conv1d[1]"]


def test_the_table_of_sites_is_kept_with_the_data(run):
    store = run(Twice(), ["last", "enc.0.1"])
    folder = store.path / "data.zarr" / "0"
    last, relu = (
        json.loads((folder / name / "zarr.json").read_text())["attributes"]
        for name in ("last", "enc.0.1@2")
    )

    assert last == {
        "site": "last",
        "path": "last",
        "port": "out",
        "call": None,
        "calls": 1,
        "module": "Conv1d",
        "aliases": [],
        "ordinals": {"Conv1d": 2, "_ConvNd": 2},
    }
    assert (relu["call"], relu["calls"], relu["aliases"]) == (2, 2, ["dec.0.1"])


def test_looking_at_the_order_leaves_the_fused_forward_of_transformers(run, monkeypatch):
    fused, calls = torch._transformer_encoder_layer_fwd, []

    def forward(*args):
        calls.append(args)
        return fused(*args)

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", forward)
    layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)
    store = run(nn.Sequential(layer, nn.Identity()), "1", batch_size=50)

    assert len(calls) == 3
    assert store.find("Identity[1]") == "1"


def test_more_than_the_disk_holds_is_warned_of_at_the_beginning(run, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())

    with pytest.warns(UserWarning, match=r"150 samples take up to .* MB uncompressed, and 0 MB"):
        run(convnet())


@pytest.mark.parametrize("resumed", [False, True])
def test_warnings_point_at_the_line_that_asked(tmp_path, monkeypatch, resumed):
    settings = {"to": tmp_path / "s", "unit_size": 64, "progress": False}
    model = Recurrent()
    if resumed:
        with pytest.warns(UserWarning, match="not stored: lstm"):
            ss.extract(model, SIGNALS, "lstm", **settings)
        (tmp_path / "s" / "commits" / "0" / "complete.json").unlink()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.warns(UserWarning, match="not stored: lstm|samples take up to") as caught:
        ss.extract(model, SIGNALS, "lstm", resume=resumed, **settings)

    assert len(caught) == (1 if resumed else 2)
    assert {warning.filename for warning in caught} == {__file__}


def test_a_warning_that_is_an_error_leaves_no_thread_and_no_lock(run, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    before = threading.active_count()
    for resume in (False, True):
        with (
            warnings.catch_warnings(action="error"),
            pytest.raises(UserWarning, match="150 samples take up to"),
        ):
            run(convnet(), resume=resume)

    assert threading.active_count() == before
    monkeypatch.undo()
    assert run(convnet(), resume=True).complete


def test_nothing_is_warned_of_otherwise(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(convnet())

    assert caught == []


def test_what_a_resume_found_done_is_shown_as_done(run, monkeypatch):
    store = run(convnet())
    for name in ("u00000001.json", "complete.json"):
        (store.path / "commits" / "0" / name).unlink()
    shown = []
    monkeypatch.setattr(ProgressBar, "update", lambda bar, *update: shown.append(update))
    run(convnet(), resume=True)

    # The batches that hold samples 64 to 127, and what they bring.
    assert [done - 86 for done, _ in shown] == [16, 36, 56, 64, 64]
    assert 0 < shown[-1][1] < store.nbytes
    assert store.complete
