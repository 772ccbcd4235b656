import json
import sys

import pytest

from stratascope.cli import main
from stratascope.diagnose import Curvature, Landscape

_PROBLEM = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(12, 3)
    metrics = {"mse": nn.functional.mse_loss, "mae": nn.functional.l1_loss}
    return model, metrics, [(x[:6], x[:6, :1]), (x[6:], x[6:, :1])]

def save():
    model, *_ = build()
    for k in range(4):
        torch.save(model.state_dict(), f"{k}.pt")
        with torch.no_grad():
            for value in model.parameters():
                value += 0.1 * torch.randn_like(value)

def wrong():
    return build()[0]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "problem.py").write_text(_PROBLEM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("problem", None)


def diagnose(*words):
    command, target, *rest = words
    return main(["diagnose", command, f"problem.py:{target}", "--to", "out", *rest])


def test_a_landscape_is_written_drawn_and_told(here, capsys):
    assert diagnose("landscape", "build", "--steps", "3", "--maximize", "mae") == 0

    told = capsys.readouterr().out
    found = Landscape.load(here / "out/landscape.zarr")
    assert found["mse"].shape == (3, 3)
    assert f"mse     {found.centre['mse'][0]:.4g}" in told
    assert "Pareto front: " in told
    assert (here / "out/landscape.png").exists()
    assert (here / "out/tradeoffs.png").exists()


def test_a_refined_landscape_as_json_goes_on_where_it_was(here, capsys):
    words = ("landscape", "build", "--steps", "3", "--axes", "1", "--refine", "2", "--json")
    assert diagnose(*words) == 0
    first = json.loads(capsys.readouterr().out)
    assert diagnose(*words) == 1
    assert "go on with it by --resume" in capsys.readouterr().err
    assert diagnose(*words, "--resume") == 0

    assert json.loads(capsys.readouterr().out) == first
    assert first["settings"]["samples"] == 12
    assert Landscape.load(here / "out/landscape.zarr").rounds.max() == 2


@pytest.mark.parametrize(
    ("words", "axes"),
    [
        (["--directions", "hessian"], 2),
        (["--trajectory", "0.pt", "1.pt", "2.pt", "3.pt"], 2),
        (["--between", "0.pt", "3.pt"], 1),
    ],
)
def test_the_directions_can_be_chosen(here, words, axes):
    sys.path.insert(0, str(here))
    __import__("problem").save()

    assert diagnose("landscape", "build", "--steps", "2", *words) == 0
    assert len(Landscape.load(here / "out/landscape.zarr").axes) == axes


def test_curvature_is_written_drawn_and_told(here, capsys):
    assert diagnose("curvature", "build", "--radius", "0.1", "--probes", "2") == 0

    told = capsys.readouterr().out
    found = Curvature.load(here / "out/curvature.zarr")
    assert f"eigenvalue 1       {found.eigenvalues[0]:.6g}" in told
    assert "sharpness          at least" in told
    assert (here / "out/curvature.png").exists()
    assert diagnose("curvature", "build") == 2
    assert "--to must have no curvature in it" in capsys.readouterr().err


def test_curvature_as_json_has_no_nan(here, capsys):
    assert diagnose("curvature", "build", "--loss", "mae", "--probes", "1", "--json") == 0

    told = json.loads(capsys.readouterr().out)
    assert told["sharpness"] is None
    assert len(told["eigenvalues"]) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("landscape", "wrong"), "must give a model, metrics by name and batches, as a tuple"),
        (("landscape", "build", "--steps", "1"), "--steps must be at least 2, got 1"),
        (("landscape", "build", "--refine", "-1"), "--refine must be from 0 to 5, got -1"),
        (("landscape", "build", "--workers", "0"), "--workers must be at least 1, got 0"),
        (("landscape", "build", "--maximize", "ssim"), "--maximize must name metrics of mse, mae"),
        (("landscape", "build", "--between", "a.pt"), "--between must be two files, got 1"),
        (
            ("landscape", "build", "--between", "a.pt", "--trajectory", "b.pt"),
            "--trajectory and --between are two ways to move",
        ),
        (("curvature", "build", "--loss", "msa"), "--loss must name a metric, got 'msa'. Did you"),
        (("curvature", "build", "--top", "0"), "--top must be at least 1, got 0"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(here, capsys, words, message):
    assert diagnose(*words) == 2
    assert message in capsys.readouterr().err
