import json

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from stratascope import render
from stratascope.errors import DataError
from stratascope.render import _basis, _colours
from stratascope.render._basis import otsu


def layer(seed=0, samples=6, channels=12, side=10):
    rng = np.random.default_rng(seed)
    hidden = rng.gamma(0.8, size=(samples, side, side, 4)) * [4, 2, 1, 0.5]
    mixing = np.random.default_rng(9).normal(size=(4, channels))
    return np.moveaxis(hidden @ mixing, -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def basis():
    return render.fit_basis(layer())


def test_it_survives_its_file(basis, tmp_path):
    path = basis.save(tmp_path / "acts.zarr" / "basis")
    assert path == tmp_path / "acts.zarr" / "basis" / f"{basis.id}.npz"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    loaded = render.ColorBasis.load(path)
    assert loaded.id == basis.id
    assert (loaded.fidelity, loaded.about) == (basis.fidelity, basis.about)
    assert (loaded.paint(layer(), axis=1) == basis.paint(layer(), axis=1)).all()


def test_the_file_is_a_plain_archive_with_json(basis, tmp_path):
    with np.load(basis.save(tmp_path)) as archive:
        known = json.loads(archive["about"].tobytes())
        assert archive["loadings"].shape == (12, 3)
    assert known["method"] == "pca-oklab"
    assert known["fidelity"]["shepard"] == basis.fidelity.shepard
    assert known["about"]["seen"] == 600


def test_a_changed_file_is_refused(basis, tmp_path):
    path = basis.save(tmp_path)
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["mean"] = arrays["mean"] + 1
    with path.open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(DataError, match="the file was changed"):
        render.ColorBasis.load(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY"])
def test_what_is_no_basis_is_refused(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="must be a colour basis written by save"):
        render.ColorBasis.load(path)
    np.savez(path, a=np.ones(3))
    with pytest.raises(DataError, match="must be a colour basis written by save"):
        render.ColorBasis.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        render.ColorBasis.load(tmp_path / "nowhere.npz")


def test_half_a_file_is_refused(basis, tmp_path):
    path = basis.save(tmp_path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match="must be a colour basis written by save"):
        render.ColorBasis.load(path)


def test_it_lies_in_a_store_and_the_store_stays_sound(tmp_path):
    import torch

    import stratascope as ss
    from stratascope.store import verify

    data = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    store = ss.extract(torch.nn.Conv2d(3, 8, 3), data, "model", to=tmp_path / "acts.zarr")
    basis = render.fit_basis(store["model"], origin={"site": "model", "step": 0})
    basis.save(store.path / "basis")
    assert basis.about["origin"] == {"site": "model", "step": "0"}
    assert list(verify(store.path)) == []
    assert basis.id == render.fit_basis(store["model"][:], origin=basis.about["origin"]).id


def test_the_id_is_of_all_that_it_holds(basis):
    assert render.fit_basis(layer()).id == basis.id
    others = [
        render.fit_basis(layer(), vividness=0.5),
        render.fit_basis(layer(), origin={"site": "enc"}),
        render.fit_basis(layer(), method="pca-vivid"),
        render.fit_basis(layer(1)),
    ]
    assert len({basis.id, *(other.id for other in others)}) == 5


def test_nobody_can_change_it(basis):
    with pytest.raises(ValueError, match="read-only"):
        basis.parameters["mean"][0] = 1
    with pytest.raises(AttributeError, match="cannot assign"):
        basis.method = "nmf"


def test_a_picture_says_which_basis_made_it(basis, tmp_path):
    picture = render.rgb(layer()[0], basis=basis)
    path = render.save(picture, tmp_path / "a.png", basis=basis)
    told = render.read_provenance(path)["basis"]
    assert told["id"] == basis.id
    assert told["method"] == "pca-oklab"
    assert "parameters" not in told


def test_a_position_has_its_colour_wherever_it_stands(basis):
    maps = layer()
    colours = basis.paint(maps, axis=1)
    assert colours.shape == (6, 10, 10, 3)
    assert (basis.paint(maps[2, :, 3, 4]) == colours[2, 3, 4]).all()
    assert (basis.paint(np.moveaxis(maps, 1, -1)) == colours).all()


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_blocks_do_not_show(basis, monkeypatch, step):
    whole = basis.paint(layer(3), axis=1)
    monkeypatch.setattr(_basis, "_AT_ONCE", step * 12)
    assert (basis.paint(layer(3), axis=1) == whole).all()


@pytest.mark.parametrize("method", ["pca-oklab", "ica", "kmeans", "nmf", "spectral"])
@pytest.mark.parametrize("channels", [24, 600])
def test_nothing_depends_on_threads(method, channels):
    maps = np.random.default_rng(0).normal(size=(2, channels, 18, 18)).cumsum(1)
    found = set()
    for threads in (1, 2):
        with threadpool_limits(threads):
            basis = render.fit_basis(maps, method=method)
            found.add((basis.id, basis.paint(maps[0], axis=0).tobytes()))
    assert len(found) == 1


def test_what_is_not_finite_has_a_colour_of_its_own(basis):
    row = layer()[0, :, 0, 0]
    rows = np.tile(row, (4, 1))
    rows[1, 3], rows[2, 3], rows[3, 3] = np.nan, np.inf, -np.inf
    rows[1, 4] = np.inf
    found = basis.paint(rows).tolist()
    assert found[1:] == [
        list(_colours.NAN_LIGHT),
        list(_colours.PLUS_INFINITY),
        list(_colours.MINUS_INFINITY),
    ]
    assert found[0] == basis.paint(row).tolist()


def test_a_channel_without_weight_does_not_hide_its_nan():
    maps = layer()
    maps[:, 5] = 0
    maps[0, 5, 2, 2] = np.nan
    basis = render.fit_basis(maps)
    assert basis.paint(maps[0], axis=0)[2, 2].tolist() == list(_colours.NAN_LIGHT)
    assert basis.about["dropped"] == 1


@pytest.mark.parametrize("dtype", ["float16", "float32", "int16", "uint8", "bool"])
def test_every_type_of_number_is_taken(dtype):
    maps = (layer() * 5).astype(dtype)
    one, other = (render.fit_basis(given) for given in (maps, maps.astype(np.float64)))
    assert one.id == other.id
    assert (one.paint(maps, axis=1) == other.paint(maps.astype(float), axis=1)).all()


def test_a_tensor_counts_as_an_array():
    import torch

    maps = torch.from_numpy(layer()).to(torch.bfloat16).requires_grad_()
    basis = render.fit_basis(maps)
    assert basis.id == render.fit_basis(maps.detach().float().numpy()).id
    assert basis.paint(maps, axis=1).shape == (6, 10, 10, 3)


def test_the_wrong_number_of_channels_is_refused(basis):
    with pytest.raises(
        DataError, match=r"must have 12 channels along axis 0 .* got shape \(3, 4\)"
    ):
        basis.paint(np.ones((3, 4)), axis=0)
    with pytest.raises(DataError, match="12 channels along axis 5"):
        basis.paint(np.ones(12), axis=5)


def test_a_known_covariance_can_be_used_again(basis):
    rows = np.moveaxis(layer(), 1, -1).reshape(-1, 12).astype(np.float64)
    covariance = np.cov(rows.T, bias=True)
    known = render.ColorBasis.from_covariance(rows.mean(0), covariance, rows[::2])
    away = known.paint(rows).astype(int) - basis.paint(rows)
    assert np.abs(away).mean() < 3
    with pytest.raises(DataError, match=r"must have shapes \(C,\), \(C, C\) and \(n, C\)"):
        render.ColorBasis.from_covariance(rows.mean(0), covariance[:3], rows)
    with pytest.raises(DataError, match="rows must hold a finite row"):
        render.ColorBasis.from_covariance(rows.mean(0), covariance, rows * np.nan)


def test_a_channel_that_was_not_finite_has_no_part_in_a_known_covariance():
    rows = np.random.default_rng(0).normal(size=(300, 4)) * [3, 2, 1, 1]
    rows[:, 3] = np.nan
    mean, covariance = rows.mean(0), np.cov(rows.T, bias=True)
    basis = render.ColorBasis.from_covariance(mean, covariance, rows)
    assert (basis.parameters["loadings"][3] == 0).all()
    assert basis.about["dropped"] == 0


def test_weak_is_parted_from_strong_where_they_part():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(1, 0.1, 900), rng.normal(5, 0.5, 100)])
    assert 1.5 < otsu(values) < 4
    assert otsu(np.ones(5)) == 0


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1, 1e30, 1e300])
def test_the_size_of_the_values_is_nothing_to_the_colours(basis, size):
    scaled = layer().astype(np.float64) * 2.0 ** round(np.log2(size))
    own = render.fit_basis(scaled)
    away = own.paint(scaled, axis=1).astype(int) - basis.paint(layer(), axis=1)
    assert np.abs(away).max() <= 1
    assert own.fidelity == basis.fidelity
