"""One sample through all layers, or one layer over the steps of a training."""

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from stratascope.render import _panels
from stratascope.render._arrays import as_numbers, as_values
from stratascope.render._basis import ColorBasis
from stratascope.render._fit import FitOptions, fit_basis
from stratascope.render._page import Picture, compose
from stratascope.render._panels import Panel, read_layer
from stratascope.render._scale import Scale, fit_values, fitted

_HEIGHTS = range(16, 1025)
_PERCENTILE = 99.5


def strip(
    layers: Mapping[Any, Any],
    *,
    input: Any = None,  # the field's word for it
    basis: ColorBasis | Mapping[Any, ColorBasis] | None = None,
    single: bool = False,
    scale: Scale | None = None,
    height: int = 160,
    title: str | None = None,
    caption: str | None = None,
    **options: Unpack[FitOptions],
) -> Picture:
    """Draw what several layers, or one layer at several steps, made of a sample, side by side.

    All are equally high. Without a basis each layer has one of its own, and only shapes can be
    compared between layers; with one basis for all, as for the steps of a training, colours can.

    Args:
        layers: What to draw, by name, in the order of drawing: channels first, `(C, H, W)`,
            `(C, L)`, or `(C, D, H, W)`, of which the middle slice is drawn.
        input: What the network was given, drawn first: of three channels as red, green and blue,
            of one on a scale of its own, of others in colours of their own.
        basis: One for all layers, or a mapping with one for each.
        single: Whether each layer is one map `(H, W)` or curve `(L,)`, drawn on a scale.
        scale: With `single`, the range for all; each has its own if None.
        height: Of each layer, in pixels.
        title: A line above.
        caption: Text below, before what the picture says of itself.
        **options: How to fit the bases where none is given; see `FitOptions`.

    Returns:
        The picture, uint8 of shape `(h, w, 3)`.

    Raises:
        ValueError: There is no layer, or one has too many axes; a mapping of bases lacks one; or
            arguments contradict each other.
        DataError: A layer does not have the channels of its basis.
        TypeError: A layer does not hold numbers.

    >>> rng = np.random.default_rng(0)
    >>> layers = {"enc.0": rng.normal(size=(8, 32, 32)), "enc.1": rng.normal(size=(16, 16, 16))}
    >>> strip(layers, input=rng.normal(size=(1, 64, 64))).ndim
    3
    """
    panels, notes, look = draw_layers(layers, basis, scale, options, single=single, height=height)
    panels = [*([] if input is None else [_input(input, height)]), *panels]
    notes = ["all are drawn equally high", *notes]
    look["legend"] = [*_panels.marks(panels), *look.get("legend", ())]
    return compose(_panels.lay_out(panels), title=title, caption=caption, notes=notes, **look)


def draw_layers(
    layers: Mapping[Any, Any],
    basis: Any,
    scale: Any,
    options: Any,
    *,
    single: bool,
    height: int,
) -> tuple[list[Panel], list[str], dict[str, Any]]:
    """Give a panel for each layer, what is to be said of all, and the key or legend of all."""
    _check(layers, basis, scale, options, single=single, height=height)
    arrays = {
        name: read_layer(layer, single=single, what=f"layer {str(name)!r}")
        for name, layer in layers.items()
    }
    if single:
        return _draw_maps(arrays, scale, height)
    return _draw_channels(arrays, basis, height, options)


def _draw_maps(
    arrays: Mapping[Any, NDArray[Any]], scale: Any, height: int
) -> tuple[list[Panel], list[str], dict[str, Any]]:
    """Draw each on its own scale, or all on one."""
    if scale is None:
        panels = [_own_map(str(name), array, height) for name, array in arrays.items()]
        return panels, ["each has a range of its own"], {}
    joined = np.concatenate([array.reshape(-1) for array in arrays.values()])
    scale = fitted(joined, scale, _PERCENTILE)
    panels = [
        _panels.scale_panel(str(name), array, scale, height) for name, array in arrays.items()
    ]
    key = _panels.panel_key(scale, height)
    return panels, [f"colours of all: {scale.caption}"], {"key": key}


def _draw_channels(
    arrays: Mapping[Any, NDArray[Any]], basis: Any, height: int, options: Any
) -> tuple[list[Panel], list[str], dict[str, Any]]:
    """Draw each in the colours of its own basis, or all in those of one."""
    given: Mapping[Any, ColorBasis | None] = (
        basis if isinstance(basis, Mapping) else dict.fromkeys(arrays, basis)
    )
    shared = {one.id: one for one in map(given.get, arrays) if one is not None}
    panels: list[Panel] = []
    for name, array in arrays.items():
        if (one := given[name]) is None:
            panels.append(_own_colours(str(name), array, height, options))
        else:
            own = len(shared) > 1
            panels.append(_panels.colour_panel(str(name), array, one, height, own=own))
    if len(shared) == 1:
        (only,) = shared.values()
        notes = [f"colours of all: {only.caption}", only.fidelity.caption]
        return panels, notes, {"legend": _panels.basis_legend(only)}
    told = "each has a basis of its own: compare shapes between them, not colours"
    return panels, [told if len(arrays) > 1 else ""], {}


def _own_map(name: str, array: NDArray[Any], height: int) -> Panel:
    scale = fit_values(array, _PERCENTILE)
    return _panels.scale_panel(name, array, scale, height, remark=scale.caption)


def _own_colours(name: str, array: NDArray[Any], height: int, options: Any) -> Panel:
    # Channels without a place, as after global pooling, have nothing to fit colours to.
    if array.ndim == 1 or not array.size:
        return _own_map(name, as_values(array).array, height)
    basis = fit_basis(array[None], **options)
    return _panels.colour_panel(name, array, basis, height, own=True)


def _input(given: Any, height: int) -> Panel:
    array = as_numbers(given)
    if array.ndim == 3 and len(array) == 3:
        return _panels.image_panel("input", as_values(array).array, height)
    if array.ndim > 1 and len(array) == 1:
        array = array[0]
    if array.ndim < 3:
        return _own_map("input", read_layer(array, single=True, what="input"), height)
    return _own_colours("input", read_layer(array, single=False, what="input"), height, {})


def _check(layers: Any, basis: Any, scale: Any, options: Any, *, single: bool, height: int) -> None:
    if not layers:
        raise ValueError("layers must hold at least one, got none")
    if height not in _HEIGHTS:
        raise ValueError(f"height must be 16 to 1024 pixels, got {height!r}")
    if single and (basis is not None or options):
        raise ValueError(
            "basis and its options must not be given with single=True, whose maps are drawn on a "
            "scale; leave out one of the two"
        )
    if scale is not None and not single:
        raise ValueError(
            "scale must be None where channels are drawn in colour; pick one map of each layer and "
            "say single=True"
        )
    if basis is not None and options:
        raise ValueError(
            f"{', '.join(options)} must not be given beside a basis, which has them already"
        )
    bases = basis if isinstance(basis, Mapping) else dict.fromkeys(layers, basis)
    lacking = [str(name) for name in layers if name not in bases]
    if lacking:
        raise ValueError(f"basis must have one for each layer, got none for {', '.join(lacking)}")
    for one in bases.values():
        if one is not None and not isinstance(one, ColorBasis):
            raise TypeError(f"basis must be a ColorBasis, got {one!r}; make one: render.fit_basis")
