import warnings

import ml_dtypes
import numpy as np
import pytest

from stratascope import render
from stratascope.errors import DataError
from stratascope.render import _colours, _page
from stratascope.render._background import suppress


def layer(seed=0, channels=12, shape=(14, 18)):
    rng = np.random.default_rng(seed)
    hidden = rng.gamma(0.8, size=(4, *shape)) * np.array([4, 2, 1, 0.5]).reshape(
        4, *[1] * len(shape)
    )
    mixing = np.random.default_rng(9).normal(size=(channels, 4))
    return np.tensordot(mixing, hidden, 1)


@pytest.fixture
def said(monkeypatch):
    """What the last picture said of itself."""
    told = {}

    def listen(body, **arguments):
        told.update(arguments, body=body, text=" · ".join(filter(None, arguments["notes"])))
        return _page.compose(body, **arguments)

    monkeypatch.setattr("stratascope.render._rgb.compose", listen)
    return told


def test_each_position_is_a_block_in_its_colour(said):
    maps = layer()
    basis = render.fit_basis(maps[None])
    render.rgb(maps, basis=basis)
    body = said["body"][1:-1, 1:-1]
    zoom = body.shape[0] // 14
    assert body.shape == (14 * zoom, 18 * zoom, 3)
    assert (body[::zoom, ::zoom] == basis.paint(maps, axis=0)).all()
    assert (body[zoom - 1 :: zoom, zoom - 1 :: zoom] == basis.paint(maps, axis=0)).all()


def test_it_says_what_made_it_and_how_far_to_trust_it(said):
    maps = layer()
    basis = render.fit_basis(np.stack([maps, layer(1)]))
    render.rgb(maps, basis=basis)
    assert len(maps[0].flat) < 512  # of more positions, so many are looked at
    assert f"pca-oklab (basis {basis.id[:8]}), fitted to 504 positions" in said["text"]
    assert basis.fidelity.caption in said["text"]
    assert f"fidelity here {basis.measure(maps, axis=0).shepard:.2f}" in said["text"]
    render.rgb(maps)
    assert "fitted to 252 positions, this picture alone" in said["text"]


def test_pictures_of_one_basis_can_be_compared(said):
    maps, other = layer(), layer(1)
    other[:, 3, 4] = maps[:, 5, 6]
    basis = render.fit_basis(maps[None])
    render.rgb(maps, basis=basis)
    first = said["body"]
    render.rgb(other, basis=basis)
    zoom = (first.shape[0] - 2) // 14
    assert (said["body"][1 + 3 * zoom, 1 + 4 * zoom] == first[1 + 5 * zoom, 1 + 6 * zoom]).all()


def test_nan_is_hatched_and_counted(said):
    maps = layer()
    maps[2, 1, 1], maps[0, 2, 2], maps[0, 3, 3] = np.nan, np.inf, -np.inf
    render.rgb(maps)
    assert [name for name, _ in said["legend"]] == [
        "NaN: 1 position",
        "+Inf: 1 position",
        "-Inf: 1 position",
    ]
    zoom = (said["body"].shape[0] - 2) // 14
    tile = said["body"][1 + zoom : 1 + 2 * zoom, 1 + zoom : 1 + 2 * zoom].reshape(-1, 3)
    assert {tuple(pixel) for pixel in tile.tolist()} == {_colours.NAN_LIGHT, _colours.NAN_DARK}
    assert tuple(said["body"][1 + 2 * zoom, 1 + 2 * zoom]) == _colours.PLUS_INFINITY
    assert tuple(said["body"][1 + 3 * zoom, 1 + 3 * zoom]) == _colours.MINUS_INFINITY
    assert "1.2 % not finite and left out" in said["text"]


def test_a_constant_is_grey_and_says_so(said):
    render.rgb(np.full((3, 8, 8), 4.2))
    pixels = said["body"][1:10, 1:10].reshape(-1, 3)
    assert (pixels == pixels[0, 0]).all()
    assert 100 < pixels[0, 0] < 160
    assert "constant" in said["text"]
    # Drawn on a basis that knows more, it is grey too, and not some colour among others.
    render.rgb(np.full((12, 8, 8), 4.2), basis=render.fit_basis(layer()[None]))
    assert (said["body"][1:10, 1:10] == pixels[0, 0]).all()


