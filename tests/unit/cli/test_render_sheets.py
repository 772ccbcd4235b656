import json
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


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(180, 3)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of three steps, and one of another network."""
    folder = tmp_path_factory.mktemp("stores")
    data = np.random.default_rng(0).normal(size=(6, 1, 12, 12)).astype("float32").cumsum(2)
    for step in (0, 100, 200):
        model = network()
        with torch.no_grad():
            model[0].weight *= 1 + step / 100
        words = {"to": folder / "a.zarr", "step": step, "progress": False}
        ss.extract(model, data, ["0:in", "**"], **words)
    ss.extract(network(1)[:3], data[:, :, :10], "0", to=folder / "narrow.zarr", progress=False)
    ss.extract(network(1)[:3], data, "**", to=folder / "b.zarr", progress=False)
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    for name in ("a.zarr", "b.zarr", "narrow.zarr"):
        shutil.copytree(made / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words):
    return main(["render", *words.split()])


def bases():
    return sorted(Path("a.zarr/basis").glob("*.npz"))


def test_a_site_is_drawn_in_colours_of_all_samples_which_stay(here, capsys):
    assert run("a.zarr --site 0 --method pca-oklab --sample 4 --to one.png") == 0
    path, said = capsys.readouterr().out.splitlines()
    (file,) = bases()
    basis = render.ColorBasis.load(file)
    assert path == "one.png"
    assert f"basis {basis.id[:8]} of pca-oklab for '0', fitted now, and saved" in said
    assert said.endswith(basis.fidelity.caption)
    stored = ss.open_store("a.zarr")["0"]
    assert basis.id == render.fit_basis(stored, origin=basis.about["origin"]).id
    told = render.read_provenance("one.png")
    assert (told["site"], told["step"], told["sample"]) == ("0", 200, 4)
    assert told["basis"]["id"] == basis.id
    words = {"title": "0 · sample 4", "caption": "a.zarr · step 200"}
    wanted = render.rgb(stored[4], basis=basis, **words)
    assert np.array_equal(np.asarray(Image.open("one.png")), wanted)

    # Again, and by its id: the same basis, nothing new, the same bytes.
    for words in ("--basis fit", f"--basis {basis.id[:6]}", "--method pca-oklab"):
        assert run(f"a.zarr --site 0 {words} --sample 4 --to again.png") == 0
        assert "from the store" in capsys.readouterr().out
        assert Path("again.png").read_bytes() == Path("one.png").read_bytes()
    assert bases() == [file]
    assert ss.open_store("a.zarr").verify(deep=True) == []


def test_all_positions_are_compared_with_one_that_is_named(here, capsys):
    values = ss.open_store("a.zarr")["0"]
    for place in ((3, 4), (5, 6)):
        words = f"--site 0 --method cosine --target {place[0]},{place[1]} --sample 1"
        assert run(f"a.zarr {words} --to one.png") == 0
        assert "fitted now" in capsys.readouterr().out
        told = render.read_provenance("one.png")["basis"]
        basis = render.ColorBasis.load(Path("a.zarr/basis") / f"{told['id']}.npz")
        target = values[1][(slice(None), *place)]
        assert np.allclose(basis.parameters["target"], target / np.abs(target).max())
        again = words if place == (3, 4) else f"--site 0 --method cosine --basis {told['id']}"
        assert run(f"a.zarr {again} --to one.png") == 0
        assert "from the store" in capsys.readouterr().out


def test_each_method_and_step_has_a_basis_of_its_own(here, capsys):
    for words in ("--method energy", "--method bands", "--basis fit --step 0"):
        assert run(f"a.zarr --site 0 {words} --to x.png") == 0
    loaded = [render.ColorBasis.load(path) for path in bases()]
    origins = sorted((basis.method, basis.about["origin"]["steps"]) for basis in loaded)
    assert origins == [("bands", "200"), ("energy", "200"), ("pca-oklab", "0")]
    assert capsys.readouterr().out.count("fitted now") == 3


@pytest.mark.filterwarnings("default")
def test_without_a_site_all_that_have_places_are_drawn(here, capsys):
    assert run("a.zarr --method pca-oklab --to pictures --json") == 0
    printed = capsys.readouterr()
    names = json.loads(printed.out)
    assert [Path(name).stem for name in names][1:] == ["0", "1", "2"]
    assert "'3' of shape (180,) has no channels with 1 to 3 axes, and is not drawn" in printed.err


def test_a_strip_has_all_layers_and_the_input(here, capsys):
    assert run("a.zarr --strip --sample 2 --to strip.png") == 0
    out = capsys.readouterr().out
    assert "2 sites without a map are left out" in out
    assert out.count("fitted now") == 3
    told = render.read_provenance("strip.png")
    assert told["sites"] == ["0", "1", "2"]
    assert sorted(told["bases"].values()) == [path.stem for path in bases()]
    with Image.open("strip.png") as image:
        assert image.width > 4 * 160
    first = Path("strip.png").read_bytes()
    assert run("a.zarr --strip --sample 2 --to strip.png") == 0
    assert "fitted now" not in capsys.readouterr().out
    assert Path("strip.png").read_bytes() == first
    assert run("a.zarr --strip --channel 3 --site [012] --to one.png") == 0
    assert render.read_provenance("one.png")["channel"] == 3


def test_a_step_that_was_written_anew_has_another_basis(here, capsys):
    run("a.zarr --site 0 --basis fit --to x.png")
    for folder in (Path("a.zarr/data.zarr/200"), Path("a.zarr/commits/200")):
        shutil.rmtree(folder)
    data = np.ones((6, 1, 12, 12), "float32")
    ss.extract(network(7), data, "0", to="a.zarr", step=200, progress=False)
    run("a.zarr --site 0 --basis fit --to x.png")
    assert capsys.readouterr().out.count("fitted now") == 2


def test_steps_share_their_colours(here, capsys):
    assert run("a.zarr --site 0 --steps all --to steps.png") == 0
    (file,) = bases()
    basis = render.ColorBasis.load(file)
    known = {"policy": "pooled", "site": "0", "place": "", "steps": "0,100,200"}
    assert basis.about["origin"].items() >= {**known, "samples": "6,6,6"}.items()
    told = render.read_provenance("steps.png")
    assert (told["steps"], told["basis"]["id"]) == ([0, 100, 200], basis.id)
    assert "fitted now" in capsys.readouterr().out
    assert run("a.zarr --site 0 --steps 0,200 --channel 1 --to channel.png") == 0
    assert render.read_provenance("channel.png")["scale"]["diverging"] is True
    assert bases() == [file]


def test_steps_are_shown_one_after_the_other(here, capsys):
    assert run("a.zarr --site 0 --steps all --to steps.gif") == 0
    with Image.open("steps.gif") as image:
        told = json.loads(image.info["comment"])
        assert image.n_frames == 3
    assert told["steps"] == [0, 100, 200]
    first = Path("steps.gif").read_bytes()
    assert run("a.zarr --site 0 --steps all --to steps.gif") == 0
    assert Path("steps.gif").read_bytes() == first
    assert run("a.zarr --site 0 --steps 0,100 --channel 0 --to steps.mp4") == 0
    assert Path("steps.mp4").stat().st_size > 1000


@pytest.mark.parametrize("other", ["b.zarr", "0"])
def test_two_stores_or_steps_are_drawn_with_their_difference(here, other, capsys):
    assert run(f"a.zarr --site 0 --diff {other} --to diff.png") == 0
    told = render.read_provenance("diff.png")
    assert (told["step"], told["other_step"]) == (200, 0)
    assert told["other"] == ("b.zarr" if other == "b.zarr" else "a.zarr")
    assert "fidelity" in capsys.readouterr().out
    assert run(f"a.zarr --site 0 --channel 2 --diff {other} --to one.png") == 0


def test_a_sample_is_found_where_the_order_is_another(here):
    data = np.random.default_rng(0).normal(size=(6, 1, 12, 12)).astype("float32").cumsum(2)
    order = [3, 1, 5, 0, 2, 4]
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.from_numpy(data)), batch_sampler=[order]
    )
    ss.extract(network(), loader, "0", to="shuffled.zarr", progress=False)
    assert run("shuffled.zarr --site 0 --sample 2 --diff a.zarr --step 0 --to diff.png") == 0
    assert render.read_provenance("diff.png")["item"] == 5


@pytest.mark.filterwarnings("default")
def test_a_damaged_basis_is_fitted_again(here, capsys):
    run("a.zarr --site 0 --basis fit --to x.png")
    (file,) = bases()
    file.write_bytes(file.read_bytes()[:-100])
    assert run("a.zarr --site 0 --basis fit --to x.png") == 0
    printed = capsys.readouterr()
    assert "fitted now" in printed.out.splitlines()[-1]
    assert "must be a colour basis" in printed.err
    assert render.ColorBasis.load(file)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--strip --steps all --to x.png", 2, "choose one of --strip, --steps"),
        ("--strip --to x.gif", 2, "--to must be a .png file for --strip"),
        ("--site 0 --steps all --to x.jpg", 2, "must be a .png or .gif or .mp4 file"),
        ("--steps all --to x.png", 2, "--steps must have one --site, got 6"),
        ("--diff b.zarr --to x.png", 2, "--diff must have one --site"),
        ("--site 0 --steps some --to x.png", 2, "--steps must be 'all' or numbers"),
        ("--site 0 --steps 0,7 --to x.png", 1, "got 7"),
        ("--site 0 --method pca --to x.png", 2, "--method must be one of pca-oklab"),
        ("--site 0 --method cosine --to x.png", 2, "--target, such as 10,20, must go with --meth"),
        (
            "--site 0 --target 1,2 --to x.png",
            2,
            "go with --method cosine, got '1,2' with None",
        ),
        ("--site 0 --method cosine --target 1 --to x.png", 2, "--target must be such as 10,20"),
        ("--site 0 --method cosine --target 1,12 --to x.png", 2, "a position of (12, 12) at '0'"),
        ("--site 0 --basis abcdef --to x.png", 2, "--basis must be 'fit', or 4 or more digits"),
        ("--site 0 --method energy --channel 1 --to x.png", 2, "--channel draws one channel"),
        ("--site 0 --method energy --scope channel --to x.png", 2, "goes with one picture of each"),
        ("--strip --percentile 90 --to x.png", 2, "goes with one picture of each"),
        ("--strip --basis abcdef --to x.png", 2, "where each site has its own"),
        ("--strip --site 3 --channel 0 --to x.png", 1, "has no channels with 1 to 3 axes"),
        ("--site 3 --method energy --to x.png", 1, "has no channels with 1 to 3 axes"),
        ("--site 0 --diff 200 --to x.png", 2, "it is the same"),
        ("--site 0 --diff narrow.zarr --to x.png", 2, "in the same shape (5, 12, 12)"),
        ("--site 3 --diff b.zarr --to x.png", 2, "holds no site '3'"),
        ("--site 0 --steps all --channel 9 --to x.png", 2, "--channel must be 0 to 4 at '0'"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(here, capsys, words, code, said):
    assert run(f"a.zarr {words}") == code
    assert said in capsys.readouterr().err
    assert not list(here.glob("x.*"))


def test_a_basis_of_another_method_or_site_is_refused(here, capsys):
    run("a.zarr --site 0 --basis fit --to one.png")
    start = bases()[0].stem[:8]
    assert run(f"a.zarr --site 0 --basis {start} --method energy --to x.png") == 2
    assert "--method must be that of the basis" in capsys.readouterr().err
    assert run(f"a.zarr --site 0:in --basis {start} --to x.png") == 2
    assert "--basis must be of 1 channels for '0:in'" in capsys.readouterr().err
    assert run("a.zarr --site 0 --basis 0000 --to x.png") == 2
    assert f"{start} (pca-oklab for '0')" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["moto"], indirect=True)
def test_from_a_bucket_all_is_drawn_and_no_basis_is_kept(url, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = np.random.default_rng(0).normal(size=(4, 1, 12, 12)).astype("float32")
    ss.extract(network()[:3], data, "**", to=url, progress=False)
    assert run(f"{url} --site 0 --method energy --to one.png") == 0
    assert "fitted now, and not kept, as the store is in a bucket" in capsys.readouterr().out
    assert run(f"{url} --strip --to strip.png") == 0
    assert render.read_provenance("strip.png")["store"] == url
