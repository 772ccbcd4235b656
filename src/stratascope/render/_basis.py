"""ColorBasis: the recipe that turns channels into colours, the same way every time."""

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from stratascope._scramble import mix
from stratascope.errors import DataError
from stratascope.render import _colours
from stratascope.render._arrays import as_numbers, as_values
from stratascope.render._components import analyse_covariance, scaled, tame, usual_exponent
from stratascope.render._fidelity import Fidelity, measure
from stratascope.render._fitted import Fitted, Floats, Parameters
from stratascope.render._gamut import to_bytes
from stratascope.render._linear import USUAL, placed
from stratascope.render._methods import METHODS, prepare
from stratascope.render._save import written_whole
from stratascope.render._text import share

FORMAT = 1
# Colours are rounded to far less than a byte tells apart, and far more than the last bit of a sum,
# so that neither the number of threads nor the size of a block can move a byte.
_LATTICE = 2**14
_FARTHEST = 8.0
# Columns that are turned to colours at once: few enough to stay in the cache of a processor.
_AT_ONCE = 2**18
_MEASURED = 16_384
_ABOUT = "about"
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile
)  # fmt: skip
FINE, NAN, PLUS, MINUS = range(4)
_MARKS = np.array(
    [(0, 0, 0), _colours.NAN_LIGHT, _colours.PLUS_INFINITY, _colours.MINUS_INFINITY], np.uint8
)


@dataclass(frozen=True, slots=True, eq=False)
class Coloured:
    """The colours of columns.

    Attributes:
        lab: OKLab, shape ``(3, n)``; 0 where there is none.
        kinds: Whether a column is fine, holds a NaN, or only infinities.
    """

    lab: Floats
    kinds: NDArray[np.uint8]

    def to_bytes(self) -> NDArray[np.uint8]:
        """Give sRGB `(n, 3)`, what is not finite in its own colour."""
        colours = to_bytes(self.lab)[0]
        marked = np.flatnonzero(self.kinds)
        colours[marked] = _MARKS[self.kinds[marked]]
        return colours


