import sys
import types

import numpy as np
import pytest

from stratascope import render
from stratascope.errors import DataError, MissingExtraError
from stratascope.render import _colours
from stratascope.render._bands import evaluate
from stratascope.render._methods import METHODS
from stratascope.render._oklab import srgb_to_oklab
from stratascope.render._scalars import fixed_hues

# UMAP compiles itself for half a minute; it is tested on its own below.
QUICK = [name for name in METHODS if name != "umap"]


def layer(seed=0, positive=False):
    """Four samples of ten channels, made of four patterns."""
    rng = np.random.default_rng(seed)
    hidden = rng.gamma(0.5, size=(4, 12, 12, 4)) * [4, 2, 1, 0.5]
    mixing = np.random.default_rng(9).normal(size=(4, 10))
    return np.moveaxis(hidden @ (np.abs(mixing) if positive else mixing), -1, 1)


def blobs(sizes=(60, 40, 20)):
    """Rows in three clusters, and which is whose."""
    rng = np.random.default_rng(0)
    centres = np.array([[5, 0, 0, 0], [0, 5, 0, 0], [0, 0, 5, 5.0]])
    label = np.repeat(np.arange(3), sizes)
    return centres[label] + 0.1 * rng.normal(size=(len(label), 4)), label


def fitted(method, maps, **options):
    if method == "cosine":
        options["target"] = maps[0, :, 5, 5]
    return render.fit_basis(maps, method=method, **options)


@pytest.mark.parametrize("method", QUICK)
def test_it_gives_the_same_bytes_every_time(method, tmp_path):
    maps = layer()
    basis = fitted(method, maps)
    again = fitted(method, maps[::-1].copy(), samples=[3, 2, 1, 0]) if method != "cosine" else basis
    loaded = render.ColorBasis.load(basis.save(tmp_path))
    colours = basis.paint(maps, axis=1)
    assert basis.id == again.id == loaded.id
    assert (loaded.paint(maps, axis=1) == colours).all()
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) > 5


@pytest.mark.parametrize("method", QUICK)
@pytest.mark.parametrize("preprocess", ["none", "l2", "standardise"])
def test_the_size_of_the_values_is_nothing_to_the_colours(method, preprocess):
    maps = layer()
    one, other = (fitted(method, scale * maps, preprocess=preprocess) for scale in (1, 2.0**200))
    away = one.paint(maps, axis=1).astype(int) - other.paint(2.0**200 * maps, axis=1)
    assert np.abs(away).max() <= 1


@pytest.mark.parametrize("method", QUICK)
@pytest.mark.parametrize(
    "maps",
    [
        np.zeros((2, 3, 4, 4)),
        np.ones((1, 1, 1, 1)),
        np.full((1, 3, 2, 2), np.nan),
        np.random.default_rng(0).normal(size=(1, 1, 3, 3)),
        np.random.default_rng(0).normal(size=(1, 2, 5, 5)),
        np.random.default_rng(0).normal(size=(1, 40, 2, 2)),
    ],
    ids=["zeros", "one value", "all NaN", "one channel", "two channels", "few positions"],
)
def test_it_takes_what_there_is(method, maps):
    options = {"target": np.ones(maps.shape[1])} if method == "cosine" else {}
    basis = render.fit_basis(maps, method=method, **options)
    assert basis.paint(maps, axis=1).shape == (len(maps), *maps.shape[2:], 3)


def test_more_vividness_is_more_chroma_of_the_weak_components():
    maps = layer()
    chroma = []
    for vividness in (0.0, 0.25, 0.75):
        basis = render.fit_basis(maps, vividness=vividness)
        lab = srgb_to_oklab(basis.paint(maps, axis=1) / 255)
        chroma.append(np.hypot(lab[..., 1], lab[..., 2]).std() / lab[..., 0].std())
    assert chroma == sorted(chroma)
    vivid = render.fit_basis(maps, method="pca-vivid")
    assert (vivid.paint(maps, axis=1) == basis.paint(maps, axis=1)).all()
    faithful = render.fit_basis(maps, vividness=0.0)
    assert faithful.fidelity.shepard > vivid.fidelity.shepard


