"""The command line as a user meets it: exit codes, sentences, nothing overwritten."""

import hashlib
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import stratascope
from stratascope.cli import main
from stratascope.cli._doctor import _USED_EXTRAS

_MODELS = """
import numpy as np
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv1d(4, 2, 3))

def windows():
    return np.random.default_rng(0).normal(size=(70, 1, 32)).astype("float32")

def nothing():
    return windows()[:0]

def images():
    return np.zeros((3, 5, 8, 8), "float32")

def broken():
    raise RuntimeError("no such dataset")

def many():
    return np.random.default_rng(0).normal(size=(2000, 1, 512)).astype("float32")

a_list = [1, 2]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(_MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return tmp_path


def extract(*more: str, data: str = "nets.py:windows", sites: str = "**", to: str = "a.zarr"):
    return ["extract", "nets.py:build", data, "--sites", sites, "--to", to, *more]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_sites_of_a_model_are_listed_with_class_shape_and_parameters(here, capsys):
    code = main(["sites", "nets.py:build", "--input", "2x1x32"])

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert lines[0] == ["site", "class", "output", "parameters"]
    assert lines[1] == ["0", "Conv1d", "(2,", "4,", "30)", "16"]


def test_sites_give_json_to_programs(here, capsys):
    main(["sites", "nets.py:build", "Conv1d[2]", "--input", "2x1x32", "--json"])

    (site,) = json.loads(capsys.readouterr().out)
    assert (site["site"], site["shapes"]) == ("2", {"": [2, 2, 28]})


def test_extract_and_render_make_a_picture_that_knows_its_origin(here, capsys):
    from stratascope.render import read_provenance

    first = main(extract())
    second = main(["render", "a.zarr", "--site", "0", "--sample", "69", "--to", "out/layer.png"])

    origin = read_provenance("out/layer.png")
    assert (first, second) == (0, 0)
    assert (origin["site"], origin["sample"], origin["store"]) == ("0", 69, "a.zarr")
    assert "70 samples" in capsys.readouterr().out


@pytest.mark.parametrize(("length", "stored"), [("longest", 30), ("50", 48)])
def test_extract_takes_samples_of_several_lengths(here, capsys, length, stored):
    (here / "uneven.py").write_text(
        "import torch\nfrom torch.utils.data import DataLoader\n"
        "def signals(): return DataLoader([torch.ones(1, n) for n in (32, 20, 32)], batch_size=3)\n"
    )
    code = main(extract("--length", length, data="uneven.py:signals", sites="0"))

    assert code == 0
    assert f"0  (3, 4, {stored}) float32" in capsys.readouterr().out


def test_extract_stores_codes_of_a_byte(here, capsys):
    assert main(extract("--dtype", "uint8", "--codec", "compact")) == 0
    assert "0  (70, 4, 30) float32 (stored as uint8)" in capsys.readouterr().out
    assert main(["render", "a.zarr", "--site", "0", "--to", "layer.png"]) == 0


def test_one_channel_of_a_map_is_drawn_as_a_map(here):
    from PIL import Image

    from stratascope import open_store, render

    torch.save(torch.nn.Conv2d(1, 3, 3).state_dict(), "conv.pt")
    (here / "maps.py").write_text(
        "import numpy as np, torch\n"
        "def build(): return torch.nn.Conv2d(1, 3, 3)\n"
        "def images(): return np.random.default_rng(0).normal(size=(4, 1, 9, 7)).astype('f4')\n"
    )
    main(["extract", "maps.py:build", "maps.py:images", "--sites", "model", "--to", "m.zarr"])
    code = main(["render", "m.zarr", "--sample", "3", "--channel", "2", "--to", "one.png"])
    words = {"title": "model · sample 3 · channel 2", "caption": "m.zarr · step 0"}
    expected = render.map(open_store("m.zarr")["model"][3, 2], **words)

    assert code == 0
    assert np.array_equal(np.asarray(Image.open("one.png")), expected)


def test_a_class_of_sites_is_drawn(here, capsys):
    main(extract())
    capsys.readouterr()

    assert main(["render", "a.zarr", "--site", "Conv1d[*]", "--to", "all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ["all/0.png", "all/2.png"]


def test_render_without_a_site_draws_every_one(here, capsys):
    main(extract())
    capsys.readouterr()
    code = main(["render", "a.zarr", "--to", "pictures", "--json"])

    assert code == 0
    assert json.loads(capsys.readouterr().out) == [f"pictures/{site}.png" for site in "012"]


def test_weights_are_loaded(here):
    state = torch.nn.Sequential(
        torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv1d(4, 2, 3)
    ).state_dict()
    torch.save(state, "trained.pt")
    torch.save({"epoch": 3, "state_dict": state}, "checkpoint.pt")
    np.save("data.npy", np.ones((4, 1, 32), "float32"))
    codes = [
        main(extract("--weights", name, data="data.npy", to=f"{name}.zarr"))
        for name in ("trained.pt", "checkpoint.pt")
    ]

    assert codes == [0, 0]
    assert files_of(here / "trained.pt.zarr" / "data.zarr" / "0" / "2").keys()


def test_a_store_knows_what_the_command_was_given(here, monkeypatch):
    from stratascope import open_store

    state = torch.nn.Sequential(
        torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv1d(4, 2, 3)
    ).state_dict()
    torch.save(state, "trained.pt")
    monkeypatch.setattr(sys, "argv", ["stratascope", "extract"])
    main(extract("--weights", "trained.pt"))
    known = open_store("a.zarr").provenance

    assert (known["model"], known["data"]) == ("nets.py:build", "nets.py:windows")
    digest = hashlib.sha256(Path("trained.pt").read_bytes()).hexdigest()
    assert known["weights"] == {"file": "trained.pt", "sha256": digest}
    assert known["command"] == "stratascope extract"


def test_safetensors_are_loaded(here):
    from safetensors.torch import save_file

    model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv1d(4, 2, 3))
    save_file(model.state_dict(), "trained.safetensors")

    assert main(extract("--weights", "trained.safetensors")) == 0


def test_doctor_tells_versions_devices_extras_and_space(capsys):
    code = main(["doctor", "--json"])

    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert report["packages"]["torch"] == torch.__version__
    assert report["extras"]["demo"] == []
    assert report["free_bytes"] > 0
    assert report["copy_on_write"]


def test_doctor_knows_every_extra_that_an_error_says_to_install():
    source = Path(stratascope.__file__).parent
    named = {
        extra
        for path in source.rglob("*.py")
        for extra in re.findall(r'require\([^)]*extra="(\w+)"', path.read_text())
    } - {"none"}

    assert named == set(_USED_EXTRAS)


def test_doctor_speaks_to_people_too(capsys):
    main(["doctor"])

    assert "snapshots are copy-on-write" in capsys.readouterr().out


BAD_INPUT = {
    "no colon": (["sites", "nets.py"], 2, "must be named as package.module:function"),
    "no file": (["sites", "nowhere.py:build"], 2, "the file nowhere.py does not exist"),
    "no module": (["sites", "no_such_package:build"], 2, "no_such_package does not import"),
    "no function": (["sites", "nets.py:biuld"], 2, "Did you mean 'build'?"),
    "no model": (["sites", "nets.py:a_list"], 2, "must give a torch.nn.Module, got list"),
    "model that fails": (["sites", "nets.py:broken"], 2, "could not be called"),
    "no site": (extract(sites="encoder.*"), 2, "no site of the model matches 'encoder.*'"),
    "near site": (["sites", "nets.py:build", "conv1d[*]"], 2, "Did you mean 'Conv1d[*]'"),
    "no shape": (
        ["sites", "nets.py:build", "--input", "3xtwo"],
        2,
        "a shape must be whole numbers",
    ),
    "wrong input": (
        ["sites", "nets.py:build", "--input", "1x7x32"],
        2,
        "the model cannot take an input of shape 1x7x32",
    ),
    "no weights": (extract("--weights", "no.pt"), 2, "the weights file no.pt does not exist"),
    "other weights": (extract("--weights", "other.pt"), 2, "do not fit Sequential: 4 missing"),
    "weights cut off": (extract("--weights", "cut.pt"), 2, "cut.pt is no file of weights"),
    "code in weights": (extract("--weights", "code.pt"), 2, "its code is not run"),
    "wrong shape": (extract(data="nets.py:images"), 1, "the model cannot take samples 0 to 2"),
    "no samples": (extract(data="nets.py:nothing"), 1, "data must have at least one sample"),
    "data that fail": (extract(data="nets.py:broken"), 2, "no such dataset"),
    "no data file": (extract(data="no.npy"), 2, "the data file no.npy does not exist"),
    "batch of none": (extract("--batch-size", "0"), 2, "--batch-size must be at least 1, got 0"),
    "length of none": (
        extract("--length", "long"),
        2,
        "--length must be a number from 1, or longest",
    ),
    "codec of none": (extract("--codec", "zip"), 2, "--codec"),
    "type of none": (extract("--dtype", "int3"), 1, "dtype must be a floating-point type"),
    "gradients": (extract(sites="0:grad"), 1, "capture gradients with stratascope.tap"),
    "another's folder": (extract(to="taken"), 1, "is not a stratascope store"),
    "another run": (
        extract(sites="0", to="full.zarr"),
        1,
        "(complete) of another run, which differs in the sites (was",
    ),
    "the same step": (extract(to="full.zarr"), 1, "already holds step 0 (complete)"),
    "other settings": (
        extract("--resume", "--dtype", "float16", to="full.zarr"),
        1,
        "dtype (was None, is 'float16')",
    ),
    "no store": (["render", "nowhere", "--to", "x.png"], 1, "nowhere does not exist"),
    "stored nowhere": (
        ["render", "full.zarr", "--site", "5", "--to", "x.png"],
        2,
        "holds no site '5'",
    ),
    "sample of none": (
        ["render", "full.zarr", "--sample", "70", "--to", "x.png"],
        2,
        "--sample must be 0 to 69, got 70",
    ),
    "channel of none": (
        ["render", "full.zarr", "--site", "0", "--channel", "4", "--to", "x.png"],
        2,
        "--channel must be 0 to 3 at '0', got 4",
    ),
    "step of none": (["render", "full.zarr", "--step", "7", "--to", "x.png"], 1, "got 7"),
    "no picture file": (["render", "full.zarr", "--site", "0", "--to", "x.txt"], 2, ".png"),
    "no command": (["extrakt"], 2, "extract"),
    "no option": (["sites", "nets.py:build", "--imput", "1"], 2, "imput"),
    "demo in another's folder": (["demo", "--to", "taken"], 1, "is left alone"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_sentence_and_nothing_is_overwritten(case, here, capsys):
    words, code, sentence = BAD_INPUT[case]
    torch.save({"weight": torch.zeros(3)}, "other.pt")
    torch.save(torch.nn.ReLU(), "code.pt")
    Path("cut.pt").write_bytes(Path("other.pt").read_bytes()[:-200])
    (here / "taken").mkdir()
    (here / "taken" / "letter.txt").write_text("mine")
    if "full.zarr" in words:
        main(extract(to="full.zarr"))
    before = files_of(here)
    capsys.readouterr()
    found = main(words)

    said = capsys.readouterr().err
    after = {name: content for name, content in files_of(here).items() if ".pyc" not in name}
    assert found == code
    assert sentence in " ".join(said.replace("│", " ").split())
    assert "Traceback" not in said
    assert after == {name: content for name, content in before.items() if ".pyc" not in name}


def test_debug_shows_the_traceback(here, capsys):
    code = main(["sites", "nowhere.py:build", "--debug"])

    assert code == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_stopped_run_says_how_to_go_on(here, capsys, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        error = KeyboardInterrupt()
        error.add_note("512 samples are committed")
        raise error

    monkeypatch.setattr("stratascope.cli._extract.extract_to_store", stop)
    code = main(extract())

    assert code == 1
    assert capsys.readouterr().err == "stopped\n512 samples are committed\n"


def test_a_full_disk_is_one_sentence_and_the_run_can_go_on(here, capsys):
    words = extract(data="nets.py:many", to="big.zarr")
    command = [sys.executable, "-m", "stratascope", *words]

    def limit_files() -> None:
        # A file may not grow beyond this: the system's own way to be out of space.
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    full = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit_files)
    resumed = main([*words, "--resume"])

    assert full.returncode == 1
    assert "is full" in full.stderr
    assert "--resume" in full.stderr
    assert "Traceback" not in full.stderr
    assert resumed == 0
    assert "2000 samples" in capsys.readouterr().out


def test_reading_into_a_closed_pipe_is_no_error(here):
    command = f"{sys.executable} -m stratascope doctor | head -1"
    run = subprocess.run(command, shell=True, capture_output=True, text=True)

    assert run.returncode == 0
    assert "Traceback" not in run.stderr
