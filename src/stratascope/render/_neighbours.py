"""The methods that place a row by the landmarks near it: spectral, and UMAP."""

import warnings

import numpy as np

from stratascope._optional import require
from stratascope.render._components import leading, on_lattice, orient_points
from stratascope.render._fitted import Fitted, Floats, Parameters, Settings
from stratascope.render._placement import Placement, place

_CANDIDATES, _LANDMARKS = 4096, 800
_UMAP_LANDMARKS = 2000
_BITS = 16


def fit_spectral(rows: Floats, settings: Settings) -> Fitted:
    """Fit `spectral`: the eigenvectors of a normalised cut, extended from landmarks (Nyström)."""
    landmarks = _far_apart(rows[:_CANDIDATES], _LANDMARKS)
    if len(landmarks) < 5:
        return _placed(landmarks, np.zeros((len(landmarks), 1)), 1.0, rows)
    apart = _squared(landmarks, landmarks.T)
    width = float(np.median(apart[apart > 0]))
    alike = np.exp(-apart / width)
    degree = np.sqrt(alike.sum(1))
    normalised = alike / degree / degree[:, None]
    vectors = leading(on_lattice((normalised + normalised.T) / 2, 40), len(landmarks), 4)
    # The first is the degree itself and parts nothing.
    points = vectors[:, 1:] / degree[:, None]
    return _placed(landmarks, points / np.abs(points).max(), width, rows)


def fit_umap(rows: Floats, settings: Settings) -> Fitted:
    """Fit `umap`: three dimensions that keep neighbours, between landmarks interpolated."""
    landmarks = np.unique(rows[:_UMAP_LANDMARKS], axis=0)
    if len(landmarks) < 20:
        return _placed(landmarks, np.zeros((len(landmarks), 1)), 1.0, rows)
    umap = require("umap", extra="umap")
    model = umap.UMAP(n_components=3, random_state=settings.seed, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        points = model.fit_transform(landmarks).astype(np.float64)
    apart = _squared(landmarks, landmarks.T)
    np.fill_diagonal(apart, np.inf)
    width = float(np.median(apart.min(1))) or 1.0
    note = "exploratory: neighbours mean something, distances do not"
    return _placed(landmarks, points / np.abs(points).max(), width, rows, note)


def neighbours_lab(parameters: Parameters, columns: Floats) -> Floats:
    """Map columns to OKLab."""
    where = Placement(parameters["matrix"], parameters["centre"])
    return where.lab(_interpolated(parameters, columns))


def _placed(landmarks: Floats, points: Floats, width: float, rows: Floats, *notes: str) -> Fitted:
    parameters = {
        "landmarks": landmarks,
        "points": on_lattice(points, _BITS),
        "width": on_lattice(np.array(width), _BITS),
    }
    if not np.ptp(points, axis=0).any():
        nowhere = np.zeros(points.shape[1])
        parameters |= {"matrix": np.zeros((3, len(nowhere))), "centre": nowhere}
        return Fitted(parameters, [*notes, "too few different rows to place"])
    rows = rows[:_CANDIDATES]
    found = _interpolated(parameters, rows.T).T
    signs, _ = orient_points(found, np.sqrt(np.square(rows).sum(1)))
    signs[signs == 0] = 1
    parameters["points"] = parameters["points"] * signs
    found = on_lattice(found * signs, _BITS)
    where = place(found, found.var(0), 0.0)
    parameters |= {"matrix": where.matrix, "centre": where.centre}
    return Fitted(parameters, notes)


def _interpolated(parameters: Parameters, columns: Floats) -> Floats:
    apart = _squared(parameters["landmarks"], columns)
    # Relative to the nearest, so that a row far from all does not divide nothing by nothing.
    weights = np.exp((apart.min(0, initial=np.inf) - apart) / parameters["width"])
    return (parameters["points"].T @ weights) / weights.sum(0)


def _squared(landmarks: Floats, columns: Floats) -> Floats:
    own = np.square(landmarks).sum(1)[:, None]
    return np.maximum(own + np.square(columns).sum(0) - 2 * (landmarks @ columns), 0)


def _far_apart(rows: Floats, amount: int) -> Floats:
    """Choose rows one by one, each the farthest from those before it, and none twice."""
    chosen = [0]
    nearest = _squared(rows, rows[:1].T)[:, 0]
    floor = 1e-9 * max(float(nearest.max()), np.finfo(np.float64).tiny)
    while len(chosen) < amount and nearest.max() > floor:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.square(rows - rows[chosen[-1]]).sum(1))
    return rows[chosen]
