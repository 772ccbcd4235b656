"""All methods by name."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stratascope.render import _bands, _linear, _neighbours, _parts, _scalars
from stratascope.render._components import scaled
from stratascope.render._fitted import Fitted, Floats, Parameters, Settings


@dataclass(frozen=True, slots=True)
class Method:
    """One way from rows to colours.

    Attributes:
        fit: From rows `(n, C)` to parameters.
        lab: From parameters and columns `(C, n)` to OKLab `(3, n)`; NaN where a column has none.
    """

    fit: Callable[[Floats, Settings], Fitted]
    lab: Callable[[Parameters, Floats], Floats]


METHODS = {
    "pca-oklab": Method(_linear.fit_pca, _linear.components_lab),
    "pca-vivid": Method(_linear.fit_vivid, _linear.components_lab),
    "pca-dino": Method(_linear.fit_dino, _linear.dino_lab),
    "ica": Method(_linear.fit_ica, _linear.components_lab),
    "bands": Method(_bands.fit_bands, _bands.bands_lab),
    "argmax-hue": Method(_scalars.fit_argmax, _scalars.argmax_lab),
    "energy": Method(_scalars.fit_energy, _scalars.energy_lab),
    "cosine": Method(_scalars.fit_cosine, _scalars.cosine_lab),
    "nmf": Method(_parts.fit_nmf, _parts.nmf_lab),
    "kmeans": Method(_parts.fit_kmeans, _parts.kmeans_lab),
    "spectral": Method(_neighbours.fit_spectral, _neighbours.neighbours_lab),
    "umap": Method(_neighbours.fit_umap, _neighbours.neighbours_lab),
}


def prepare(columns: Floats, preprocess: str, parameters: Parameters) -> Floats:
    """Do to columns what was done to the rows of the fit."""
    exponent = int(parameters["exponent"])
    if exponent:
        columns = scaled(columns, exponent)
    if preprocess == "l2":
        norms = np.sqrt(np.square(columns).sum(0))
        return columns / np.where(norms > 0, norms, 1)
    if preprocess == "standardise":
        return (columns - parameters["shift"][:, None]) * parameters["factor"][:, None]
    return columns
