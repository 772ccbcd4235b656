"""``stratascope seismic simulate`` as a user meets it."""

import json

import numpy as np
import pytest

from stratascope.cli import main

SMALL = ["seismic", "simulate", "CurveFault_A", "--samples", "2", "--test-samples", "1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "CurveFault_A"


def test_what_is_simulated_can_be_looked_at_as_openfwi(folder, capsys):
    assert main([*SMALL, "--per-file", "1", "--seed", "7"]) == 0
    assert "stratascope seismic info CurveFault_A" in capsys.readouterr().out

    assert main(["seismic", "info", "CurveFault_A", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["splits"]
    assert [found[split]["samples"] for split in ("train", "test")] == [2, 1]
    assert json.loads((folder / "simulation.json").read_text())["seed"] == 7


def test_a_stopped_run_goes_on_when_asked(folder, capsys):
    assert main(SMALL) == 0
    meant = np.load(folder / "data97.npy")
    (folder / "data97.npy").unlink()

    assert main(SMALL) == 1
    assert "continue it with --resume" in capsys.readouterr().err
    assert main([*SMALL, "--resume"]) == 0
    np.testing.assert_array_equal(np.load(folder / "data97.npy"), meant)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--samples", "4", "--workers", "0"], 2, "--workers must be at least 1, got 0"),
        (["--samples", "0"], 1, "samples must be at least 1, got 0"),
        ([], 2, "--samples"),
    ],
)
def test_a_wrong_word_gets_one_sentence(folder, capsys, words, code, sentence):
    assert main(["seismic", "simulate", "CurveFault_A", *words]) == code

    said = capsys.readouterr().err
    assert sentence in " ".join(said.replace("│", " ").split())
    assert not folder.exists()
