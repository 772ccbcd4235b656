import json

import pytest

from stratascope.cli import main
from stratascope.cli._diagnose_lr import parse_rates
from stratascope.diagnose import OptimizerComparison, Sweep

SCRIPT = """
from stratascope.diagnose import describe_optimizer

def make_run(lr, seed, optimizer="sgd"):
    power = len(describe_optimizer(optimizer).name)
    x = 1.0 + seed % 10 / 100
    for _ in range(8):
        yield {"loss": abs(x), "score": -x * x}
        x -= lr * power * abs(x) ** (power - 1) * (1 if x > 0 else -1)

number = 3
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "training.py"
    path.write_text(SCRIPT)
    return f"{path}:make_run"


def test_a_sweep_is_printed_drawn_and_kept(script, tmp_path, capsys):
    words = ["diagnose", "lr", script, "--to", str(tmp_path / "out"), "--rates", "0.01:10:4"]

    assert main([*words, "--seeds", "2", "--maximize", "score"]) == 0

    printed = capsys.readouterr().out
    assert "Sweep(4 rates from 0.01 to 10, 2 seeds: 4 finished, 4 diverged, 0 crashed)" in printed
    found = Sweep.load(tmp_path / "out" / "sweep.zarr")
    assert found.maximize == ("score",)
    assert (tmp_path / "out" / "sweep.png").exists()


def test_a_sweep_goes_on_and_prints_json_that_others_can_read(script, tmp_path, capsys):
    words = ["diagnose", "lr", script, "--to", str(tmp_path / "out"), "--json"]
    assert main([*words, "--rates", "0.1"]) == 0
    capsys.readouterr()

    assert main([*words, "--rates", "0.1,10"]) == 1
    assert "holds runs already: go on with them with --resume" in capsys.readouterr().err

    assert main([*words, "--rates", "0.1,10", "--resume"]) == 0
    plain = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert plain["outcomes"] == [["finished"], ["diverged"]]
    assert plain["metrics"]["loss"]["final"][1] == [None]


def test_optimizers_are_compared(script, tmp_path, capsys):
    words = ["diagnose", "optimizers", script, "--to", str(tmp_path / "out"), "--json"]

    assert main([*words, "--names", "sgd", "lamb", "--rates", "0.01,0.1", "--seeds", "4"]) == 0

    plain = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert plain["verdicts"]["loss"] == [
        {"name": "lamb", "best": "sgd", "p": pytest.approx(2 / 70), "differs": True}
    ]
    found = OptimizerComparison.load(tmp_path / "out" / "comparison.zarr")
    assert list(found.runs) == ["sgd", "lamb"]
    assert (tmp_path / "out" / "comparison.png").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["lr", "{}", "--rates", "1:2"], "--rates must be lowest:highest:count, .* got '1:2'"),
        (["lr", "{}", "--rates", "a,b"], "numbers with commas between them, got 'a,b'"),
        (["lr", "nowhere.py:make_run"], "the file nowhere.py does not exist"),
        (["lr", "{}.number"], "training.py has no 'make_run.number'"),
        (["optimizers", "{}", "--names", "sgdd"], r"got 'sgdd': .* Did you mean 'sgd'\?"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(script, tmp_path, capsys, words, sentence):
    import re

    words = [word.format(script) for word in words]

    assert main(["diagnose", *words, "--to", str(tmp_path / "out")]) in (1, 2)

    assert re.search(sentence, capsys.readouterr().err)


def test_what_is_no_function_is_refused(script, tmp_path, capsys):
    target = script.replace("make_run", "number")

    assert main(["diagnose", "lr", target, "--to", str(tmp_path)]) == 2

    assert "training.py:number must be a function, got int" in capsys.readouterr().err


def test_rates_are_read_as_they_are_meant():
    assert parse_rates("1e-4:1:5") == [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    assert parse_rates("0.5") == [0.5]
