"""``stratascope seismic`` as a user meets it."""

import json

import numpy as np
import pytest

from shots import write_pair
from stratascope.cli import main


@pytest.fixture
def fault(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "CurveFault_A"
    for seed, number in enumerate(["2_1_0", "2_1_1", "2_1_32"]):
        write_pair(folder, number, seed=seed)
    return folder


def test_info_counts_the_pairs_of_each_split(fault, capsys):
    code = main(["seismic", "info", "CurveFault_A"])

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert lines == [
        ["CurveFault_A:", "CurveFault_A"],
        [],
        ["split", "pairs", "samples"],
        ["train", "2", "of", "96", "4"],
        ["test", "1", "of", "12", "2"],
    ]


def test_info_lists_all_that_is_broken(fault, capsys):
    (fault / "vel2_1_0.npy").unlink()
    (fault / "seis2_1_1.npy").write_bytes(b"")
    code = main(["seismic", "info", "CurveFault_A", "--json"])

    found = json.loads(capsys.readouterr().out)
    assert code == 1
    assert [sentence.partition(" must")[0] for sentence in found["broken"]] == [
        "CurveFault_A/seis2_1_0.npy",
        "CurveFault_A/seis2_1_1.npy",
    ]
    assert found["splits"]["train"] == {"pairs": 0, "published": 96, "samples": 0}


def test_info_reads_every_value_if_asked(fault, capsys):
    seismic, velocity = np.load(fault / "seis2_1_0.npy"), np.load(fault / "vel2_1_0.npy")
    for number in ("2_1_1", "2_1_32"):
        (fault / f"seis{number}.npy").unlink()
        (fault / f"vel{number}.npy").unlink()
    main(["seismic", "info", "CurveFault_A", "--deep"])
    said = capsys.readouterr().out

    low, high = seismic.min(), seismic.max()
    assert f"seismic: {low:.2f} to {high:.2f}, published -26.48 to 52.32" in said
    assert f"velocity: {velocity.min():.2f} to {velocity.max():.2f}, published 1500.00" in said


def test_info_finds_nan_only_by_reading(fault, capsys):
    values = np.load(fault / "seis2_1_1.npy", mmap_mode="r+")
    values[1, 2, 3, 4] = np.nan
    values.flush()

    assert main(["seismic", "info", "CurveFault_A"]) == 0
    assert main(["seismic", "info", "CurveFault_A", "--deep"]) == 1
    assert "got NaN or infinity in sample 1: fetch the file again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["info", "nowhere"], 1, "nowhere must be a folder of OpenFWI's .npy files"),
        (["info", "CurveFault_A", "--family", "Marmousi"], 1, "no family 'Marmousi' in OpenFWI."),
        (["info"], 2, "--folder"),
        (["nifo"], 2, "info"),
    ],
)
def test_a_wrong_word_gets_one_sentence(fault, capsys, words, code, sentence):
    assert main(["seismic", *words]) == code

    said = capsys.readouterr().err
    assert sentence in " ".join(said.replace("│", " ").split())
    assert "Traceback" not in said
