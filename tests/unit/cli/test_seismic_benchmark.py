"""``stratascope seismic benchmark`` as a user meets it."""

import json

import pytest

from shots import write_pair
from stratascope.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, samples in (("2_1_0", 10), ("2_1_32", 2)):
        write_pair(tmp_path / "CurveFault_A", number, samples=samples)
    return tmp_path


def test_two_networks_come_out_with_intervals_and_a_report(folder, capsys):
    words = ["seismic", "benchmark", "--to", "out", "--data", "CurveFault_A", "--samples", "10"]
    words += ["--epochs", "1", "--seeds", "2", "--base-channels", "1", "--batch-size", "4"]
    words += ["--warmup-epochs", "0.5", "--milestones", "1", "2"]

    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"] == "out/report.md"
    assert found["intervals"].keys() == {"InversionNet", "ReconstructionNet"}
    assert found["settings"]["training_samples"] == 9
    assert found["settings"]["recipe"]["milestones"] == [1, 2]

    # Again, all is there already.
    assert main(words) == 0
    said = capsys.readouterr().out
    assert [line.split("  ")[0] for line in said.splitlines()[1:5]] == [
        "InversionNet",
        "ReconstructionNet",
        "ReconstructionNet less InversionNet, by seed",
        "guess: mean map",
    ]
    assert "pictures: out/report.md" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--to", "out", "--seeds", "1"], "--seeds must be at least 2, for an interval, got 1"),
        (["--to", "out", "--samples", "0"], "--samples must be at least 1, got 0"),
        (["--to", "out", "--batch-size", "1"], "batch_size must be at least 2, got 1"),
        ([], "--to"),
    ],
)
def test_a_wrong_word_gets_one_sentence(folder, capsys, words, sentence):
    assert main(["seismic", "benchmark", *words]) == 2

    said = capsys.readouterr().err
    assert sentence in " ".join(said.replace("│", " ").split())
    assert not (folder / "out").exists()
