"""Three chosen channels, or expressions of channels, as red, green and blue."""

import ast
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from stratascope.render._fitted import Fitted, Floats, Parameters, Settings
from stratascope.render._oklab import srgb_to_oklab

_STRETCH = (0.02, 0.98)
_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}


def fit_bands(rows: Floats, settings: Settings) -> Fitted:
    """Fit `bands`: an expression each for red, green and blue, with a stretch of its own."""
    bands = settings.bands or _most_varying(rows)
    if len(bands) != 3:
        raise ValueError(
            f"bands must be three expressions of channels, got {list(bands)!r}; "
            "such as ('c3', 'c1 - c7', 'c2 / c5')"
        )
    values = np.stack([evaluate(band, rows.T) for band in bands])
    finite = [band[np.isfinite(band)] for band in values]
    low, high = (
        np.array([np.quantile(band, share) if len(band) else 0.0 for band in finite])
        for share in _STRETCH
    )
    notes = [f"red {bands[0]} · green {bands[1]} · blue {bands[2]}"]
    return Fitted({"bands": np.array(bands), "low": low, "high": high}, notes)


def bands_lab(parameters: Parameters, columns: Floats) -> Floats:
    """Map columns to OKLab."""
    values = np.stack([evaluate(str(band), columns) for band in parameters["bands"]])
    low, high = parameters["low"][:, None], parameters["high"][:, None]
    width = np.where(high > low, high - low, 1.0)
    stretched = np.where(high > low, (values - low) / width, 0.5)
    return srgb_to_oklab(stretched.clip(0, 1).T).T


def evaluate(expression: str, columns: Floats) -> Floats:
    """Compute an expression of channels, c0 being the first: numbers, + - * / and abs.

    >>> evaluate("(c1 - c0) / 2", np.array([[1.0], [5.0]])).tolist()
    [2.0]
    """
    try:
        tree = ast.parse(expression, mode="eval").body
        with np.errstate(all="ignore"):
            return np.broadcast_to(_value(tree, columns), columns.shape[1:]).astype(np.float64)
    except (SyntaxError, KeyError):
        raise ValueError(
            f"a band must be made of channels c0 to c{len(columns) - 1}, numbers, + - * / and "
            f"abs(...), got {expression!r}"
        ) from None


def _value(node: ast.AST, columns: Floats) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name) if name[:1] == "c" and name[1:].isdecimal():
            return dict(enumerate(columns))[int(name[1:])]
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left, columns), _value(right, columns))
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATORS[type(op)](_value(operand, columns))
        case ast.Call(func=ast.Name(id="abs"), args=[argument], keywords=[]):
            return np.abs(_value(argument, columns))
    raise KeyError(type(node).__name__)


def _most_varying(rows: Floats) -> list[str]:
    channels = np.sort(np.argsort(-rows.var(0), kind="stable")[:3])
    return [f"c{k}" for k in np.resize(channels, 3)]
