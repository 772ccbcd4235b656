import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.optim.optimizer import _global_optimizer_pre_hooks

import stratascope as ss
from stratascope.cli import main
from stratascope.cli._run import arrange_words

HELPER = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.enc = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU())
        self.head = nn.Conv1d(4, 1, 3)
        # As one asks a layer for the shape that it gives.
        self.width = self.enc(torch.zeros(1, 1, 20)).shape[-1]

    def forward(self, x, *, scale=1.0):
        return self.head(self.enc(x * scale))

def train(net, steps, log="losses.txt"):
    torch.manual_seed(1)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    loss_of = nn.MSELoss()
    losses = []
    for _ in range(steps):
        y = net(torch.randn(3, 1, 20), scale=0.5)
        loss = loss_of(y, torch.zeros_like(y))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    with open(log, "w") as file:
        file.write(repr(losses))
"""
TRAIN = """
import helper_of_run as helper
if __name__ == "__main__":
    net = helper.Net()
    helper.train(net, 12)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "helper_of_run.py").write_text(HELPER)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("helper_of_run", None)
    assert nn.Module.__call__ is nn.Module._wrapped_call_impl
    assert os._exit.__module__ == "posix"
    assert not torch_module._global_forward_pre_hooks
    assert not torch_module._global_forward_hooks


@pytest.fixture
def run(here):
    def run_script(text, *args, sites=("enc.*",), to="run.zarr", every=5):
        (here / "scripts" / "train.py").write_text(text)
        ours = [word for site in sites for word in ("--sites", site)]
        ours += ["--every", str(every), "--to", to]
        return main(["run", *ours, "scripts/train.py", *args])

    return run_script


def test_a_script_is_recorded_without_a_change(run, here, capsys):
    code = run(TRAIN)

    store = ss.open_store("run.zarr")
    assert code == 0
    assert store.steps == (0, 5, 10)
    assert list(store) == ["enc.0", "enc.1"]
    assert store["enc.1"].shape == (3, 4, 18)
    assert capsys.readouterr().err == (
        "stratascope: Net: 12 forwards seen, 3 kept (0, 5, 10) in run.zarr\n"
    )


def test_the_training_is_the_same_and_the_values_are_its_own(run, here):
    run(TRAIN)
    ours = Path("losses.txt").read_text()
    subprocess.run([sys.executable, "scripts/train.py"], check=True)

    torch.manual_seed(0)
    conv = nn.Conv1d(1, 4, 3)
    torch.manual_seed(1)
    expected = conv(torch.randn(3, 1, 20) * 0.5).detach().numpy()
    assert Path("losses.txt").read_text() == ours
    np.testing.assert_array_equal(ss.open_store("run.zarr", step=0)["enc.0"][:], expected)


def test_a_script_finds_what_it_finds_when_started_by_itself(run, here, capsys):
    text = "import sys; print(sys.argv, sys.path[0], __name__, __file__)"
    argv, path = sys.argv, list(sys.path)
    run(text, "--lr", "0.1", "--to", "its own", "--debug", "--", "-x")

    words = ["scripts/train.py", "--lr", "0.1", "--to", "its own", "--debug", "--", "-x"]
    expected = f"{words} {here / 'scripts'} __main__ scripts/train.py\n"
    assert capsys.readouterr().out == expected
    assert (sys.argv, sys.path) == (argv, path)


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no more')", 1, "no more\n"),
        ("raise KeyError('of the script')", 1, "KeyError: 'of the script'\n"),
        ("net(torch.zeros(1, 7, 7))", 1, "to have 1 channels, but got 7 channels instead\n"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt\n"),
    ],
)
def test_what_was_captured_is_kept_however_the_script_ends(run, capsys, ending, code, said):
    text = f"import torch\nimport helper_of_run as h\nnet = h.Net()\nh.train(net, 7)\n{ending}\n"
    found = run(text)

    err = capsys.readouterr().err
    assert found == code
    assert f"{said}stratascope: Net: 7 forwards seen, 2 kept (0, 5) in run.zarr\n" in err
    assert ss.open_store("run.zarr").complete
    assert "cli/_run.py" not in err
    assert "runpy" not in err


def test_an_error_in_the_syntax_is_the_scripts(run, capsys):
    assert run("def (:\n") == 1
    assert "SyntaxError" in capsys.readouterr().err


def test_the_way_out_that_asks_nobody_finishes_the_store_first(here):
    script = here / "scripts" / "train.py"
    script.write_text(TRAIN + "    import os; os._exit(9)\n")
    words = ["run", "--sites", "enc.*", "--every", "5", "--to", "run.zarr", str(script)]
    ended = subprocess.run(
        [sys.executable, "-m", "stratascope", *words], capture_output=True, text=True
    )

    assert ended.returncode == 9
    assert ended.stderr.endswith("12 forwards seen, 3 kept (0, 5, 10) in run.zarr\n")
    assert ss.open_store("run.zarr").complete


