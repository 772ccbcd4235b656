"""Two pictures of the same kind beside each other, and what differs between them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from stratascope.render._arrays import as_values
from stratascope.render._basis import ColorBasis
from stratascope.render._fit import FitOptions, fit_basis
from stratascope.render._page import Picture, compose, placeholder, shape_text
from stratascope.render._panels import (
    lay_out,
    marks,
    panel_key,
    read_layer,
    scale_panel,
)
from stratascope.render._scale import Scale, fit_values, observed
from stratascope.render._strip import draw_layers
from stratascope.render._text import number

_HEIGHT = 240
_PERCENTILE = 99.5


def difference(
    first: Any,
    second: Any,
    *,
    names: tuple[str, str] = ("A", "B"),
    basis: ColorBasis | None = None,
    single: bool = False,
    scale: Scale | None = None,
    title: str | None = None,
    caption: str | None = None,
    **options: Unpack[FitOptions],
) -> Picture:
    """Draw two samples, steps or runs beside each other, and the difference beside them.

    The two share their colours. Of channels the difference is its length at each position, from
    0; of single maps it is the second less the first, on a scale symmetric about 0.

    Args:
        first: Channels first, `(C, H, W)`, `(C, L)` or `(C, D, H, W)`.
        second: Of the same shape.
        names: What the two are called.
        basis: The colours of both; fitted to the two together if None.
        single: Whether they are one map `(H, W)` or curve `(L,)` each, drawn on a scale.
        scale: With `single`, the range of both; fitted to the two together if None.
        title: A line above.
        caption: Text below, before what the picture says of itself.
        **options: How to fit the basis where none is given; see `FitOptions`.

    Returns:
        The picture, uint8 of shape `(h, w, 3)`.

    Raises:
        ValueError: The shapes differ or have no picture, or arguments contradict each other.
        DataError: They do not have the channels of the basis.
        TypeError: They do not hold numbers.

    >>> before = np.random.default_rng(0).normal(size=(8, 16, 16))
    >>> difference(before, before + 0.1, names=("step 0", "step 100")).ndim
    3
    """
    layers = dict(zip(names, (first, second), strict=True))
    if len(layers) < 2:
        raise ValueError(f"names must be two different ones, got {names!r}")
    pair = [read_layer(given, single=single, what=name) for name, given in layers.items()]
    if pair[0].shape != pair[1].shape:
        raise ValueError(
            f"the two must have the same shape, got {pair[0].shape} and {pair[1].shape}"
        )
    if not pair[0].size:
        body = placeholder(f"empty: {shape_text(pair[0].shape)}")
        return compose(body, title=title, caption=caption, notes=[])
    if single and scale is None:
        scale = fit_values(np.stack(pair), _PERCENTILE)
    elif not single and basis is None and scale is None:
        basis, options = fit_basis(np.stack(pair), **options), {}
    panels, notes, look = draw_layers(layers, basis, scale, options, single=single, height=_HEIGHT)
    values, compared = _compare(pair, single=single)
    away = fit_values(values, _PERCENTILE)
    if not away.constant:
        end = max(abs(away.low), abs(away.high))
        away = observed(
            replace(away, low=-end if single else 0.0, high=end, diverging=single), values
        )
    third = f"{names[1]} - {names[0]}"
    remark = "" if single else "length over channels"
    panels.append(scale_panel(third, values, away, _HEIGHT, remark=remark))
    notes += [f"difference: {away.caption}", compared]
    if not away.constant:
        look["key"] = panel_key(away, _HEIGHT)
    look["legend"] = [*marks(panels), *look.get("legend", ())]
    return compose(lay_out(panels), title=title, caption=caption, notes=notes, **look)


def _compare(pair: Sequence[NDArray[Any]], *, single: bool) -> tuple[NDArray[np.float64], str]:
    """Give what to draw of the difference, and say how large it is."""
    before, after = (as_values(one).array for one in pair)
    with np.errstate(over="ignore", invalid="ignore"):
        away = after - before
    known = np.isfinite(away)
    if not known.any():
        return away if single else away.sum(0), "no difference is finite"
    largest = float(np.abs(away[known]).max())
    # Divided by the largest first, so that no square is beyond a float.
    size = max(float(np.abs(before[known]).max()), largest) or 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        drawn = away if single else np.sqrt(np.square(away / size).sum(0)) * size
    changed, whole = (float(np.linalg.norm(one[known] / size)) for one in (away, before))
    relative = f" · relative L2 {number(changed / whole)}" if whole else ""
    of = "" if single else " of one channel"
    return drawn, f"largest{of} {number(largest)}{relative}"
