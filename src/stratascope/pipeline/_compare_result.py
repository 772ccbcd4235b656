"""What a comparison of two stores, or of the sites of one, has found."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stratascope._optional import require
from stratascope._tables import lay_out, lay_out_html
from stratascope.errors import SiteNotFoundError
from stratascope.pipeline._compare_channels import SiteDifference
from stratascope.sites import suggest

_DISTANCES = ("procrustes",)
_MEASURES = ("relative", "largest")


class Differences(dict[str, SiteDifference]):
    """Differences by site, which name what is near one that is not there.

    >>> Differences()["enc"]
    Traceback (most recent call last):
    stratascope.errors.SiteNotFoundError: both stores must have a site 'enc' to tell how far its...
    """

    def __missing__(self, site: str) -> SiteDifference:
        raise SiteNotFoundError(
            f"both stores must have a site {site!r} to tell how far its values lie apart, of the "
            f"same shape, got none.{suggest(site, self)} list(found.differences) lists all "
            f"{len(self)}"
        )


@dataclass(frozen=True, eq=False, slots=True)
class Comparison:
    """How much the sites of one store are like those of another, or of its own.

    Attributes:
        method: How the matrix was made.
        matrix: A figure for each site of the first and each of the second, ``(A, B)``:
            similarities, 1 for alike; of ``"procrustes"`` distances, 0 for alike. NaN where there
            is none; `notes` say why.
        sites_a: The sites of the rows, in the order of execution.
        sites_b: The sites of the columns.
        a: What the first is: the store's path, and the step.
        b: What the second is; None where the sites of one store were compared.
        samples: Index in the data set of each sample that was compared.
        differences: By site, how far the values lie apart where both have a site of the same name
            and shape, in the order of execution.
        notes: What was left out or could not be computed, and why.

    >>> import numpy as np, torch, stratascope as ss
    >>> data = np.random.default_rng(0).normal(size=(64, 1, 12)).astype("float32")
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
    >>> store = ss.extract(model, data, "**", to="one.zarr", progress=False)
    >>> found = ss.compare(store, store)
    >>> found.matrix.shape, found.first_divergence()
    ((2, 2), None)
    >>> print(found.differences["1"])
    1: identical to the bit
    """

    method: str
    matrix: NDArray[np.float64]
    sites_a: tuple[str, ...]
    sites_b: tuple[str, ...]
    a: str
    b: str | None
    samples: NDArray[np.int64]
    differences: Mapping[str, SiteDifference]
    notes: tuple[str, ...] = ()

    def first_divergence(
        self, tolerance: float = 0.0, *, measure: Literal["relative", "largest"] = "relative"
    ) -> SiteDifference | None:
        """Find the first site in the order of execution at which the stores differ, or None.

        Args:
            tolerance: How far they may differ; by 0 not at all, in value.
            measure: What is compared with it: the site's ``relative`` L2 difference, or its
                ``largest`` absolute one.

        Raises:
            ValueError: No site is in both stores, so that there is nothing to tell, or `measure`
                is neither.
        """
        if measure not in _MEASURES:
            raise ValueError(
                f"measure must be one of {', '.join(map(repr, _MEASURES))}, got {measure!r}."
                f"{suggest(str(measure), _MEASURES)}"
            )
        if not self.differences:
            raise ValueError(
                "two stores must have a site of the same name and shape to diverge, got none in "
                f"common between {self.a} and {self.b}"
            )
        values = self.differences.values()
        # What is too large to be squared has NaN, and is not within any tolerance.
        return next((one for one in values if not getattr(one, measure) <= tolerance), None)

    def similarity(self, site: str) -> float:
        """Give the figure of a site in the first store and the same site in the second.

        Raises:
            SiteNotFoundError: It is not in both; the message lists near names.
        """
        for names, place in ((self.sites_a, self.a), (self.sites_b, self.b or self.a)):
            if site not in names:
                raise SiteNotFoundError(
                    f"a site must be in both to be compared with itself, and {place} has no "
                    f"{site!r} here.{suggest(site, names)} sites_a and sites_b list what there is"
                )
        return float(self.matrix[self.sites_a.index(site), self.sites_b.index(site)])

    def table(self) -> str:
        """Lay out what each site of the first store is most like, and how far the values differ."""
        headings, rows = self._list_rows()
        return "\n".join([*self._list_facts(), lay_out(headings, rows)])

    def to_dict(self) -> dict[str, Any]:
        """Give everything but the channels as plain values, ready for JSON; None stands for NaN."""
        names = ("identical", "changed", "values", "relative", "cosine", "largest")
        differences = [
            {
                "site": found.site,
                **{name: _plain(getattr(found, name)) for name in names},
                "worst": {name: found.worst(name) for name in ("relative", "cosine", "largest")},
            }
            for found in self.differences.values()
        ]
        return {
            "method": self.method,
            "a": self.a,
            "b": self.b,
            "samples": len(self.samples),
            "sites_a": list(self.sites_a),
            "sites_b": list(self.sites_b),
            "matrix": [[_plain(value) for value in row] for row in self.matrix.tolist()],
            "differences": differences,
            "notes": list(self.notes),
        }

    def to_pandas(self, of: Literal["sites", "channels"] = "sites") -> Any:
        """Give a `pandas.DataFrame`.

        Args:
            of: The matrix of the ``"sites"``, or the differences, a row for each site and channel.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        pandas = require("pandas", extra="pandas")
        if of == "sites":
            index, columns = (list(sites) for sites in (self.sites_a, self.sites_b))
            return pandas.DataFrame(self.matrix, index=index, columns=columns)
        frames = {
            site: pandas.DataFrame(asdict(found.channels))
            for site, found in self.differences.items()
        }
        return pandas.concat(frames, names=["site", "channel"]) if frames else pandas.DataFrame()

    def to_xarray(self) -> Any:
        """Give the matrix as an `xarray.DataArray` with axes ``site_a`` and ``site_b``.

        Raises:
            MissingExtraError: xarray is not installed.
        """
        xarray = require("xarray", extra="xarray")
        return xarray.DataArray(
            self.matrix,
            coords={"site_a": list(self.sites_a), "site_b": list(self.sites_b)},
            dims=("site_a", "site_b"),
            name=self.method,
            attrs={"a": self.a, "b": self.b or self.a, "samples": len(self.samples)},
        )

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return lay_out_html(self._list_facts(), *self._list_rows())

    def _list_facts(self) -> list[str]:
        others = f" and of {self.b}" if self.b is not None else ""
        return [f"{self.method} of {self.a}{others}, {len(self.samples):,} samples", *self.notes]

    def _list_rows(self) -> tuple[list[str], list[list[str]]]:
        """List a row for each site of the first store."""
        two = self.b is not None
        headings = ["site", *(["itself"] if two else []), "most like", self.method]
        if self.differences:
            headings += ["relative L2", "cosine", "max |Δ|", "channel", "sample"]
        rows: list[list[str]] = []
        for place, site in enumerate(self.sites_a):
            row = [site]
            if two:
                row += [_name(self.similarity(site)) if site in self.sites_b else ""]
            row += self._name_nearest(place)
            if self.differences:
                row += _name_difference(self.differences.get(site))
            rows.append(row)
        return headings, rows

    def _name_nearest(self, place: int) -> list[str]:
        figures = self.matrix[place] * (-1 if self.method in _DISTANCES else 1)
        ranked = np.where(np.isnan(figures), -np.inf, figures)
        if self.b is None:
            ranked[place] = -np.inf
        best = int(np.argmax(ranked))
        if ranked[best] == -np.inf:
            return ["", ""]
        return [self.sites_b[best], _name(float(self.matrix[place, best]))]


def _name_difference(found: SiteDifference | None) -> list[str]:
    if found is None:
        return [""] * 5
    if found.identical:
        return ["identical", "", "0", "", ""]
    worst = found.worst("largest") or ("", "")
    figures = (f"{value:.3g}" for value in (found.relative, found.cosine, found.largest))
    return [*figures, *map(str, worst)]


def _name(figure: float) -> str:
    return "–" if math.isnan(figure) else f"{figure:.3f}"


def _plain(value: Any) -> Any:
    """Give None for NaN, and a text for an infinity, for which JSON has no form."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
