"""Fitting a colour basis to a source of activations, and one to each step of a training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict, TypeVar, Unpack

import numpy as np

from stratascope.errors import DataError
from stratascope.render._arrays import as_values
from stratascope.render._basis import ColorBasis, assemble
from stratascope.render._components import (
    Components,
    analyse,
    rounded_loadings,
    scaled,
    tame,
    usual_exponent,
)
from stratascope.render._fitted import Floats, Parameters, Settings
from stratascope.render._linear import USUAL, VIVID, chosen_vividness, placed
from stratascope.render._methods import METHODS, prepare
from stratascope.render._rows import MOST_ROWS, Rows, gather
from stratascope.render._transform import checked

PREPROCESSES = ("none", "l2", "standardise")
_TURNING = ("pca-oklab", "pca-vivid")

Policy = Literal["pooled", "anchor", "tracked", "aligned"]
Step = TypeVar("Step")


class FitOptions(TypedDict, total=False):
    """How a colour basis is fitted; all of it may be left out.

    Attributes:
        method: Which way from channels to colours: ``"pca-oklab"``, ``"pca-vivid"``,
            ``"pca-dino"``, ``"bands"``, ``"argmax-hue"``, ``"nmf"``, ``"ica"``, ``"kmeans"``,
            ``"cosine"``, ``"energy"``, ``"spectral"`` or ``"umap"``.
        vividness: 0 keeps the proportions of the components, 1 makes them equally strong; of the
            methods on components.
        preprocess: ``"none"``; ``"l2"``, which scales each position to length 1, as for
            transformer tokens; or ``"standardise"``, which does so with each channel.
        parts: How many parts ``nmf``, ``kmeans`` and ``argmax-hue`` tell apart.
        bands: Three expressions of channels for ``bands``, such as ``("c3", "c1 - c7", "c2")``.
        target: The channels that ``cosine`` compares all positions with.
        seed: Determines which positions are looked at, and where iterations begin.

    >>> options: FitOptions = {"method": "pca-oklab", "vividness": 0.0}
    >>> fit_basis([[[1.0, 2.0], [3.0, 4.0]]], **options).method
    'pca-oklab'
    """

    method: str
    vividness: float | None
    preprocess: str
    parts: int | None
    bands: Sequence[str] | None
    target: Any
    seed: int


def fit_basis(
    source: Any,
    *,
    samples: Sequence[int] | None = None,
    origin: Mapping[str, Any] | None = None,
    **options: Unpack[FitOptions],
) -> ColorBasis:
    """Fit the recipe for colours to activations, in one pass over them.

    Up to 16,384 positions are kept, chosen by the numbers of their samples and their places alone:
    neither the order of the samples nor the size of the blocks changes the basis. Positions that
    are not finite are left out and counted. Positions far from all others are drawn near.

    Args:
        source: Activations with shape `(N, C, ...)`: an array or tensor, anything with `blocks()`
            such as an array of a store, or an iterable of such blocks, each alone or as
            `(samples, block)` with the numbers of its samples or of the first of them.
        samples: The numbers of the samples of an array; from 0 if None.
        origin: What the activations are, such as their site and step, to be kept with the basis.
        **options: See `FitOptions`.

    Returns:
        The basis.

    Raises:
        DataError: The source is empty or its blocks do not agree, or no position is finite where
            the method needs one.
        ValueError: An option is not one of its choices.
        MissingExtraError: The method needs a package that is not installed.

    >>> import numpy as np
    >>> maps = np.random.default_rng(0).normal(size=(4, 8, 16, 16))
    >>> fit_basis(maps).id == fit_basis(maps[::-1], samples=[3, 2, 1, 0]).id
    True
    """
    settings, method, preprocess = _settings(options)
    rows = gather(source, samples=samples, seed=settings.seed)
    return _fit(rows, method, preprocess, settings, dict(origin or {}))


def fit_bases(
    steps: Mapping[Step, Any],
    *,
    policy: Policy = "pooled",
    anchor: Step | None = None,
    origin: Mapping[str, Any] | None = None,
    **options: Unpack[FitOptions],
) -> dict[Step, ColorBasis]:
    """Fit bases to the steps of a training, so that their pictures can be compared.

    ``"pooled"`` fits one basis to all steps together: colours change as the features do. Choose it
    to see what changed. ``"anchor"`` fits one to a single step. ``"tracked"`` fits one to each step
    and turns it to the one before (orthogonal Procrustes on the same positions): each picture shows
    the most of its own step, and only part of a change in colour is a change of the features.
    ``"aligned"`` is for layers instead of steps, such as the blocks of a transformer, whose
    channels have nothing to do with each other: each has a basis of its own, turned so that
    positions keep their colours from one layer to the next as far as they can.

    Args:
        steps: For each step, or layer, in their order, a source as `fit_basis` takes it.
        policy: Which of the four.
        anchor: The step to fit to with ``"anchor"``; the last if None.
        origin: What the activations are.
        **options: See `FitOptions`; ``"tracked"`` and ``"aligned"`` are for ``pca-oklab`` and
            ``pca-vivid``.

    Returns:
        The basis of each step.

    Raises:
        DataError: There is no step, or as `fit_basis`, or layers to be aligned are not of the same
            samples and positions.
        ValueError: An option is not one of its choices.

    >>> import numpy as np
    >>> maps = np.random.default_rng(0).normal(size=(2, 8, 16, 16))
    >>> first, second = fit_bases({0: maps, 100: 2 * maps}).values()
    >>> first is second
    True
    """
    settings, method, preprocess = _settings(options)
    checked("policy", policy, Policy)
    turning = policy in ("tracked", "aligned")
    if turning and (method not in _TURNING or preprocess != "none"):
        raise ValueError(
            f"policy {policy!r} must have method 'pca-oklab' or 'pca-vivid' and preprocess 'none', "
            f"got {method!r} and {preprocess!r}; use 'pooled'"
        )
    if not steps:
        raise DataError("steps must hold at least one source, got none")
    told = {"policy": policy, **(origin or {})}
    if policy == "anchor":
        chosen = list(steps)[-1] if anchor is None else anchor
        if chosen not in steps:
            raise ValueError(f"anchor must be one of the steps {list(steps)}, got {anchor!r}")
        rows = gather(steps[chosen], seed=settings.seed)
        basis = _fit(rows, method, preprocess, settings, {**told, "anchor": str(chosen)})
        return dict.fromkeys(steps, basis)
    most = MOST_ROWS if turning else max(1, MOST_ROWS // len(steps))
    found = {step: gather(source, seed=settings.seed, most=most) for step, source in steps.items()}
    if policy == "aligned":
        return _align(found, method, settings, told)
    pooled = _fit(_pool(list(found.values())), method, preprocess, settings, told)
    return _track(found, pooled) if policy == "tracked" else dict.fromkeys(steps, pooled)


def _settings(options: FitOptions) -> tuple[Settings, str, str]:
    """Check the options and part them by who needs them."""
    given: dict[str, Any] = dict(options)
    method, preprocess = given.pop("method", "pca-oklab"), given.pop("preprocess", "none")
    for name, value, choices in (
        ("method", method, METHODS),
        ("preprocess", preprocess, PREPROCESSES),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    settings = Settings(**given)
    if settings.target is not None:
        settings = replace(settings, target=as_values(settings.target, what="target").array)
    if settings.vividness is not None and not 0 <= settings.vividness <= 1:
        raise ValueError(f"vividness must be from 0 to 1, got {settings.vividness!r}")
    if settings.parts is not None and settings.parts < 1:
        raise ValueError(f"parts must be at least 1, got {settings.parts!r}")
    return settings, method, preprocess


def _fit(
    rows: Rows, method: str, preprocess: str, settings: Settings, origin: Mapping[str, Any]
) -> ColorBasis:
    exponent = usual_exponent(rows.values)
    values = tame(scaled(_some(rows), exponent))
    own: dict[str, Any] = {"exponent": np.array(exponent)}
    if preprocess == "standardise":
        deviation = values.std(0)
        own["shift"] = values.mean(0)
        own["factor"] = np.divide(1, deviation, where=deviation > 0, out=np.zeros_like(deviation))
    prepared = prepare(np.ldexp(values, exponent).T, preprocess, own).T
    if settings.target is not None and settings.target.shape == values.shape[1:]:
        target = prepare(settings.target[:, None], preprocess, own)[:, 0]
        settings = replace(settings, target=target)
    fitted = METHODS[method].fit(prepared, settings)
    about = {
        "seed": settings.seed,
        "vividness": settings.vividness,
        "parts": settings.parts,
        "rows": len(rows.values),
        "seen": rows.seen,
        "dropped": rows.dropped,
        "origin": {key: str(value) for key, value in origin.items()},
    }
    return assemble(method, fitted, values, own, preprocess=preprocess, about=about)


def _some(rows: Rows) -> Floats:
    """Give the rows, or one of zeros where none is finite, which is a constant."""
    return rows.values if len(rows.values) else np.zeros((1, rows.values.shape[1]))


def _pool(rows: Sequence[Rows]) -> Rows:
    """Join the rows of all steps, the same number of each."""
    size = min(len(part.values) for part in rows)
    return Rows(
        np.concatenate([part.values[:size] for part in rows]),
        np.concatenate([part.keys[:size] for part in rows]),
        sum(part.seen for part in rows),
        sum(part.dropped for part in rows),
    )


def _track(found: Mapping[Step, Rows], pooled: ColorBasis) -> dict[Step, ColorBasis]:
    """Turn the components of each step to those of the step before, the first to the pooled."""
    exponent = int(pooled.parameters["exponent"])
    bases: dict[Step, ColorBasis] = {}
    before: tuple[Any, Floats] | None = None
    for step, rows in found.items():
        values = tame(scaled(_some(rows), exponent))
        own = analyse(values)
        if before is None:
            reference = (values - pooled.parameters["mean"]) @ pooled.parameters["loadings"]
            before = rows.keys, reference - reference.mean(0)
        _, here, there = np.intersect1d(rows.keys, before[0], return_indices=True)
        turn = _procrustes(own.projections[here], before[1][there])
        before = rows.keys, own.projections @ turn
        bases[step] = _turned(pooled, own, turn, values)
    return bases


def _align(
    found: Mapping[Step, Rows], method: str, settings: Settings, origin: Mapping[str, Any]
) -> dict[Step, ColorBasis]:
    """Turn the components of each layer to those of the layer before, on the same positions."""
    bases: dict[Step, ColorBasis] = {}
    before: tuple[Step, Rows, Floats] | None = None
    for layer, rows in found.items():
        exponent = usual_exponent(rows.values)
        values = tame(scaled(_some(rows), exponent))
        own, notes = analyse(values), []
        if before is not None:
            last, others, reference = before
            if rows.seen != others.seen:
                raise DataError(
                    "layers to be aligned must have the same samples and positions, got "
                    f"{others.seen} positions at {last!r} and {rows.seen} at {layer!r}"
                )
            _, here, there = np.intersect1d(rows.keys, others.keys, return_indices=True)
            own = _turn(own, _procrustes(own.projections[here], reference[there]), values)
            notes = [f"turned to the colours of {last}: alike, but not of the same space"]
        before = layer, rows, own.projections
        fitted = placed(own, chosen_vividness(settings, USUAL if method == _TURNING[0] else VIVID))
        about = {
            "seed": settings.seed,
            "vividness": settings.vividness,
            "seen": rows.seen,
            "dropped": rows.dropped,
            "origin": {**origin, "layer": str(layer)},
        }
        fitted = replace(fitted, notes=[*fitted.notes, *notes])
        kept: Parameters = {"exponent": np.array(exponent)}
        bases[layer] = assemble(method, fitted, values, kept, about=about)
    return bases


def _turn(own: Components, turn: Floats, values: Floats) -> Components:
    """Turn components, all of them together, which then are no principal ones any more."""
    loadings = rounded_loadings(own.loadings @ turn)
    projections = (values - own.mean) @ loadings
    return replace(own, loadings=loadings, projections=projections, variances=projections.var(0))


def _procrustes(points: Floats, reference: Floats) -> Floats:
    """Give the rotation or reflection that takes points `(n, K)` nearest to a reference."""
    left, _, right = np.linalg.svd(points.T @ reference, full_matrices=False)
    return left @ right


def _turned(pooled: ColorBasis, own: Components, turn: Floats, values: Floats) -> ColorBasis:
    turned = _turn(own, turn, values)
    parameters: dict[str, Any] = {
        **pooled.parameters,
        "mean": own.mean,
        "loadings": turned.loadings,
        "variances": turned.variances,
        "centre": np.median(turned.projections, axis=0),
    }
    kept: Parameters = {"exponent": pooled.parameters["exponent"]}
    fitted = replace(placed(own, 0.0), parameters=parameters)
    own_facts = ("notes", "legend", "rows")
    about = {key: value for key, value in pooled.about.items() if key not in own_facts}
    return assemble(pooled.method, fitted, values, kept, about=about)