def test_the_dino_colours_are_those_of_its_notebook():
    from sklearn.decomposition import PCA

    maps = layer()
    rows = np.moveaxis(maps, 1, -1).reshape(-1, 10)
    whitened = PCA(3, whiten=True).fit_transform(rows)
    known = 1 / (1 + np.exp(-2 * whitened)) * 255
    found = render.fit_basis(maps, method="pca-dino").paint(rows)
    # The notebook leaves the signs to chance.
    for band in range(3):
        away = [np.abs(found[:, band] - k) for k in (known[:, band], 255 - known[:, band])]
        assert min(np.quantile(one, 0.99) for one in away) < 1.6


def test_independent_directions_are_found():
    rng = np.random.default_rng(0)
    hidden = rng.laplace(size=(3000, 3)) ** 3
    hidden = np.sign(hidden) * np.abs(hidden) ** (1 / 3)
    rows = hidden @ (np.eye(3) + 0.3 * rng.normal(size=(3, 3)))
    basis = render.fit_basis(rows, method="ica")
    found = (rows - basis.parameters["mean"]) @ basis.parameters["loadings"]
    alike = np.abs(np.corrcoef(found.T, hidden.T)[:3, 3:])
    assert (alike.max(1) > 0.98).all()
    assert sorted(alike.argmax(1)) == [0, 1, 2]


def test_bands_are_the_chosen_channels_with_a_stored_stretch():
    maps = layer()
    basis = render.fit_basis(maps, method="bands", bands=("c3", "c1 - c0", "abs(c2) / 2"))
    wanted = np.stack([maps[:, 3], maps[:, 1] - maps[:, 0], np.abs(maps[:, 2]) / 2], -1)
    low, high = np.quantile(wanted.reshape(-1, 3), [0.02, 0.98], axis=0)
    known = ((wanted - low) / (high - low)).clip(0, 1) * 255
    assert np.abs(basis.paint(maps, axis=1) - known).max() < 2.1
    half = basis.paint(maps[:1] / 2, axis=1).astype(int)
    assert np.abs(half - basis.paint(maps[:1], axis=1)).max() > 20
    assert basis.about["notes"] == ["red c3 · green c1 - c0 · blue abs(c2) / 2"]


@pytest.mark.parametrize(
    "expression",
    ["c4", "c", "x1", "c0 ** 2", "open('a')", "c0.real", "c0 if 1 else c1", "("],
)
def test_a_band_is_arithmetic_and_no_more(expression):
    with pytest.raises(ValueError, match="a band must be made of channels c0 to c3, numbers"):
        evaluate(expression, np.ones((4, 2)))


