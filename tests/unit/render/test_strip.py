import numpy as np
import pytest

from stratascope import render
from stratascope.errors import DataError
from stratascope.render import _colours, _page
from stratascope.render._panels import lay_out


@pytest.fixture
def said(monkeypatch):
    """What the last picture said of itself, and the panels that it was made of."""
    told = {}

    def listen(body, **arguments):
        told.update(arguments, body=body, text=" · ".join(filter(None, arguments["notes"])))
        return _page.compose(body, **arguments)

    def see(panels, **arguments):
        told["panels"] = {panel.name: panel for panel in panels}
        return lay_out(panels, **arguments)

    monkeypatch.setattr("stratascope.render._strip.compose", listen)
    monkeypatch.setattr("stratascope.render._panels.lay_out", see)
    return told


def maps(seed=0, shape=(16, 16), channels=6):
    hidden = np.random.default_rng(seed).normal(size=(3, *shape))
    return np.tensordot(np.random.default_rng(9).normal(size=(channels, 3)), hidden, 1)


def inside(panel):
    return panel.pixels[1:-1, 1:-1]


def test_all_layers_are_equally_high_and_the_input_comes_first(said):
    layers = {"a": maps(), "b": maps(shape=(8, 4)), "c": maps(shape=(40,))}
    render.strip(layers, input=np.ones((1, 64, 64)), height=64)
    assert list(said["panels"]) == ["input", "a", "b", "c"]
    assert {inside(panel).shape[0] for panel in said["panels"].values()} == {64}
    assert inside(said["panels"]["b"]).shape[1] == 32
    assert said["panels"]["b"].remarks[0] == "6 x 8 x 4"
    assert "all are drawn equally high · each has a basis of its own" in said["text"]


def test_each_position_has_the_colour_that_its_basis_gives_it(said):
    layers = {"a": maps(), "b": maps(1, (8, 8))}
    bases = {name: render.fit_basis(layer[None]) for name, layer in layers.items()}
    render.strip(layers, basis=bases, height=32)
    for name, layer in layers.items():
        step = 32 // layer.shape[1]
        painted = bases[name].paint(layer, axis=0)
        assert (inside(said["panels"][name])[::step, ::step] == painted).all()
        assert bases[name].id[:8] in said["panels"][name].remarks[-1]
        assert "fidelity" in said["panels"][name].remarks[-1]
    # Without bases it fits the same ones itself.
    with_bases = said["body"]
    render.strip(layers, height=32)
    assert (said["body"] == with_bases).all()


def test_the_steps_of_a_training_share_their_colours(said):
    steps = {0: maps(), 100: maps(1)}
    bases = render.fit_bases({step: layer[None] for step, layer in steps.items()})
    render.strip(steps, basis=bases, height=16)
    assert f"colours of all: {bases[0].caption}" in said["text"]
    assert bases[0].fidelity.caption in said["text"]
    assert (inside(said["panels"]["100"]) == bases[0].paint(steps[100], axis=0)).all()


def test_single_maps_have_a_range_of_their_own_or_share_one(said):
    layers = {"a": np.arange(64.0).reshape(8, 8), "b": np.arange(64.0).reshape(8, 8) / 100}
    render.strip(layers, single=True, height=16)
    assert (inside(said["panels"]["a"]) == inside(said["panels"]["b"])).all()
    assert said["panels"]["b"].remarks[-1].startswith("0 to 0.627")
    assert said.get("key") is None
    render.strip(layers, single=True, scale=render.Scale(0, 63), height=16)
    weak = inside(said["panels"]["b"]).reshape(-1, 3)
    assert (weak == _colours.sequential()[:4, None]).all(2).any(0).all()
    assert "colours of all: 0 to 63 (fixed" in said["text"]
    assert said["key"].high == "63"


def test_an_input_of_three_channels_is_the_image_that_it_is(said):
    image = np.random.default_rng(0).integers(0, 256, (3, 16, 16))
    image[0, 0, :2] = 0, 255
    render.strip({"a": maps()}, input=image, height=16)
    assert (inside(said["panels"]["input"]) == image.transpose(1, 2, 0)).all()
    assert said["panels"]["input"].remarks[-1] == "red, green, blue, 0 to 255"
    for other in (maps(), np.ones(30), np.ones((1, 30)), np.ones((4, 9, 9, 9))):
        render.strip({"a": maps()}, input=other, height=16)
        assert list(said["panels"]) == ["input", "a"]


