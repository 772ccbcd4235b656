"""The tokens of a transformer, as a matrix or where they come from in the image."""

from typing import Any

from stratascope.render._arrays import as_values
from stratascope.render._grid import grid
from stratascope.render._map import map
from stratascope.render._page import Picture
from stratascope.render._scale import Estimator, Scale
from stratascope.render._text import count
from stratascope.render._transform import Transform


def tokens(
    array: Any,
    *,
    shape: tuple[int, int] | None = None,
    scale: Scale | None = None,
    percentile: float = 99.5,
    estimator: Estimator = "percentile",
    transform: Transform = "linear",
    title: str | None = None,
    caption: str | None = None,
) -> Picture:
    """Draw tokens `(T, C)` as a matrix, or each channel as a map of where the tokens come from.

    Args:
        array: Numbers of shape `(T, C)`: an array, a tensor on any device, nested sequences.
        shape: How many tokens stand below and beside each other in the image, row by row; None
            for the matrix. What comes before the last `height * width` tokens, such as a class
            token, has no place there: it is left out, and the caption says so.
        scale: The range of the colours; fitted to the tokens that are drawn if None.
        percentile: Where a fitted range ends; see `fit_scale`.
        estimator: What sets a fitted range; see `fit_scale`.
        transform: How values spread over a fitted range; see `Scale`.
        title: A line above the picture.
        caption: Text below the picture, before what it says of itself.

    Returns:
        The picture, uint8 of shape `(h, w, 3)`.

    Raises:
        ValueError: The array does not have two dimensions, or fewer tokens than the shape.
        TypeError: The array does not hold numbers, or `scale` is not a Scale.

    >>> class_token_and_four = [[9.0], [0.0], [1.0], [2.0], [3.0]]
    >>> tokens(class_token_and_four, shape=(2, 2)).ndim
    3
    """
    values = as_values(array)
    numeric = values.array
    if numeric.ndim != 2:
        remedy = "pick a sample: array[0]" if numeric.ndim == 3 else "pick the tokens to draw"
        raise ValueError(f"the array must have shape (T, C), got {numeric.shape}; {remedy}")
    look: dict[str, Any] = {"percentile": percentile, "estimator": estimator}
    look |= {"scale": scale, "transform": transform, "title": title}
    said = [caption, values.note]
    if shape is None:
        return map(numeric, axes=("token", "channel"), caption=_lines(said), **look)
    height, width = shape
    before = len(numeric) - height * width
    if height < 1 or width < 1 or before < 0:
        raise ValueError(
            f"shape must be of at most the {len(numeric)} tokens, got {shape!r}; leave it out for "
            "the matrix"
        )
    if before:
        said.append(f"{count(before, 'token')} before the {height} x {width} drawn left out")
    maps = numeric[before:].T.reshape(-1, height, width)
    return grid(maps, caption=_lines(said), **look)


def _lines(texts: list[str | None]) -> str:
    return "\n".join(filter(None, texts))
