"""``stratascope seismic`` as a user meets it."""

import json

import numpy as np
import pytest
import torch

from shots import write_pair
from stratascope.cli import main
from stratascope.seismic import build_network


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


SMALL = ["--base-channels", "2", "--batch-size", "2", "--learning-rate", "1e-2"]


def train(*more):
    return main(["seismic", "train", "CurveFault_A", "--to", "run", "--held-out", "0.25", *more])


@pytest.mark.parametrize("network", ["InversionNet", "ReconstructionNet"])
def test_what_train_leaves_is_what_test_takes(fault, capsys, network):
    trained = train("--network", network, "--epochs", "2", *SMALL)
    said = capsys.readouterr().out.splitlines()
    tested = main(
        ["seismic", "test", "CurveFault_A", "--weights", "run/best.safetensors", "--json"]
    )
    found = json.loads(capsys.readouterr().out)

    assert (trained, tested) == (0, 0)
    assert said[0].startswith(f"{network}, ")
    assert said[0].endswith("CurveFault_A, 3 samples to learn from, 1 to choose the best epoch")
    assert [line.split(":")[0] for line in said if line.startswith("epoch")] == [
        "epoch 1, step 1",
        "epoch 2, step 2",
    ]
    assert said[-1].endswith("run/best.safetensors")
    assert (found["network"], found["trained_on"]) == (network, "CurveFault_A")
    assert found["samples"] == 2
    assert found["mae_m_s"] == pytest.approx(1500 * found["mae"])


def test_a_training_goes_on_with_resume(fault, capsys):
    train("--epochs", "1", *SMALL)
    refused = train("--epochs", "2", *SMALL)
    sentence = capsys.readouterr().err
    train("--epochs", "2", "--resume", "--json", *SMALL)
    history = json.loads(capsys.readouterr().out)["history"]

    assert refused == 1
    assert "already holds a training" in sentence
    assert "pass --resume to go on" in sentence
    assert [row["step"] for row in history] == [1, 2]


def test_a_training_begins_with_weights(fault):
    from stratascope import open_store

    recorded = ["--epochs", "1", "--sites", "deconv6", "--every", "1", *SMALL]
    train(*recorded)
    main(["seismic", "train", "CurveFault_A", "--to", "again", "--held-out", "0.25", *recorded,
          "--weights", "run/last.safetensors"])  # fmt: skip
    after = open_store("run/activations.zarr", step=1)["deconv6"][:]
    before = open_store("again/activations.zarr", step=0)["deconv6"][:]

    assert np.array_equal(before, after)


def test_scores_of_each_sample_are_saved(fault, capsys):
    train("--epochs", "1", *SMALL)
    words = ["--weights", "run/last.safetensors", "--split", "all", "--save", "out/scores.csv"]
    main(["seismic", "test", "CurveFault_A", *words])
    lines = (fault.parent / "out" / "scores.csv").read_text().splitlines()

    assert lines[0] == "sample,mae,rmse,ssim,mae_m_s"
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "1", "2", "3", "4", "5"]


def test_sites_are_recorded_while_it_trains(fault):
    from stratascope import open_store

    train("--epochs", "2", "--sites", "convblock8", "--every", "1", *SMALL)

    assert open_store("run/activations.zarr").steps == (0, 1, 2)


def test_it_is_said_where_the_metrics_go(fault, capsys, monkeypatch):
    for installed in (True, False):
        monkeypatch.setattr("stratascope.cli._seismic_train.has_tensorboard", lambda i=installed: i)
        main(["seismic", "train", "CurveFault_A", "--to", str(installed), "--held-out", "0.5",
              "--epochs", "1", *SMALL])  # fmt: skip
        told = "metrics go to metrics.csv only: for TensorBoard, pip install tensorboard"
        assert (told in capsys.readouterr().out) is not installed


def test_a_published_checkpoint_is_tested(fault, capsys):
    torch.save({"model": build_network("InversionNet", 2).state_dict(), "epoch": 3}, "net.pth")
    code = main(["seismic", "test", "CurveFault_A", "--weights", "net.pth", "--base-channels", "2"])
    said = capsys.readouterr().out

    assert code == 0
    assert "InversionNet on 2 samples of CurveFault_A, trained on what its file does not" in said
    assert "MAE 0." in said


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["train", "CurveFault_A"], 2, "--to"),
        (["train", "CurveFault_A", "--to", "x", "--network", "UNet"], 2, "--network"),
        (["train", "CurveFault_A", "--to", "x", "--batch-size", "1"], 2, "must be at least 2"),
        (["train", "CurveFault_A", "--to", "x", "--samples", "9"], 1, "must be 1 to 4, as many"),
        (["train", "CurveFault_A", "--to", "x", "--held-out", "1"], 1, "leave samples on both"),
        (["train", "CurveFault_A", "--to", "x", "--device", "moon"], 2, "--device must be one of"),
        (["test", "CurveFault_A", "--weights", "no.pt"], 1, "weights file no.pt does not exist"),
        (["test", "CurveFault_A", "--weights", "no.pt", "--save", "x.txt"], 2, "a .csv file"),
        (["test", "nowhere", "--weights", "no.pt"], 1, "nowhere must be a folder"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(fault, capsys, words, code, sentence):
    assert main(["seismic", *words]) == code

    said = capsys.readouterr().err
    assert sentence in " ".join(said.replace("│", " ").split())
    assert "Traceback" not in said
    assert [path.name for path in fault.parent.iterdir()] == ["CurveFault_A"]


def test_the_weights_of_another_network_are_one_sentence(fault, capsys):
    train("--epochs", "1", *SMALL)
    words = ["--weights", "run/last.safetensors", "--network", "ReconstructionNet"]
    code = main(["seismic", "test", "CurveFault_A", *words])

    assert code == 1
    assert "must hold the state of this ReconstructionNet, got that" in capsys.readouterr().err
