import json
import sys

import pytest
from torch import nn

import stratascope as ss
from stratascope.cli import main
from stratascope.cli._targets import load_data, load_model

_MODELS = """
import numpy as np
import torch

def build(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())

def other():
    return build(1)

def windows():
    return np.random.default_rng(0).normal(size=(150, 1, 32)).astype("float32")

def batches():
    data = torch.from_numpy(windows())
    return iter(data.split(20))

def slow():
    raise RuntimeError("never asked for")
"""
ARRAY = "a.zarr/data.zarr/0/0/activation"
MEND = ["--repair", "--model", "nets.py:build", "--data", "nets.py:windows"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(_MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return tmp_path


@pytest.fixture
def store(here):
    model, data = load_model("nets.py:build"), load_data("nets.py:windows")
    settings = {"to": "a.zarr", "unit_size": 64, "batch_size": 20, "progress": False}
    ss.extract(model, data, ["**", "Conv1d[1]:in"], dtype="float16", **settings)
    return here / "a.zarr"


def tree(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def flip(path):
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def run(capsys, *words):
    capsys.readouterr()
    code = main(["verify", "a.zarr", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_store_that_is_whole_is_said_to_be(store, capsys):
    assert run(capsys) == (0, "a.zarr: no damage; --deep reads every byte\n", "")
    assert run(capsys, "--deep")[:2] == (0, "a.zarr: no damage; every byte was read\n")


def test_what_is_not_there_yet_is_no_damage_but_is_said(store, capsys):
    for name in ("complete.json", "u00000001.json"):
        (store / "commits" / "0" / name).unlink()
    code, said, _ = run(capsys)

    assert code == 0
    assert said == (
        "a.zarr: no damage; --deep reads every byte\n"
        "step 0 is unfinished: 86 of 150 samples are there. Run the same extract again with "
        "--resume\n"
    )
    assert "86 of 150" in json.loads(run(capsys, "--json")[1])["unfinished"][0]


def test_damage_is_listed_and_the_exit_code_is_1(store, capsys):
    flip(store.parent / ARRAY / "c/1/0/0")
    (store.parent / ARRAY / "c/2/0/0").unlink()
    code, said, _ = run(capsys, "--deep")
    lines = said.splitlines()

    assert code == 1
    assert lines[0] == (
        f"step 0, site '0', samples 64 to 71: {ARRAY}/c/1/0/0 is damaged: it has another checksum"
    )
    assert lines[1] == f"step 0, site '0', samples 128 to 149: {ARRAY}/c/2/0/0 is not there"
    assert lines[-1].endswith("stratascope verify a.zarr --repair --model MODEL --data DATA")


def test_damage_is_json_for_programs(store, capsys):
    (store.parent / ARRAY / "c/2/0/0").unlink()
    (store / "data.zarr" / "zarr.json").unlink()
    code, said, _ = run(capsys, "--json")

    assert code == 1
    assert json.loads(said) == {
        "store": "a.zarr",
        "deep": False,
        "damages": [
            {
                "step": 0,
                "site": "",
                "place": "",
                "samples": [],
                "path": "a.zarr/data.zarr/zarr.json",
                "problem": "is not there",
            },
            {
                "step": 0,
                "site": "0",
                "place": "",
                "samples": [128, 150],
                "path": f"{ARRAY}/c/2/0/0",
                "problem": "is not there",
            },
        ],
        "repaired": [],
        "unfinished": [],
    }


def test_much_damage_is_not_all_listed(store, capsys, monkeypatch):
    monkeypatch.setattr("stratascope.cli._verify._SHOWN", 2)
    for path in (store / "data.zarr").rglob("activation/c/*/0/0"):
        path.unlink()
    _, said, _ = run(capsys)

    assert "… and 7 more, which --json lists" in said
    assert "9 damages" in said


def test_what_is_damaged_is_repaired_and_the_rest_not_touched(store, capsys):
    before = tree(store)
    flip(store.parent / ARRAY / "c/1/0/0")
    (store / "commits" / "0" / "u00000002.json").write_text("{")
    times = {path: path.stat().st_mtime_ns for path in store.rglob("c/0/0/0")}
    code, said, _ = run(capsys, "--deep", *MEND)

    assert code == 0
    assert said == "repaired: 2\na.zarr: no damage is left\n"
    assert tree(store) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_where_nothing_is_damaged_nothing_is_even_loaded(store, capsys):
    words = ["--repair", "--model", "nets.py:build", "--data", "nets.py:slow"]

    assert run(capsys, *words)[0] == 0


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--repair", "--data", "nets.py:windows"], 2, "--repair needs --model and --data"),
        (
            ["--repair", "--model", "nets.py:other", "--data", "nets.py:windows"],
            1,
            "since its step 0 was begun, the model's parameters changed",
        ),
        (
            ["--repair", "--model", "nets.py:build", "--data", "nets.py:batches"],
            1,
            "cannot be continued: since its step 0 was begun",
        ),
        (["--step", "3"], 1, "step must be one of those in a.zarr (0), got 3"),
    ],
)
def test_what_cannot_be_repaired_so_takes_nothing_from_the_store(
    store, capsys, words, code, sentence
):
    (store.parent / ARRAY / "c/2/0/0").unlink()
    before = tree(store)
    found, _, said = run(capsys, *words)

    assert (found, tree(store)) == (code, before)
    assert sentence in said


def test_a_transform_is_for_python(here, capsys):
    model, data = load_model("nets.py:build"), load_data("nets.py:windows")
    ss.extract(model, data, "0", to="a.zarr", transform=nn.functional.relu, progress=False)
    (here / ARRAY / "c/0/0/0").unlink()
    before = tree(here / "a.zarr")
    code, _, said = run(capsys, *MEND)

    assert (code, tree(here / "a.zarr")) == (1, before)
    assert "was extracted with transform=relu, which a command line cannot give" in said


def test_a_step_without_a_description_cannot_be_repaired(store, capsys):
    (store / "commits" / "0" / "spec.json").write_text("")
    code, _, said = run(capsys, *MEND)

    assert code == 1
    assert "step 0 of a.zarr cannot be repaired: nothing else says what it holds" in said
