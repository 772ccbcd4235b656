"""Extraction in several processes, as a command line begins it."""

import json
import os
import subprocess
import sys

import pytest

import stratascope as ss
from stratascope.cli import main

# A network and a data set whose classes other processes find in this file only.
_FILE = """
import torch
from torch.utils.data import Dataset

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv1d(1, 4, 3)

    def forward(self, x):
        return self.conv(x)

class Sines(Dataset):
    def __len__(self):
        return 600

    def __getitem__(self, index):
        return torch.sin(torch.arange(32.0) * index)[None]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "sines.py").write_text(_FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "sines", raising=False)
    return tmp_path


def extract(to, *more):
    place = "elsewhere/sines.py"
    return ["extract", f"{place}:Net", f"{place}:Sines", "--sites", "conv", "--to", to, *more]


def values(path):
    return ss.open_store(path)["conv"][:].tobytes()


def test_workers_do_what_one_process_does(here):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "stratascope", *extract("w.zarr", "--workers", "2")]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)

    assert ended.returncode == 0, ended.stderr
    assert "600 samples" in ended.stdout
    assert main(extract("one.zarr")) == 0
    assert values("w.zarr") == values("one.zarr")


def test_shards_say_what_is_there_and_the_last_one_what_to_do_with_it(here, capsys):
    codes, said = [], []
    for shard in ("1/2", "0/2"):
        codes.append(main(extract("s.zarr", "--shard", shard)))
        said.append(capsys.readouterr().out)

    assert codes == [0, 0]
    assert "INCOMPLETE" in said[0]
    assert "shard 1/2 is done in" in said[0]
    assert "344 of 600 samples are there, and the other shards do the rest" in said[0]
    assert "render s.zarr --site 'conv'" in said[1]
    assert main(extract("one.zarr")) == 0
    assert values("s.zarr") == values("one.zarr")


def test_shards_tell_programs_whether_the_step_is_complete(here, capsys):
    complete = []
    for shard in ("0/2", "1/2"):
        main(extract("s.zarr", "--shard", shard, "--json"))
        complete.append(json.loads(capsys.readouterr().out)["complete"])

    assert complete == [False, True]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--workers", "0"], "--workers must be at least 1, got 0"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--step", "-1"], "--step must be at least 0, got -1"),
        (["--shard", "2/2"], "--shard must be a number from 0 and how many there are, such as 0/4"),
        (["--shard", "1"], "such as 0/4, got '1'"),
        (["--shard", "a/b"], "such as 0/4, got 'a/b'"),
    ],
)
def test_numbers_that_cannot_be_are_wrong_usage(here, capsys, words, sentence):
    assert main(extract("s.zarr", *words)) == 2
    assert sentence in capsys.readouterr().err
    assert not (here / "s.zarr").exists()
