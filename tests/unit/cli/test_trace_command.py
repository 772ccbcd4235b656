import json
import sys
from pathlib import Path

import pytest

from stratascope.cli import main

_MODELS = """
import torch
from torch import nn

class Log(nn.Module):
    def forward(self, x):
        return torch.log(x.clamp(max=0))

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 4, 3), nn.Dropout(), nn.ReLU())

def logs():
    return nn.Sequential(nn.ReLU(), Log(), Log())

def nothing():
    class Nothing(nn.Module):
        def forward(self, x):
            return torch.full_like(x, float("nan")).exp()
    return Nothing()
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(_MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "nets", raising=False)


def run(name, *words):
    return main(["trace", f"nets.py:{name}", "--input", "2x1x16", *words])


def test_every_operation_is_listed_and_summed_up(capsys):
    code = run("build")

    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert [line.split()[1] for line in lines[1:3]] == ["0.conv1d", "1.dropout"]
    assert lines[-2].startswith("3 operations in 4 module calls, ")
    assert lines[-1] == "All values are finite."


def test_modules_are_listed_on_demand(capsys):
    run("build", "--modules")

    heads = [line.split()[:2] for line in capsys.readouterr().out.splitlines()[:3]]
    assert heads == [["module", "class"], ["model", "Sequential"], ["0", "Conv1d"]]


def test_the_first_operation_that_is_not_finite_is_named_without_failing(capsys):
    code = run("logs")

    out = capsys.readouterr().out
    assert code == 0
    assert "The first that is not finite: 1.log (torch.log) at nets.py:7: 32 Inf in" in out


@pytest.mark.parametrize(("name", "expected"), [("build", 0), ("logs", 1)])
def test_a_job_can_stop_at_what_is_not_finite(name, expected, capsys):
    code = run(name, "--fail-on-nonfinite")

    error = "error: '1.log' is the first operation that is not finite\n"
    assert code == expected
    assert capsys.readouterr().err == (error if expected else "")


@pytest.mark.parametrize("name", ["build", "logs", "nothing"])
def test_the_whole_trace_is_json_without_nan(name, capsys):
    def refuse(constant):
        pytest.fail(f"{constant} is no JSON")

    code = run(name, "--json", "--to", "out/trace.json")

    printed = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert code == 0
    assert printed["operations"][0]["index"] == 0
    assert json.loads(Path("out/trace.json").read_text()) == printed


def test_the_file_is_told(capsys):
    run("build", "--to", "trace.json")

    assert capsys.readouterr().out.endswith("The whole trace is in trace.json.\n")


def test_an_input_that_does_not_fit_is_wrong_usage(capsys):
    code = main(["trace", "nets.py:build", "--input", "2x7x16"])

    assert code == 2
    assert "the model cannot take an input of shape 2x7x16" in capsys.readouterr().err
