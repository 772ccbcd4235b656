import json
import sys

import numpy as np
import pytest
import torch

import stratascope as ss
from stratascope.cli import main
from stratascope.pipeline import Profile

_NETS = """
import numpy as np
import torch

def build():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
    with torch.no_grad():
        model[0].bias[1] = -100
    return model

def windows():
    return np.random.default_rng(0).normal(size=(150, 1, 32)).astype("float32")
"""
MODEL = ["profile", "nets.py:build", "nets.py:windows", "--sites", "**"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(_NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("nets", None)


@pytest.fixture
def store(here, capsys):
    assert main(["extract", *MODEL[1:], "--to", "acts.zarr"]) == 0
    capsys.readouterr()
    return "acts.zarr"


def test_a_store_is_profiled_and_its_findings_are_listed(store, capsys):
    assert main(["profile", store]) == 0

    printed = capsys.readouterr().out
    assert "Profile of acts.zarr step 0: 2 sites, 150 samples" in printed
    assert "warning  1: 25 % of 4 channels dead (never above 0 in 150 samples)" in printed


def test_a_model_is_profiled_without_a_store(here, capsys):
    assert main([*MODEL, "--save", "prof", "--json"]) == 0

    plain = json.loads(capsys.readouterr().out)
    assert [site["site"] for site in plain["sites"]] == ["0", "1"]
    assert plain["sites"][1]["layer"]["dead"] == 1
    assert (here / "prof" / "channels.parquet").exists()


def test_a_rule_that_hits_ends_with_1(store, capsys):
    assert main(["profile", store, "--fail-on", "nan,dead>0.2"]) == 1
    assert "dead>0.2  1: 25 % of 4 channels dead" in capsys.readouterr().out
    assert main(["profile", store, "--fail-on", "nan,dead>0.5"]) == 0


def test_a_rule_that_is_none_is_wrong_usage_before_anything_is_read(capsys):
    assert main(["profile", "nowhere.zarr", "--fail-on", "dad"]) == 2

    assert "--fail-on: a rule must be one of" in (said := capsys.readouterr().err)
    assert "Did you mean 'dead'" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*MODEL[:3]], "--sites must say what of a model"),
        ([*MODEL, "--step", "1"], "--step is of a store"),
        ([*MODEL, "--limit", "0"], "--limit must be at least 1, got 0"),
        (["profile", "acts.zarr", "--device", "cpu"], "--device is of a model"),
        (["profile", "nets.py:build"], "a model needs data to run through it"),
        (["profile", ".", "nets.py:windows"], ". is a store, which has its values: leave out nets"),
        (["profile", "s3://b/acts", "x.npy"], "s3://b/acts is a store, which has its values"),
    ],
)
def test_wrong_usage_says_what_fits(here, capsys, words, message):
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_where_nothing_can_be_saved_nothing_is_read(here, capsys, monkeypatch):
    assert main(["profile", "nowhere.zarr", "--save", "s3://bucket/prof"]) == 1
    assert "a profile must be written to a folder of this machine" in capsys.readouterr().err
    assert main(["profile", "nowhere.zarr", "--save", "nets.py"]) == 1
    assert "nets.py holds something other than a profile" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["profile", "nowhere.zarr", "--save", "prof"]) == 2
    assert "pip install 'stratascope[parquet]'" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["nets.py"]


def test_what_was_found_is_printed_where_it_cannot_be_saved(store, capsys, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(Profile, "save", fail)
    assert main(["profile", store, "--save", "prof"]) == 1

    said = capsys.readouterr()
    assert "findings: " in said.out
    assert "written to" not in said.out
    assert "No space left on device" in said.err


def test_an_unfinished_store_names_the_options(here, capsys):
    store, signals = "acts.zarr", np.ones((150, 1, 32), "float32")
    ss.extract(torch.nn.ReLU(), signals, "model", to=store, unit_size=64, progress=False)
    for name in ("complete.json", "u00000001.json"):
        (here / store / "commits" / "0" / name).unlink()

    assert main(["profile", store]) == 1
    said = capsys.readouterr().err
    assert said.rstrip().endswith("again with --resume, or profile those only, with --limit 64")
    assert main(["profile", store, "--limit", "64"]) == 0


def test_a_store_may_have_a_colon_in_its_name(here, capsys):
    signals = np.ones((9, 1, 32), "float32")
    ss.extract(torch.nn.ReLU(), signals, "model", to="runs:first", progress=False)

    assert main(["profile", "runs:first"]) == 0