def test_worker_processes_do_not_finish_the_store(run, capsys):
    text = """
import torch
import helper_of_run as helper
from torch.utils.data import DataLoader
net = helper.Net()
loader = DataLoader(torch.randn(12, 1, 20), batch_size=2, num_workers=2,
                    multiprocessing_context="fork")
for epoch in range(2):
    for x in loader:
        net(x)
"""
    code = run(text)

    assert code == 0
    assert capsys.readouterr().err.endswith("12 forwards seen, 3 kept (0, 5, 10) in run.zarr\n")


@pytest.mark.filterwarnings("ignore:the model is compiled")
@pytest.mark.parametrize("wrap", ["nn.DataParallel(net)", "torch.compile(net, backend='eager')"])
def test_a_wrapped_network_is_found(run, wrap):
    text = f"""
import torch
from torch import nn
import helper_of_run as helper
net = helper.Net()
helper.train({wrap}, 6)
"""
    code = run(text)

    assert code == 0
    assert ss.open_store("run.zarr").steps == (0, 5)


def test_a_network_that_runs_once_counts_where_there_is_no_other(run):
    run("import torch, helper_of_run as h\nh.Net()(torch.zeros(2, 1, 20))", sites=["head"])

    assert ss.open_store("run.zarr")["head"].shape == (2, 1, 16)


def test_a_second_network_gets_a_store_beside_the_first(run, capsys):
    text = "import helper_of_run as h\nh.train(h.Net(), 2)\nh.train(h.Net(), 3)\n"
    run(text, every=1)

    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(" in ")[2] for line in lines] == ["run.zarr", "run-2.zarr"]
    assert ss.open_store("run.zarr").steps == (0, 1)
    assert ss.open_store("run-2.zarr").steps == (0, 1, 2)


def test_sites_that_nothing_has_are_told_with_near_names(run, capsys):
    code = run(TRAIN, sites=["encoder.*", "haed"])

    err = capsys.readouterr().err
    assert code == 2
    assert "Net: no site of the model matches 'haed'. Did you mean 'head'?" in err
    assert "Net: no site of the model matches 'encoder.*'" in err
    assert err.startswith("stratascope: the script was stopped before its optimizer's first step")
    assert not Path("run.zarr").exists()
    assert not Path("losses.txt").exists()


def test_one_of_two_sites_is_enough_to_go_on(run, capsys):
    code = run(TRAIN, sites=["head", "haed"])

    assert code == 0
    err = capsys.readouterr().err
    assert "stratascope: not found so far: Net: no site of the model matches 'haed'" in err
    assert err.count("Did you mean 'head'?") == 2
    assert list(ss.open_store("run.zarr")) == ["head"]


def test_an_optimizer_without_a_network_is_let_go_on(run, capsys):
    text = """
import torch
optimiser = torch.optim.SGD([torch.ones(1, requires_grad=True)])
optimiser.step()
print("done")
"""
    assert run(text) == 2
    assert "done" in capsys.readouterr().out
    assert not _global_optimizer_pre_hooks


def test_a_script_without_a_network_is_told(run, capsys):
    assert run("print(1)") == 2
    assert "nothing was captured at 'enc.*': no network" in capsys.readouterr().err


def test_a_capture_that_fails_does_not_stop_the_training(run, capsys):
    text = """
import helper_of_run as helper
net = helper.Net()
net.unused = helper.nn.Sequential(helper.nn.ReLU())
helper.train(net, 12)
"""
    code = run(text, sites=["unused.0"])

    err = capsys.readouterr().err
    assert code == 1
    assert "Net is recorded no further: nothing was captured at 'unused.0'" in err
    assert len(eval(Path("losses.txt").read_text())) == 12


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--sites", "a", "--to", "b", "nowhere.py"], "the script nowhere.py does not exist"),
        (["--sites", "a", "--to", "b", "--every", "0", "x.py"], "--every must be at least 1"),
        (["--sites", "a:grad", "--to", "b", "x.py"], "must be values of a forward"),
    ],
)
def test_wrong_usage_is_told_before_the_script_runs(here, capsys, words, sentence):
    Path("x.py").write_text("open('ran', 'w')")

    assert main(["run", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not Path("ran").exists()


def test_a_store_that_is_there_is_left_alone(run, capsys):
    run(TRAIN)
    code = run("open('ran', 'w')")

    assert code == 1
    assert "choose another folder with --to" in capsys.readouterr().err
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("words", "arranged"),
    [
        ("--to a x.py --to b", "--to a -- x.py --to b"),
        ("--to=a --debug x.py -- b", "--to=a --debug -- x.py -- b"),
        ("--to a -- x.py b", "--to a -- x.py b"),
        ("x.py --lr 1 --sites s --to a", "--sites s --to a -- x.py --lr 1"),
        ("x.py --to b -- --to a", "--to a -- x.py --to b"),
        ("x.py --to b -- c -- --to a", "--to a -- x.py --to b -- c"),
        ("x.py", "-- x.py"),
        ("--help", "--help"),
        ("", ""),
    ],
)
def test_our_options_stand_before_the_script_or_last(words, arranged):
    assert arrange_words(["run", *words.split()]) == ["run", *arranged.split()]
