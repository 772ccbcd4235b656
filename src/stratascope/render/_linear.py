"""The methods that are one matrix: components, whitened, or independent."""

import warnings
from dataclasses import replace

import numpy as np

from stratascope._optional import require
from stratascope.render._components import Components, analyse, orient
from stratascope.render._fitted import Fitted, Floats, Parameters, Settings
from stratascope.render._oklab import srgb_to_oklab
from stratascope.render._placement import GREY, Placement, place
from stratascope.render._text import count

USUAL = 0.25
VIVID = 0.75
_FAITHFUL = 0.0


def fit_pca(rows: Floats, settings: Settings) -> Fitted:
    """Fit `pca-oklab`: components, spread over OKLab without favouring a direction."""
    return placed(analyse(rows), chosen_vividness(settings))


def fit_vivid(rows: Floats, settings: Settings) -> Fitted:
    """Fit `pca-vivid`: the same with the weaker components strengthened."""
    return placed(analyse(rows), chosen_vividness(settings, VIVID))


def fit_dino(rows: Floats, settings: Settings) -> Fitted:
    """Fit `pca-dino`: whitened components to red, green and blue, as in DINOv3's notebook."""
    found = analyse(rows)
    deviations = np.sqrt(found.variances)
    inverse = np.divide(1, deviations, where=deviations > 0, out=np.zeros_like(deviations))
    parameters = {"mean": found.mean, "loadings": found.loadings * inverse}
    return Fitted(parameters, remarks(found), found.explained)


def dino_lab(parameters: Parameters, columns: Floats) -> Floats:
    """Map columns to OKLab."""
    whitened = parameters["loadings"].T @ columns
    whitened -= (parameters["loadings"].T @ parameters["mean"])[:, None]
    light = np.full((3, columns.shape[1]), 0.5)
    light[: len(whitened)] = 1 / (1 + np.exp(-2 * whitened.clip(-50, 50)))
    return srgb_to_oklab(light.T).T


def fit_ica(rows: Floats, settings: Settings) -> Fitted:
    """Fit `ica`: independent directions within the three components, by FastICA."""
    found = analyse(rows)
    rank = found.rank
    if rank < 2:
        return placed(found, _FAITHFUL)
    decomposition = require("sklearn.decomposition", extra="colour")
    points = found.projections[:, :rank] / np.sqrt(found.variances[:rank])
    ica = decomposition.FastICA(whiten=False, fun="cube", max_iter=500, tol=1e-9, random_state=0)
    with warnings.catch_warnings():
        # Where no direction is more independent than another, none is reached and any will do.
        warnings.simplefilter("ignore")
        turn = ica.fit(points).components_
    unmixed = (turn / np.sqrt(found.variances[:rank])).T
    peaked = np.square(np.square(points @ turn.T)).mean(0)
    loadings = np.zeros_like(found.loadings)
    loadings[:, :rank] = found.loadings[:, :rank] @ unmixed[:, np.argsort(-peaked, kind="stable")]
    scale = np.abs(loadings).max()
    apart = orient(loadings / scale, rows, found.mean, found.total)
    fitted = placed(replace(apart, ambiguous=False), _FAITHFUL)
    return replace(fitted, explained=found.explained)


def placed(found: Components, vividness: float) -> Fitted:
    """Make parameters of components."""
    where = place(found.projections, found.variances, vividness)
    parameters = {
        "mean": found.mean,
        "loadings": found.loadings,
        "variances": found.variances,
        "matrix": where.matrix,
        "centre": where.centre,
    }
    return Fitted(parameters, remarks(found), found.explained)


def remarks(found: Components) -> list[str]:
    """Say what the components of some rows cannot show."""
    notes = []
    if found.rank == 0:
        notes.append("constant: nothing varies")
    elif found.rank < 3:
        kept = " and ".join(("lightness", "blue to yellow")[: found.rank])
        notes.append(f"only {count(found.rank, 'component')} to show, on {kept}")
    if found.ambiguous:
        notes.append("ambiguous: a refit on other positions may turn or mirror the colours")
    return notes


def components_lab(parameters: Parameters, columns: Floats) -> Floats:
    """Map columns `(C, n)` to OKLab: one product with a matrix of three rows."""
    where = Placement(parameters["matrix"], parameters["centre"])
    weights = where.matrix @ parameters["loadings"].T
    colours = weights @ columns
    offset = weights @ parameters["mean"] + where.matrix @ where.centre
    colours -= offset[:, None]
    colours[0] += GREY
    return colours


def chosen_vividness(settings: Settings, usual: float = USUAL) -> float:
    """Give the vividness that was asked for, or the usual one."""
    return usual if settings.vividness is None else settings.vividness