@final
@dataclass(frozen=True, slots=True, eq=False)
class ColorBasis:
    """The recipe that turns C channels into three colours, the same way every time.

    Pictures that share a basis can be compared; `fit_basis` makes one. It never changes, and its
    `id` is the SHA-256 of all that it holds.

    Attributes:
        method: The name of the way from channels to colours.
        channels: How many channels it takes.
        preprocess: What is done to each position first: ``"none"``, ``"l2"``, ``"standardise"``.
        parameters: What the fit gave, arrays by name.
        fidelity: How far the colours can be trusted, on the rows of the fit.
        about: What it was fitted to and how: settings, rows seen and dropped, remarks.

    >>> import numpy as np
    >>> from stratascope import render
    >>> basis = render.fit_basis(np.random.default_rng(0).normal(size=(4, 8, 16, 16)))
    >>> basis.method, basis.channels, len(basis.id)
    ('pca-oklab', 8, 64)
    >>> basis.paint(np.ones((16, 16, 8))).shape
    (16, 16, 3)
    """

    method: str
    channels: int
    preprocess: str
    parameters: Parameters
    fidelity: Fidelity
    about: Mapping[str, Any]

    @property
    def id(self) -> str:
        """SHA-256 of the content, 64 hexadecimal digits."""
        digest = hashlib.sha256(self._described().encode())
        for name in sorted(self.parameters):
            array = self.parameters[name]
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def caption(self) -> str:
        """Method, name, and what it was fitted to.

        >>> import numpy as np
        >>> from stratascope import render
        >>> render.fit_basis(np.eye(3)[None, :, :], method="energy").caption[:8]
        'energy ('
        """
        about = self.about
        text = f"{self.method} (basis {self.id[:8]}), fitted to {about['rows']} positions"
        if about["dropped"]:
            text += f", {share(about['dropped'] / about['seen'])} not finite and left out"
        return text

    @property
    def summary(self) -> dict[str, Any]:
        """What a picture made with it should say of it: all but the parameters."""
        return {"id": self.id, **json.loads(self._described())}

    def __repr__(self) -> str:
        return f"ColorBasis {self.method} of {self.channels} channels, {self.id[:8]}"

    def paint(self, values: Any, *, axis: int = -1) -> NDArray[np.uint8]:
        """Give each position its colour.

        Args:
            values: Numbers of any shape with the channels along one axis.
            axis: Which axis that is.

        Returns:
            sRGB, uint8, of the same shape without that axis and with 3 at its end. Positions with
            NaN are pale grey, those with +Inf magenta, with -Inf cyan.

        Raises:
            DataError: There are not as many channels as the basis takes.
        """
        array = as_numbers(values)
        colours = self.colour(self.flatten(array, axis)).to_bytes()
        return colours.reshape(*np.delete(array.shape, axis), 3)

    def measure(self, values: Any, *, axis: int = -1) -> Fidelity:
        """Measure how far the colours of these values can be trusted; see `Fidelity`.

        Raises:
            DataError: There are not as many channels as the basis takes.
        """
        columns = self.flatten(values, axis)
        if columns.shape[1] > _MEASURED:
            columns = columns[:, choose(columns.shape[1], _MEASURED)]
        coloured = self.colour(columns)
        fine = coloured.kinds == FINE
        kept = columns[:, fine].astype(np.float64)
        rows = prepare(kept, self.preprocess, self.parameters).T
        return measure(rows, coloured.lab[:, fine])

    def colour(self, columns: NDArray[Any]) -> Coloured:
        """Give columns `(C, n)` of any number type their colours."""
        count = columns.shape[1]
        lab, kinds = np.zeros((3, count)), np.zeros(count, np.uint8)
        step = max(1, _AT_ONCE // max(1, self.channels))
        for start in range(0, count, step):
            chosen = slice(start, start + step)
            block = columns[:, chosen].astype(np.float64)
            kinds[chosen] = kinds_of(block)
            bad = kinds[chosen] != FINE
            if bad.any():
                block[:, bad] = 0
            lab[:, chosen] = self._lab(block)
        missing = np.isnan(lab).any(0)
        kinds[missing] = np.maximum(kinds[missing], NAN)
        lab[:, kinds != FINE] = 0
        return Coloured(np.rint(lab.clip(-_FARTHEST, _FARTHEST) * _LATTICE) / _LATTICE, kinds)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the basis to ``<id>.npz`` in a folder, such as ``basis`` in that of a store.

        The file is a NumPy archive of the parameters, with all else as JSON in ``about``. It
        appears whole or not at all.

        Returns:
            Its path.
        """
        described = np.frombuffer(self._described().encode(), np.uint8)
        with written_whole(Path(folder) / f"{self.id}.npz") as file:
            np.savez(file, allow_pickle=False, **{**self.parameters, _ABOUT: described})
        return Path(folder) / f"{self.id}.npz"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ColorBasis":
        """Read a basis that `save` wrote.

        Raises:
            DataError: The file is none, or not as it was written.
        """
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            known = json.loads(arrays.pop(_ABOUT).tobytes())
            if known.pop("format") != FORMAT:
                raise KeyError("format")
            known["fidelity"] = Fidelity(**known["fidelity"])
            basis = cls(parameters=frozen(arrays), **known)
        except FileNotFoundError:
            raise
        except _UNREADABLE as error:
            raise DataError(
                f"{os.fspath(path)!r} must be a colour basis written by save, got a file that "
                f"cannot be read as one ({type(error).__name__}); fit it again"
            ) from error
        named = Path(path).stem
        if len(named) == 64 and named != basis.id:
            raise DataError(
                f"{os.fspath(path)!r} must hold the basis that its name says, got {basis.id}; the "
                "file was changed: fit it again"
            )
        return basis

    @classmethod
    def from_covariance(
        cls, mean: Any, covariance: Any, rows: Any, *, vividness: float = USUAL
    ) -> "ColorBasis":
        """Make a `pca-oklab` basis of a covariance that is known already, as from a profile.

        Args:
            mean: Of each channel, shape `(C,)`.
            covariance: Of the channels, shape `(C, C)`; those with NaN are left out.
            rows: Some positions, shape `(n, C)`: they give the components their signs, and the
                colours their range.
            vividness: As in `fit_basis`.

        Raises:
            DataError: The shapes do not agree, or no row is finite.

        >>> import numpy as np
        >>> rows = np.random.default_rng(0).normal(size=(500, 6)) * [3, 2, 1, 0, 0, 0]
        >>> covariance = np.cov(rows.T, bias=True)
        >>> ColorBasis.from_covariance(rows.mean(0), covariance, rows).fidelity.shepard > 0.9
        True
        """
        middle, spread, some = (as_values(given).array for given in (mean, covariance, rows))
        channels = len(middle) if middle.ndim == 1 else 0
        if spread.shape != (channels, channels) or some.ndim != 2 or some.shape[1] != channels:
            raise DataError(
                f"mean, covariance and rows must have shapes (C,), (C, C) and (n, C), got "
                f"{middle.shape}, {spread.shape} and {some.shape}"
            )
        known = np.isfinite(middle) & np.isfinite(spread.diagonal())
        finite = np.isfinite(some[:, known]).all(1)
        kept = np.where(known, some, 0.0)[finite]
        if not len(kept):
            raise DataError("rows must hold a finite row, got none; pass other positions")
        exponent = usual_exponent(kept)
        kept = tame(scaled(kept, exponent))
        middle, spread = np.ldexp(middle, -exponent), np.ldexp(spread, -2 * exponent)
        fitted = placed(analyse_covariance(middle, spread, kept), vividness)
        about = {"vividness": vividness, "seen": len(some), "dropped": int((~finite).sum())}
        return assemble("pca-oklab", fitted, kept, {"exponent": np.array(exponent)}, about=about)

    def flatten(self, values: Any, axis: int = 0) -> NDArray[Any]:
        """Turn values with this basis's channels along one axis into columns `(C, n)`."""
        array = as_numbers(values)
        if not -array.ndim <= axis < array.ndim or array.shape[axis] != self.channels:
            raise DataError(
                f"values must have {self.channels} channels along axis {axis} for this basis, got "
                f"shape {array.shape}"
            )
        array = np.moveaxis(array, axis, 0)
        return array.reshape(self.channels, math.prod(array.shape[1:]))

    def _lab(self, columns: Floats) -> Floats:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            prepared = prepare(columns, self.preprocess, self.parameters)
            return METHODS[self.method].lab(self.parameters, prepared)

    def _described(self) -> str:
        plain = {
            "format": FORMAT,
            "method": self.method,
            "channels": self.channels,
            "preprocess": self.preprocess,
            "fidelity": asdict(self.fidelity),
            "about": dict(self.about),
        }
        return json.dumps(plain, sort_keys=True)


def kinds_of(block: Floats) -> NDArray[np.uint8]:
    """Tell for each column `(C, n)` whether it is fine, holds a NaN, +Inf or -Inf."""
    kinds = np.zeros(block.shape[1], np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        # A finite sum has finite terms, and is had in a fraction of the time.
        bad = np.flatnonzero(~np.isfinite(block.sum(0)))
    if len(bad):
        part = block[:, bad]
        kinds[bad] = np.where((part == -np.inf).any(0), MINUS, FINE)
        kinds[bad[(part == np.inf).any(0)]] = PLUS
        kinds[bad[np.isnan(part).any(0)]] = NAN
    return kinds


def assemble(
    method: str,
    fitted: Fitted,
    rows: Floats,
    own: Parameters,
    *,
    preprocess: str = "none",
    about: Mapping[str, Any],
) -> ColorBasis:
    """Make a basis of what a fit gave, and measure it on its rows, tame and scaled.

    Args:
        method: Its name.
        fitted: What its fit gave.
        rows: Shape ``(n, C)``.
        own: The parameters of `prepare`.
        preprocess: What `prepare` is to do.
        about: What else is to be kept.
    """
    exponent = int(own["exponent"])
    columns = np.ldexp(rows, exponent).T
    weak = np.ldexp(otsu(np.sqrt(np.square(rows).sum(1))), exponent)
    parameters = {**fitted.parameters, **own, "background": np.array(weak)}
    legend = [(name, [round(float(part), 3) for part in colour]) for name, colour in fitted.legend]
    told = {"rows": len(rows), **about, "notes": list(fitted.notes), "legend": legend}
    # Through JSON, so that what is loaded is what was saved.
    plain = json.loads(json.dumps(told))
    nothing = Fidelity(None, None, None, 0.0)
    basis = ColorBasis(method, rows.shape[1], preprocess, frozen(parameters), nothing, plain)
    measured = basis.measure(columns, axis=0)
    return replace(basis, fidelity=replace(measured, explained=fitted.explained))


def choose(count: int, amount: int) -> NDArray[np.int64]:
    """Choose so many of the numbers below a count, always the same ones."""
    return np.sort(np.argsort(mix(np.arange(count)), kind="stable")[:amount])


def frozen(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Copy arrays so that nobody can write to them."""
    kept = {name: np.array(array) for name, array in arrays.items()}
    for array in kept.values():
        array.flags.writeable = False
    return kept


def otsu(values: Floats) -> float:
    """Give the value that parts weak from strong with the least spread on either side (Otsu 1979).

    >>> 1 < otsu(np.array([0.9, 1.0, 1.1, 8.9, 9.0, 9.1])) < 8.9
    True
    """
    if not len(values) or values.min() == values.max():
        return 0.0
    counts, edges = np.histogram(values, 256)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    sums = np.cumsum(counts * middles)
    above = len(values) - below
    apart = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    between = below * above * np.square(apart)
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float(edges[1 + int(best.mean())])