def test_a_band_that_divides_by_zero_has_no_colour_there():
    rows = np.array([[1.0, 2.0], [1.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    basis = render.fit_basis(rows, method="bands", bands=("c0", "c0", "c0 / c1"))
    assert basis.paint(rows)[3].tolist() == list(_colours.NAN_LIGHT)
    assert basis.paint(rows)[1, 2] == 255


def test_three_bands_are_needed():
    with pytest.raises(ValueError, match=r"bands must be three expressions .*got \['c1'\]"):
        render.fit_basis(layer(), method="bands", bands=["c1"])


def test_the_hue_is_the_strongest_channel():
    rows = 5 * np.eye(4)[np.arange(400) % 4] + 1e-3 * np.random.default_rng(0).random((400, 4))
    basis = render.fit_basis(rows, method="argmax-hue")
    lab = srgb_to_oklab(basis.paint(rows) / 255)
    hues = fixed_hues(4)
    for place, channel in enumerate(basis.parameters["channels"]):
        seen = lab[channel::4, 1:].mean(0)
        assert seen @ hues[place] > 0.95 * np.linalg.norm(seen) * np.linalg.norm(hues[place])
    # Where two are equally strong, neither leads.
    even = srgb_to_oklab(basis.paint([[5.0, 5.0, 0, 0]]) / 255)[0]
    assert np.hypot(*even[1:]) < 0.01
    assert [name for name, _ in basis.about["legend"]] == [
        f"channel {c}" for c in basis.parameters["channels"]
    ]


def test_a_channel_of_larger_numbers_does_not_win_everywhere():
    rows = np.random.default_rng(0).normal(size=(400, 4))
    larger = rows * [1, 64, 1, 1 / 64]
    even, uneven = (
        render.fit_basis(given, method="argmax-hue").paint(given) for given in (rows, larger)
    )
    assert np.array_equal(even, uneven)


def test_channels_that_answer_alike_have_neighbouring_hues():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 900))
    rows = np.stack([one, other, one, other], 1) + 0.1 * rng.normal(size=(900, 4))
    order = render.fit_basis(rows, method="argmax-hue").parameters["channels"] % 2
    assert np.count_nonzero(order != np.roll(order, 1)) == 2


def test_energy_is_the_norm_on_a_table():
    maps = layer()
    basis = render.fit_basis(maps, method="energy")
    norms = np.linalg.norm(maps, axis=1)
    places = np.rint((norms / np.quantile(norms, 0.995)).clip(0, 1) * (_colours.LEVELS - 1))
    known = _colours.sequential()[places.astype(int)].astype(int)
    assert np.quantile(np.abs(basis.paint(maps, axis=1) - known), 0.999) <= 3


def test_cosine_compares_with_one_position():
    maps = layer()
    target = maps[0, :, 5, 5]
    basis = render.fit_basis(maps, method="cosine", target=target)
    first, last = _colours.diverging()[[0, -1]].astype(int)
    assert np.abs(basis.paint(target * 7) - last).max() <= 1
    assert np.abs(basis.paint(-target) - first).max() <= 1
    assert basis.paint(target * 0).tolist() == list(_colours.NAN_LIGHT)
    across = np.linalg.svd(target[None])[2][-1]
    assert np.ptp(basis.paint(across).astype(int)) <= 2


@pytest.mark.parametrize(
    ("target", "match"),
    [
        (None, "target must be 10 finite numbers for method='cosine', got None"),
        (np.ones(3), r"target must be 10 finite numbers .*got \(3,\)"),
        (np.full(10, np.nan), "target must be 10 finite numbers"),
        (np.zeros(10), "target must not be all zeros"),
    ],
)
def test_cosine_needs_a_direction(target, match):
    with pytest.raises(ValueError, match=match):
        render.fit_basis(layer(), method="cosine", target=target)


def test_nmf_finds_the_parts_that_add_up():
    rng = np.random.default_rng(0)
    parts = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1.0]])
    shares = rng.random((600, 3)) * (rng.random((600, 3)) < 0.4) * [3, 2, 1]
    rows = shares @ parts
    basis = render.fit_basis(rows, method="nmf", parts=3)
    factors = basis.parameters["factors"]
    alike = factors @ (parts / np.linalg.norm(parts, axis=1)[:, None]).T
    np.testing.assert_allclose(alike, np.eye(3), atol=0.05)  # strongest first
    lab = srgb_to_oklab(basis.paint(3 * parts) / 255)
    for own, hue in zip(lab[:, 1:], fixed_hues(3), strict=True):
        assert own @ hue > 0.97 * np.linalg.norm(own) * np.linalg.norm(hue)


def test_nmf_splits_values_of_both_signs():
    basis = render.fit_basis(layer(), method="nmf")
    assert basis.parameters["factors"].shape[1] == 20
    positive = render.fit_basis(layer(positive=True), method="nmf")
    assert positive.parameters["factors"].shape[1] == 10


