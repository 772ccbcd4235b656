import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import stratascope as ss
from stratascope import render
from stratascope.cli import main
from stratascope.render import Axis

SAMPLE = 2


class Branches(nn.Module):
    """Makes of an image maps, signals, volumes and tokens."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Conv2d(1, 3, 3, padding=1)
        self.signals = nn.Conv1d(3, 4, 3, padding=1)
        self.volumes = nn.Conv3d(1, 2, 3, padding=1)
        self.tokens = nn.Linear(8, 5)

    def forward(self, image):
        maps = self.maps(image)
        signals = self.signals(maps.flatten(2))
        volumes = self.volumes(image[:, :, None].expand(-1, -1, 3, -1, -1))
        tokens = self.tokens(image.flatten(1).unflatten(1, (-1, 8)))
        return sum(part.sum() for part in (signals, volumes, tokens)).expand(len(image))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.manual_seed(0)
    images = torch.randn(4, 1, 10, 12).cumsum(-1)
    folder = tmp_path_factory.mktemp("views") / "a.zarr"
    sites = ["maps:in", "maps", "signals", "volumes", "tokens"]
    ss.extract(Branches(), images.numpy(), sites, to=folder, progress=False)
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "a.zarr")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words):
    return main(["render", "a.zarr", "--sample", str(SAMPLE), *words.split(), "--to", "x.png"])


TIME, TRACE = Axis("time", 0.004, unit="s"), Axis("trace", 25, unit="m")
PICTURES = {
    "map --site signals --axes channel,time:0.004:s": ("signals", {"axes": ("channel", TIME)}),
    "map --site maps --channel 1 --estimator mad --transform sqrt": (
        "maps",
        {"estimator": "mad", "transform": "sqrt"},
    ),
    "grid --site maps --scope channel": ("maps", {"scope": "channel"}),
    "grid --site volumes --channel 1 --percentile 90": ("volumes", {"percentile": 90}),
    "line --site signals --scope channel": ("signals", {"scope": "channel"}),
    "line --site signals --channel 3": ("signals", {"channels": [3]}),
    "slices --site volumes --at 2,9,0": ("volumes", {"at": (2, 9, 0)}),
    "slices --site volumes --at projection --axes depth:5:m,row,column": (
        "volumes",
        {"at": "projection", "axes": (Axis("depth", 5, unit="m"), "row", "column")},
    ),
    "wiggle --site signals --percentile 95": ("signals", {"percentile": 95}),
    "gather --site maps --axes time:0.004:s,trace:25:m --gain 2 --agc 0.02 --flip": (
        "maps",
        {"axes": (TIME, TRACE), "gain": 2, "agc": 0.02, "flip": True},
    ),
    "gather --site maps --style red-blue": ("maps", {"style": "red-blue"}),
    "gather --site maps --channel 0 --style wiggle": ("maps", {"style": "wiggle"}),
    "spectrogram --site signals --channel 3 --axes time:0.004:s": ("signals", {"axis": TIME}),
    "tokens --site tokens": ("tokens", {}),
    "tokens --site tokens --shape 2x7": ("tokens", {"shape": (2, 7)}),
    "overlay --site maps --channel 2 --at 3,11": ("maps", {"at": (3, 11)}),
}


@pytest.mark.parametrize("words", PICTURES)
def test_a_view_is_what_the_function_of_its_name_draws(here, words):
    site, options = PICTURES[words]
    store = ss.open_store("a.zarr")
    kind = words.split()[0]
    values, title = store[site][SAMPLE], f"{site} · sample {SAMPLE}"
    if "--channel" in words:
        channel = int(words.partition("--channel ")[2].split()[0])
        values, title = values[channel], f"{title} · channel {channel}"
    if kind == "overlay":
        options = {**options, "on": store["maps:in"][SAMPLE]}
    expected = getattr(render, kind)(values, title=title, caption="a.zarr · step 0", **options)
    assert run(f"--view {words}") == 0
    with Image.open("x.png") as image:
        assert np.array_equal(np.asarray(image), expected)
    told = render.read_provenance("x.png")
    assert (told["view"], told["site"], told["sample"]) == (kind, site, SAMPLE)


def test_a_picture_says_with_which_options_it_was_drawn(here):
    assert run("--site maps --channel 0 --view gather --agc 0.1 --axes time:0.004:s,trace") == 0
    told = render.read_provenance("x.png")
    assert told["agc"] == 0.1
    assert told["axes"][0]["unit"] == "s"
    assert run("--site maps --estimator range") == 0
    assert render.read_provenance("x.png")["scale"]["estimator"] == "range"


def test_without_a_view_volumes_are_slices_and_tokens_a_map(here):
    kinds = {"volumes": "slices", "tokens": "map", "maps": "grid", "signals": "line"}
    for site, kind in kinds.items():
        assert run(f"--site {site}") == 0
        assert render.read_provenance("x.png")["view"] == kind


def test_a_channel_of_tokens_is_the_curve_of_one_channel(here):
    assert run("--site tokens --channel 4") == 0
    values = ss.open_store("a.zarr")["tokens"][SAMPLE][:, 4]
    words = {"title": "tokens · sample 2 · channel 4", "caption": "a.zarr · step 0"}
    with Image.open("x.png") as image:
        assert np.array_equal(np.asarray(image), render.line(values, channels=[4], **words))


@pytest.mark.filterwarnings("default")
def test_without_a_site_a_view_draws_what_has_the_axes(here, capsys):
    assert main(["render", "a.zarr", "--view", "wiggle", "--to", "out"]) == 0
    printed = capsys.readouterr()
    assert printed.out.split() == ["out/signals.png", "out/tokens.png"]
    assert "'volumes' is not drawn: what --view wiggle draws must have 1 or 2 axes" in printed.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--site maps --agc 0.1", "--agc must go with --view gather, got no --view"),
        ("--site maps --view map --agc 1", "--agc must go with --view gather, got --view map"),
        ("--site maps --view map --at 1,2", "--at must go with --view slices or overlay, got"),
        ("--site maps --view gather --axes time", "--axes must be 2, such as time:0.004:s,offset"),
        ("--site volumes --view slices --axes a,b", "--axes must be 3, such as time:0.004:s,"),
        ("--site maps --view gather --axes time:fast,trace", "got 'time:fast,trace'"),
        ("--site volumes --view slices --at 1,2", "--at must be such as 3,10,20 or projection"),
        ("--site tokens --view tokens --shape 14", "--shape must be such as 14x14, got '14'"),
        ("--site maps --view map", "what --view map draws must have 2 axes, got 3 at 'maps': cho"),
        ("--site signals --view grid", "what --view grid draws must have 3 axes, got 2 at"),
        ("--site maps --channel 3", "--channel must be 0 to 2 at 'maps', got 3"),
        ("--site maps --method energy --view map", "--view goes with one picture of each site on"),
        ("--strip --transform log", "--transform goes with one picture of each site on a range"),
    ],
)
def test_what_does_not_go_together_is_told_in_one_sentence(here, capsys, words, said):
    assert run(words) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert len(printed.splitlines()) == 1
    assert not Path("x.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--view wigle", 'Did you mean "wiggle"?'),
        ("--view gather --style gray", 'Choose from: "grey", "red-blue", "wiggle"'),
        ("--transform cube", 'Choose from: "linear", "sqrt", "asinh", "log"'),
    ],
)
def test_an_unknown_choice_is_refused_with_the_choices(here, capsys, words, said):
    assert run(f"--site maps {words}") == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_an_overlay_needs_the_input(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ss.extract(Branches(), np.zeros((3, 1, 10, 12), "f4"), "maps", to="a.zarr", progress=False)
    assert run("--site maps --channel 0 --view overlay") == 2
    assert "must have the input of the network in the store" in capsys.readouterr().err
