"""The methods that divide a layer into parts: factors of positive values, and clusters."""

import warnings

import numpy as np

from stratascope._optional import require
from stratascope.render._components import analyse, on_lattice
from stratascope.render._fitted import Fitted, Floats, Parameters, Settings
from stratascope.render._linear import chosen_vividness, components_lab, placed
from stratascope.render._oklab import oklab_to_srgb
from stratascope.render._scalars import fixed_hues, hue_legend

_FACTORS, _CLUSTERS = 6, 8
_LOOKED_AT = 4096
_SWEEPS = 30
_DARK, _LIGHT = 0.25, 0.8
_CLUSTERED_IN = 32
_BITS = 16


def fit_nmf(rows: Floats, settings: Settings) -> Fitted:
    """Fit `nmf`: factors that only add up, each a hue (Olah et al. 2018).

    Values of both signs are split into their positive and their negative part first.
    """
    signed = bool((rows < 0).any())
    given = _split(rows[:_LOOKED_AT], signed=signed)
    amount = min(settings.parts or _FACTORS, *given.shape) if given.any() else 0
    if not amount:
        return Fitted({"factors": np.zeros((0, given.shape[1])), "high": np.ones(0)}, [_NOTHING])
    decomposition = require("sklearn.decomposition", extra="colour")
    model = decomposition.NMF(amount, init="nndsvda", random_state=settings.seed, max_iter=300)
    with warnings.catch_warnings():
        # It says where it stopped short, and the colours are fixed by where that was.
        warnings.simplefilter("ignore")
        factors = model.fit(given / given.max()).components_
    norms = np.sqrt(np.square(factors).sum(1))
    factors = on_lattice(factors[norms > 0] / norms[norms > 0, None], _BITS)
    shares = _shares(factors, given.T)
    factors = factors[np.argsort(-np.square(shares).sum(1), kind="stable")]
    total = _shares(factors, given.T).sum(0)
    high = np.array(np.quantile(total, 0.995) or total.max(initial=0) or 1.0)
    legend = hue_legend([f"part {k + 1}" for k in range(len(factors))])
    return Fitted({"factors": factors, "high": on_lattice(high, _BITS)}, legend=legend)


_NOTHING = "nothing to divide into parts"


def nmf_lab(parameters: Parameters, columns: Floats) -> Floats:
    """Map columns to OKLab: the hues mix by their shares, the lightness is the sum."""
    factors = parameters["factors"]
    colours = np.zeros((3, columns.shape[1]))
    colours[0] = _DARK
    if len(factors):
        signed = factors.shape[1] > len(columns)
        shares = _shares(factors, _split(columns.T, signed=signed).T)
        total = shares.sum(0)
        strength = (total / float(parameters["high"])).clip(0, 1)
        mixed = shares / np.where(total > 0, total, 1) * strength
        colours[0] += (_LIGHT - _DARK) * strength
        colours[1:] = fixed_hues(len(factors)).T @ mixed
    return colours


def _split(rows: Floats, *, signed: bool) -> Floats:
    positive = np.maximum(rows, 0)
    return np.hstack([positive, np.maximum(-rows, 0)]) if signed else positive


def _shares(factors: Floats, columns: Floats) -> Floats:
    """Find how much of each factor makes up each column: least squares without negative shares."""
    wanted, alike = factors @ columns, factors @ factors.T
    shares = np.zeros_like(wanted)
    for _ in range(_SWEEPS):
        for k in range(len(factors)):
            step = (wanted[k] - alike[k] @ shares) / alike[k, k]
            shares[k] = np.maximum(shares[k] + step, 0)
    return shares


def fit_kmeans(rows: Floats, settings: Settings) -> Fitted:
    """Fit `kmeans`: clusters, each in the colour that `pca-oklab` gives its centre."""
    found = analyse(rows, _CLUSTERED_IN)
    fitted = placed(found.first(3), chosen_vividness(settings))
    points = on_lattice(found.projections, _BITS)
    amount = min(settings.parts or _CLUSTERS, len(np.unique(points[:_LOOKED_AT], axis=0)))
    cluster = require("sklearn.cluster", extra="colour")
    model = cluster.KMeans(amount, n_init=4, random_state=settings.seed, max_iter=300, tol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = model.fit(points).labels_
    # Means of what is on the lattice, in one order: the model's own depend on the threads.
    centres = np.stack([points[labels == k].mean(0) for k in np.unique(labels)])
    centres = on_lattice(centres[np.lexsort(centres.T[::-1])], _BITS)
    colours = components_lab(fitted.parameters, found.mean[:, None] + found.loadings @ centres.T)
    parameters = {
        "mean": found.mean,
        "loadings": found.loadings,
        "centres": centres,
        "colours": on_lattice(colours, _BITS),
    }
    legend = [(f"cluster {k + 1}", oklab_to_srgb(c)) for k, c in enumerate(colours.T)]
    return Fitted(parameters, fitted.notes, legend=legend)


def kmeans_lab(parameters: Parameters, columns: Floats) -> Floats:
    """Map columns to OKLab: each has the colour of the nearest centre."""
    loadings, centres = parameters["loadings"], parameters["centres"]
    points = loadings.T @ columns - (loadings.T @ parameters["mean"])[:, None]
    apart = np.square(centres).sum(1)[:, None] - 2 * (centres @ points)
    return parameters["colours"][:, apart.argmin(0)]