def test_a_cluster_has_the_colour_of_its_centre():
    rows, label = blobs()
    basis = render.fit_basis(rows, method="kmeans", parts=3)
    plain = render.fit_basis(rows)
    colours = basis.paint(rows).astype(int)
    for k in range(3):
        own = colours[label == k]
        assert (own == own[0]).all()
        assert np.abs(own[0] - plain.paint(rows[label == k].mean(0))).max() <= 3
    assert len(np.unique(colours, axis=0)) == 3


def test_a_normalised_cut_parts_what_is_apart():
    rows, label = blobs()
    colours = srgb_to_oklab(render.fit_basis(rows, method="spectral").paint(rows) / 255)
    centres = np.stack([colours[label == k].mean(0) for k in range(3)])
    within = max(np.linalg.norm(colours[label == k] - centres[k], axis=1).max() for k in range(3))
    between = min(np.linalg.norm(centres[j] - centres[k]) for j, k in ((0, 1), (0, 2), (1, 2)))
    assert between > 4 * within


def test_umap_is_interpolated_between_its_landmarks(monkeypatch):
    class Flat:
        def __init__(self, **options):
            assert options == {"n_components": 3, "random_state": 5, "n_jobs": 1}

        def fit_transform(self, rows):
            return rows[:, :3].astype(np.float32)

    module = types.ModuleType("umap")
    monkeypatch.setattr(module, "UMAP", Flat, raising=False)
    monkeypatch.setitem(sys.modules, "umap", module)
    rows = np.random.default_rng(0).normal(size=(900, 4)) * [3, 2, 1, 0.1]
    basis = render.fit_basis(rows, method="umap", seed=5)
    assert basis.about["notes"] == ["exploratory: neighbours mean something, distances do not"]
    assert basis.fidelity.shepard > 0.95


@pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
def test_umap_itself_parts_what_is_apart_and_does_so_again():
    pytest.importorskip(
        "umap"
    )  # of 210 MB, and compiled for half a minute: not in the tests' group
    rows, label = blobs()
    basis = render.fit_basis(rows, method="umap", seed=3)
    assert basis.id == render.fit_basis(rows, method="umap", seed=3).id
    colours = srgb_to_oklab(basis.paint(rows) / 255)
    centres = np.stack([colours[label == k].mean(0) for k in range(3)])
    within = max(np.linalg.norm(colours[label == k] - centres[k], axis=1).mean() for k in range(3))
    between = min(np.linalg.norm(centres[j] - centres[k]) for j, k in ((0, 1), (0, 2), (1, 2)))
    assert between > 4 * within


@pytest.mark.parametrize(
    ("method", "package", "extra"),
    [("nmf", "sklearn", "colour"), ("umap", "umap", "umap")],
)
def test_a_method_says_which_extra_it_needs(monkeypatch, method, package, extra):
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'stratascope\[{extra}\]'"):
        render.fit_basis(layer(), method=method)


def test_tokens_of_length_one_compare_by_direction():
    maps = layer()
    basis = render.fit_basis(maps, preprocess="l2")
    assert (
        np.abs(basis.paint(maps[0] * 9, axis=0).astype(int) - basis.paint(maps[0], axis=0)).max()
        <= 1
    )


def test_standardised_channels_weigh_the_same():
    maps = layer()
    maps[:, 0] *= 1000
    loud = render.fit_basis(maps)
    even = render.fit_basis(maps, preprocess="standardise")
    assert np.abs(loud.parameters["loadings"][0, 0]) > 0.99
    assert np.abs(even.parameters["loadings"][0, 0]) < 0.6