def test_one_channel_is_a_ramp_of_lightness(said):
    render.rgb(np.arange(12.0).reshape(1, 3, 4))
    zoom = (said["body"].shape[0] - 2) // 3
    pixels = said["body"][1:-1:zoom, 1:-1:zoom].reshape(-1, 3).astype(int)
    assert (np.ptp(pixels, axis=1) <= 1).all()
    assert (np.diff(pixels[:, 0]) > 0).all()
    assert "only 1 component to show, on lightness" in said["text"]


def test_two_channels_have_no_red_and_green(said):
    rng = np.random.default_rng(0)
    render.rgb(rng.normal(size=(2, 9, 9)) * np.array([3, 1])[:, None, None])
    assert "only 2 components to show, on lightness and blue to yellow" in said["text"]
    from stratascope.render._oklab import srgb_to_oklab

    zoom = (said["body"].shape[0] - 2) // 9
    lab = srgb_to_oklab(said["body"][1:-1:zoom, 1:-1:zoom] / 255)
    inner = np.abs(lab[..., 2]) < 0.05
    assert np.abs(lab[..., 1][inner]).max() < 0.02


def test_a_signal_is_a_strip(said):
    maps = layer(shape=(50,))
    basis = render.fit_basis(maps[None])
    render.rgb(maps, basis=basis)
    strip = said["body"][1:-1, 1:-1]
    assert strip.shape[0] >= 16
    step = strip.shape[1] // 50
    assert (strip[0, ::step] == basis.paint(maps, axis=0)).all()


def test_a_volume_is_a_tile_for_each_slice(said):
    maps = layer(shape=(6, 9, 9))
    basis = render.fit_basis(maps[None])
    picture = render.rgb(maps, basis=basis)
    colours = basis.paint(maps, axis=0)
    found = np.unique(picture.reshape(-1, 3), axis=0)
    wanted = np.unique(colours.reshape(-1, 3), axis=0)
    assert (found[:, None] == wanted).all(2).any(0).all()
    assert "12 channels of 6 x 9 x 9" in said["text"]


def test_the_background_is_darkened_and_never_black(said):
    maps = np.zeros((4, 10, 10)) + np.random.default_rng(0).normal(size=(4, 10, 10)) * 0.01
    maps[:, 3:7, 3:7] += np.random.default_rng(1).uniform(2, 5, (4, 4, 4))
    for how in ("otsu", "border", ~(np.abs(maps) > 1).any(0)):
        render.rgb(maps, background=how)
        zoom = (said["body"].shape[0] - 2) // 10
        pixels = said["body"][1:-1:zoom, 1:-1:zoom].astype(int)
        dark = (np.ptp(pixels, axis=2) <= 1) & (pixels.max(2) < 80)
        assert dark.sum() == 84
        assert not dark[3:7, 3:7].any()
        assert pixels.min() > 20
        assert "84 % darkened as background" in said["text"]


def test_an_empty_mask_darkens_nothing(said):
    maps = layer()
    render.rgb(maps)
    plain = said["body"]
    render.rgb(maps, background=np.zeros((14, 18), bool))
    assert (said["body"] == plain).all()
    render.rgb(maps, background=np.ones((14, 18), bool))
    assert "100 % darkened" in said["text"]


def test_the_threshold_belongs_to_the_basis():
    maps = layer()
    basis = render.fit_basis(maps[None])
    columns = maps.reshape(12, -1)
    weak = columns * 0.01
    coloured, note = suppress(basis.colour(weak), "otsu", weak, basis, (14, 18))
    assert note.startswith("100 % darkened")
    assert (coloured.lab[1:] == 0).all()