def test_what_is_not_finite_is_hatched_and_counted_over_all_panels(said):
    first, second = maps(), maps(1)
    first[0, 0, 0] = first[3, 1, 1] = second[0, 0, 0] = np.nan
    second[0, 1, 1], second[0, 2, 2] = np.inf, -np.inf
    render.strip({"a": first, "b": second}, height=64)
    legend = [name for name, _ in said["legend"]]
    assert legend == ["NaN: 3 positions", "+Inf: 1 position", "-Inf: 1 position"]
    tile = inside(said["panels"]["a"])[:4, :4].reshape(-1, 3).tolist()
    assert {tuple(pixel) for pixel in tile} == {_colours.NAN_LIGHT, _colours.NAN_DARK}
    render.strip({"a": first[0], "b": second[0]}, single=True, height=64)
    assert [name for name, _ in said["legend"]] == [
        "NaN: 2 positions",
        "+Inf: 1 position",
        "-Inf: 1 position",
    ]


def test_a_constant_layer_is_grey(said):
    render.strip({"a": np.full((3, 8, 8), 4.2)}, height=16)
    assert (inside(said["panels"]["a"])[0] == _colours.CONSTANT).all()
    render.strip({"a": np.full((8, 8), 4.2)}, single=True, height=16)
    assert (inside(said["panels"]["a"])[0] == _colours.CONSTANT).all()


def test_what_does_not_fit_is_left_out_and_said(said):
    layer = maps(shape=(100, 20))
    render.strip({"a": layer}, basis=(basis := render.fit_basis(layer[None])), height=50)
    assert said["panels"]["a"].remarks[2] == "50 of 100 rows, 12 of 20 columns drawn"
    wanted = basis.paint(layer, axis=0)[::2][:, np.arange(12) * 20 // 12]
    assert (inside(said["panels"]["a"]) == wanted).all()


def test_of_a_volume_the_middle_slice_is_drawn(said):
    volume = maps(shape=(5, 8, 8))
    basis = render.fit_basis(volume[None])
    render.strip({"a": volume}, basis=basis, height=16)
    assert "slice 2 of 0 to 4" in said["panels"]["a"].remarks
    assert (inside(said["panels"]["a"])[::2, ::2] == basis.paint(volume[:, 2], axis=0)).all()


@pytest.mark.parametrize(
    "layer",
    [
        np.zeros((3, 0, 4)),
        np.zeros((0, 4, 4)),
        np.ones(12),
        np.full((2, 3, 3), np.nan),
        np.full((2, 3, 3), np.inf),
        np.full((2, 3, 3), 1e308),
        np.array([[[1e308, -1e308], [5e-324, 0]]]),
        np.ones((5000, 1, 1)),
        np.ones((2, 1, 3000)) * np.arange(3000),
        np.ones((2, 3000, 1)) * np.arange(3000)[:, None],
        np.arange(18, dtype=np.int8).reshape(2, 3, 3),
        np.arange(18).reshape(2, 3, 3) > 9,
        np.arange(18).reshape(2, 3, 3) * 1j,
        np.arange(18).reshape(2, 3, 3).astype(np.float16),
    ],
)
def test_odd_layers_are_drawn(layer):
    picture = render.strip({"odd": layer, "even": maps()}, input=layer, height=40)
    assert picture.dtype == np.uint8
    flat = layer[0] if layer.ndim > 1 and len(layer) else layer
    assert render.strip({"odd": flat}, single=True, height=40).shape[2] == 3


def test_the_same_layers_give_the_same_bytes():
    layers = {"a": maps(), "b": maps(1)}
    assert render.strip(layers).tobytes() == render.strip(dict(layers)).tobytes()


def test_wrong_arguments_are_refused():
    layer = maps()
    basis = render.fit_basis(layer[None])
    for arguments, error, message in (
        ({"layers": {}}, ValueError, "layers must hold at least one"),
        ({"height": 4}, ValueError, "height must be 16 to 1024"),
        ({"single": True, "basis": basis}, ValueError, "must not be given with single=True"),
        ({"single": True, "method": "energy"}, ValueError, "must not be given with single=True"),
        ({"scale": render.Scale(0, 1)}, ValueError, "scale must be None where channels"),
        ({"basis": basis, "method": "energy"}, ValueError, "method must not be given beside"),
        ({"basis": {"b": basis}}, ValueError, "one for each layer, got none for a"),
        ({"basis": "pca"}, TypeError, "basis must be a ColorBasis"),
        ({"layers": {"a": layer[:2]}, "basis": basis}, DataError, "must have 6 channels"),
        ({"layers": {"a": np.ones((2,) * 5)}}, ValueError, r"'a' must have shape .* pick a sample"),
        ({"layers": {"a": np.float64(3)}}, ValueError, "'a' must have shape"),
        ({"layers": {"a": ["x"]}}, TypeError, "must be numbers"),
    ):
        with pytest.raises(error, match=message):
            render.strip(**{"layers": {"a": layer}, **arguments})