def test_steps_share_what_their_policy_says():
    steps = {step: layer() * (1 + step / 100) for step in (0, 100, 200)}
    pooled = render.fit_bases(steps)
    assert len({basis.id for basis in pooled.values()}) == 1
    assert pooled[0].about["origin"] == {"policy": "pooled"}
    assert pooled[0].about["seen"] == 3 * 576
    anchored = render.fit_bases(steps, policy="anchor", anchor=100)
    assert anchored[0] is anchored[200]
    alone = render.fit_basis(steps[100])
    assert (anchored[0].paint(layer(), axis=1) == alone.paint(layer(), axis=1)).all()
    tracked = render.fit_bases(steps, policy="tracked")
    assert len({basis.id for basis in tracked.values()}) == 3


def test_a_tracked_basis_does_not_move_while_the_features_stand_still():
    maps = layer()
    steps = {0: layer(1), 1: maps, 2: maps.copy(), 3: maps.copy()}
    bases = render.fit_bases(steps, policy="tracked")
    colours = [bases[step].paint(maps, axis=1) for step in (1, 2, 3)]
    assert (colours[0] == colours[1]).all()
    assert (colours[0] == colours[2]).all()


def test_aligned_layers_keep_the_colours_of_what_they_have_in_common():
    rng = np.random.default_rng(0)
    content = rng.normal(size=(4, 3, 12, 12))
    maps = content * np.array([3, 2, 1])[:, None, None]
    # More channels, of another size, in which what was weak is strong.
    spread = np.linalg.qr(rng.normal(size=(10, 3)))[0] * [10, 20, 30]
    wider = np.einsum("dc,nchw->ndhw", spread, content) + 7
    layers = {"narrow": maps, "wide": wider, "few": maps[:, :2]}
    bases = render.fit_bases(layers, policy="aligned")
    narrow, wide, alone = (
        srgb_to_oklab(basis.paint(values, axis=1) / 255.0)
        for basis, values in (
            (bases["narrow"], maps),
            (bases["wide"], wider),
            (render.fit_basis(wider), wider),
        )
    )
    assert np.corrcoef(narrow[..., 0].ravel(), wide[..., 0].ravel())[0, 1] > 0.95
    assert abs(np.corrcoef(narrow[..., 0].ravel(), alone[..., 0].ravel())[0, 1]) < 0.2
    assert bases["narrow"].about["notes"] == render.fit_basis(maps).about["notes"]
    told = "turned to the colours of narrow: alike, but not of the same space"
    assert bases["wide"].about["notes"][-1] == told
    assert bases["wide"].about["origin"]["layer"] == "wide"
    assert bases["few"].fidelity.shepard > 0.9


def test_layers_to_be_aligned_have_the_same_positions():
    layers = {"a": np.ones((2, 3, 8, 8)), "b": np.ones((2, 3, 4, 4))}
    with pytest.raises(DataError, match="same samples and positions, got 128 positions at 'a'"):
        render.fit_bases(layers, policy="aligned")


def test_a_tracked_basis_follows_a_turn_of_the_channels():
    maps = layer()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(10, 10)))[0]
    turned = np.einsum("ij,njhw->nihw", turn, maps)
    bases = render.fit_bases({"before": maps, "after": turned}, policy="tracked")
    away = bases["before"].paint(maps, axis=1).astype(int) - bases["after"].paint(turned, axis=1)
    assert np.abs(away).max() <= 2


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"policy": "each"}, "policy must be one of 'pooled', 'anchor', 'tracked', 'aligned', got"),
        ({"policy": "aligned", "method": "ica"}, "policy 'aligned' must have method"),
        ({"policy": "tracked", "method": "nmf"}, "policy 'tracked' must have method"),
        ({"policy": "tracked", "preprocess": "l2"}, "policy 'tracked' must have method"),
        ({"policy": "anchor", "anchor": 7}, r"anchor must be one of the steps \[0\], got 7"),
    ],
)
def test_a_policy_that_is_none_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        render.fit_bases({0: layer()}, **options)


def test_no_step_is_refused():
    with pytest.raises(DataError, match="steps must hold at least one source"):
        render.fit_bases({})