@pytest.mark.parametrize(
    ("values", "options", "match"),
    [
        (np.ones(3), {}, r"must have shape \(C, H, W\), .* put the channels first"),
        (np.ones((1, 1, 2, 2, 2)), {}, "pick a sample"),
        (layer(), {"background": "black"}, "background must be 'otsu', 'border' or a mask"),
        (
            layer(),
            {"background": np.zeros((3, 3), bool)},
            "a background mask must be bool of shape",
        ),
        (layer(), {"background": np.zeros((14, 18))}, "got float64"),
        (layer(), {"method": "tsne"}, "method must be one of pca-oklab, .*got 'tsne'"),
        (layer(), {"preprocess": "pca"}, "preprocess must be one of none, l2, standardise"),
        (layer(), {"vividness": 2}, "vividness must be from 0 to 1, got 2"),
        (layer(), {"parts": 0}, "parts must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(values, options, match):
    with pytest.raises(ValueError, match=match):
        render.rgb(values, **options)


def test_a_basis_has_its_own_options():
    basis = render.fit_basis(layer()[None])
    with pytest.raises(ValueError, match="method, seed must not be given beside a basis"):
        render.rgb(layer(), basis=basis, method="nmf", seed=3)
    with pytest.raises(TypeError, match="basis must be a ColorBasis"):
        render.rgb(layer(), basis="a1b2")
    with pytest.raises(DataError, match="must have 12 channels along axis 0"):
        render.rgb(layer(channels=5), basis=basis)


def odd_inputs():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(8, 16, 16))
    spotted = maps.copy()
    spotted[:, 3:6, 3:9], spotted[1, 9, 9:], spotted[2, 11, 9:] = np.nan, np.inf, -np.inf
    outlier = maps.copy()
    outlier[:, 5, 5] = 1e9
    sparse = np.where(rng.random((8, 16, 16)) < 0.02, maps, 0)
    return {
        "plain": maps,
        "1 channel": maps[:1],
        "2 channels": maps[:2],
        "3 channels, rank 1": np.tile(maps[:1], (3, 1, 1)),
        "rank 2": np.einsum("kc,khw->chw", rng.normal(size=(2, 8)), maps[:2]),
        "5000 channels": rng.normal(size=(5000, 6, 6)),
        "1 x 1": maps[:, :1, :1],
        "1 x 2": maps[:, :1, :2],
        "1 row": maps[:, :1],
        "1 column": maps[..., :1],
        "long row": rng.normal(size=(4, 1, 5000)),
        "signal": maps[:, 0],
        "volume": rng.normal(size=(4, 5, 6, 7)),
        "no channels": maps[:0],
        "no rows": maps[:, :0],
        "no columns": maps[:, :, :0],
        "constant": np.full((8, 16, 16), 3.0),
        "zeros": np.zeros((8, 16, 16)),
        "channels constant": np.tile(np.arange(8.0)[:, None, None], (1, 16, 16)),
        "all NaN": np.full((8, 16, 16), np.nan),
        "all Inf": np.full((8, 16, 16), np.inf),
        "NaN and Inf": spotted,
        "one finite": np.where(np.arange(256).reshape(16, 16) == 77, maps, np.nan),
        "outlier": outlier,
        "sparse": sparse,
        "huge": maps * 1e307,
        "tiny": maps * 5e-320,
        "offset": maps + 1e7,
        "float16": maps.astype(np.float16),
        "bfloat16": maps.astype(ml_dtypes.bfloat16),
        "int8": (maps * 40).astype(np.int8),
        "uint8": (np.abs(maps) * 80).astype(np.uint8),
        "bool": maps > 0,
        "complex": maps + 1j * maps[::-1],
        "big endian": maps.astype(">f4"),
        "masked": np.ma.masked_greater(maps, 1.5),
        "not contiguous": maps[::2, ::-1, ::3],
        "nested lists": maps[:3, :4, :4].tolist(),
    }


@pytest.mark.parametrize("name", odd_inputs())
def test_an_odd_input_is_drawn_without_a_murmur(name):
    values = odd_inputs()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = render.rgb(values, title=name)
        again = render.rgb(values, title=name)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert (picture == again).all()


def test_an_outlier_is_nothing_to_the_other_positions():
    maps = layer(shape=(64, 64))
    wrecked = maps.copy()
    wrecked[:, 20, 20] = 1e9
    before, after = (render.fit_basis(given[None]) for given in (maps, wrecked))
    others = np.ones((64, 64), bool)
    others[20, 20] = False
    # With a basis kept, nothing changes; with one fitted anew, no more than rounding.
    kept = before.paint(wrecked, axis=0)[others]
    assert (kept == before.paint(maps, axis=0)[others]).all()
    anew = after.paint(wrecked, axis=0)[others].astype(int)
    assert np.abs(anew - kept).max() <= 1
