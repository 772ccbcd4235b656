import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import stratascope as ss
from stratascope.cli import main

SIGNALS = np.random.default_rng(0).normal(size=(150, 1, 12)).astype("float32")


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(1, 3, 3)
        self.lstm = nn.LSTM(10, 2, batch_first=True)
        self.again = self.conv

    def forward(self, x):
        return self.lstm(self.conv(x))[0]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    settings = {"to": "a.zarr", "unit_size": 64, "dtype": "float16", "progress": False}
    with pytest.warns(UserWarning, match="not stored: lstm"):
        ss.extract(
            *(Shared(), SIGNALS, ["conv", "lstm"]), provenance={"weights": "best.pt"}, **settings
        )
    return tmp_path


def read_json(capsys, *words):
    capsys.readouterr()
    assert main(["info", "a.zarr", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_program_is_told_all_that_the_store_knows(here, capsys):
    found = read_json(capsys)
    store = ss.open_store("a.zarr")
    conv, lstm = found["arrays"]

    assert (found["samples"], found["samples_committed"], found["complete"]) == (150, 150, True)
    assert found["bytes"] == store.nbytes == conv["bytes"] + lstm["bytes"]
    assert found["steps"] == [{"step": 0, "complete": True, "bytes": store.nbytes}]
    assert found["settings"] == store.settings
    assert found["provenance"]["weights"] == "best.pt"
    assert found["provenance"]["command"] == "train.py"
    assert found["written_at"] == store.written_at.isoformat(timespec="seconds")
    assert sorted(found["skipped"]) == ["lstm/activation.1.0", "lstm/activation.1.1"]
    step = here / "a.zarr/data.zarr/0"
    assert found["bytes_previews"] == conv["bytes_previews"] + lstm["bytes_previews"]
    sizes = {
        name: sum(file.stat().st_size for file in (step / "conv" / name).rglob("c/*/0/0"))
        for name in ("activation", "histogram")
    }
    assert conv == {
        "site": "conv",
        "place": "",
        "module": "Conv1d",
        "aliases": ["again"],
        "ordinals": {"Conv1d": 1, "_ConvNd": 1},
        "shape": [150, 3, 10],
        "axes": ["sample", "channel", "time"],
        "dtype": "float16",
        "stored_dtype": "float16",
        "source_dtype": "float16",
        "bytes": sizes["activation"],
        "bytes_previews": sizes["histogram"],
        "bytes_in_memory": 150 * 30 * 2,
    }
    assert (lstm["site"], lstm["place"], lstm["module"]) == ("lstm", "0", "LSTM")


def test_people_are_told_in_lines(here, capsys):
    assert main(["info", "a.zarr"]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert lines[0] == "a.zarr, step 0"
    assert lines[1].startswith("150 of 150 samples, complete, 20")
    assert "on disk, 10.8 kB in memory, " in lines[2]
    assert re.search(r" ×, previews [\d.]+ kB$", lines[2])
    rows = [" ".join(line.split()) for line in lines]
    assert "site class shape type on disk ratio" in rows
    assert any(row.startswith("conv Conv1d (150, 3, 10) float16") for row in rows)
    assert any(row.endswith("also again") for row in rows)
    assert any(row.startswith("lstm [0] LSTM (150, 3, 2) float16") for row in rows)
    assert any(row.startswith("not stored: lstm/activation.1.0: its shape") for row in rows)
    assert "unit_size 64" in rows
    assert "weights best.pt" in rows
    assert not any(row.startswith("transform") for row in rows)


def test_an_unfinished_step_says_how_much_of_it_is_there(here, capsys):
    for name in ("complete.json", "u00000001.json"):
        (here / "a.zarr" / "commits" / "0" / name).unlink()
    found = read_json(capsys)
    main(["info", "a.zarr"])

    assert (found["complete"], found["samples"], found["samples_committed"]) == (False, 150, 86)
    assert found["arrays"][0]["bytes_in_memory"] == 86 * 30 * 2
    assert "86 of 150 samples, UNFINISHED" in capsys.readouterr().out


def test_a_store_of_which_nothing_is_committed_is_no_division_by_zero(here, capsys):
    for path in (here / "a.zarr" / "commits" / "0").glob("[cu]*.json"):
        path.unlink()
    found = read_json(capsys)
    main(["info", "a.zarr"])

    assert (found["samples_committed"], found["bytes"], found["written_at"]) == (0, 0, None)
    said = capsys.readouterr().out
    assert "0 of 150 samples, UNFINISHED, nothing written" in said
    assert "0 B on disk, 0 B in memory, –" in said


def test_several_steps_are_listed_and_one_is_shown(here, capsys):
    for step in range(1, 12):
        model = nn.Sequential(nn.Conv1d(1, 2, 3))
        settings = {"unit_size": 64, "step": step, "progress": False}
        ss.extract(model, SIGNALS, "0", to="a.zarr", **settings)
    (here / "a.zarr" / "commits" / "3" / "complete.json").unlink()
    (here / "a.zarr" / "commits" / "5" / "spec.json").write_text("{")
    found = read_json(capsys, "--step", "2")
    main(["info", "a.zarr"])

    assert found["step"] == 2
    assert [step["step"] for step in found["steps"]] == list(range(12))
    assert [step["step"] for step in found["steps"] if not step.get("complete")] == [3, 5]
    assert "spec.json is damaged: it must be JSON" in found["steps"][5]["problem"]
    assert capsys.readouterr().out.startswith(
        "a.zarr, step 11 of 12 (0, 1, 2, 3, 4, 5, 6, 7, …, 11; unfinished: 3, 5), "
    )


def test_codes_are_shown_as_what_they_are(here, capsys):
    ss.extract(Shared(), SIGNALS, "conv", to="a.zarr", step=1, dtype="uint8", progress=False)
    (conv,) = read_json(capsys)["arrays"]
    main(["info", "a.zarr"])

    assert (conv["dtype"], conv["stored_dtype"]) == ("float32", "uint8")
    assert conv["bytes_in_memory"] == 150 * 30 * 4
    assert re.search(r"conv  +Conv1d  +\S+ \S+ \S+  float32 \(stored as uint8\)  ", _out(capsys))


def _out(capsys):
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere.zarr"], "nowhere.zarr does not exist"),
        (["a.zarr", "--step", "7"], "got 7"),
    ],
)
def test_what_is_not_there_is_one_sentence(here, capsys, words, sentence):
    assert main(["info", *words]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("words", [["info", "a.zarr"], ["verify", "a.zarr", "--deep"]])
def test_looking_at_a_store_needs_neither_torch_nor_zarr(here, words):
    script = f"""
import sys
from stratascope.cli import main
assert main({words!r}) == 0
assert not {{"torch", "zarr"}} & sys.modules.keys()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert ended.returncode == 0, ended.stderr


def test_what_the_data_gave_beside_the_inputs_is_shown(tmp_path, monkeypatch, capsys):
    class Named(torch.utils.data.TensorDataset):
        ids = tuple(f"row {number}" for number in range(20))

    monkeypatch.chdir(tmp_path)
    data = Named(torch.ones(20, 1, 10), torch.arange(20) % 3)
    ss.extract(nn.Conv1d(1, 3, 3), data, "model", to="a.zarr", progress=False)

    assert read_json(capsys)["coordinates"] == {
        "target": {"shape": [20], "dtype": "int64"},
        "id": {"shape": [20], "dtype": "text"},
    }
    assert main(["info", "a.zarr"]) == 0
    said = capsys.readouterr().out
    assert "beside: targets (20,) int64\n" in said
    assert "beside: ids (20,) text\n" in said
