"""What a landscape is made of, and its file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stratascope._tables import lay_out
from stratascope.diagnose import _landscape_file
from stratascope.diagnose._plot_landscape import draw_landscape
from stratascope.sites import suggest


@dataclass(frozen=True, eq=False, slots=True)
class Landscape:
    """Several metrics over one grid through the parameters of a network.

    Attributes:
        values: By metric, its value at each point of the grid, in the order of `axes`, NaN where
            the network or the metric gave NaN, or nothing was measured.
        errors: By metric, the standard error of each value, from the spread between batches. NaN
            where there is one batch only.
        centre: By metric, its value and standard error at the model as it was given.
        axes: One or two, the coordinates of the grid.
        labels: What one unit of each axis is.
        path: Coordinates of what is drawn into the picture, ``(points, axes)``, or None.
        explained: For each axis the part of the path's variance that it holds; empty without one.
        settings: How it was made: directions, batch normalisation, samples, batches, seed.
        notes: What a reader must know.
        rounds: Of a refined grid the round in which each point was measured: 0 for the first grid,
            -1 for not at all. None where all points were measured at once.

    >>> found = Landscape(
    ...     values={"mse": np.array([4.0, 1.0, np.nan])},
    ...     errors={"mse": np.full(3, np.nan)},
    ...     centre={"mse": (1.0, np.nan)},
    ...     axes=(np.array([-1.0, 0.0, 1.0]),),
    ...     labels=("t",),
    ... )
    >>> found.lowest("mse")
    ((0.0,), 1.0)
    """

    values: Mapping[str, NDArray[np.float64]]
    errors: Mapping[str, NDArray[np.float64]]
    centre: Mapping[str, tuple[float, float]]
    axes: tuple[NDArray[np.float64], ...]
    labels: tuple[str, ...]
    path: NDArray[np.float64] | None = None
    explained: tuple[float, ...] = ()
    settings: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    rounds: NDArray[np.int8] | None = None

    def __getitem__(self, metric: str) -> NDArray[np.float64]:
        """Give the values of a metric.

        Raises:
            KeyError: There is none of this name.
        """
        if metric not in self.values:
            raise KeyError(
                f"the landscape has no metric {metric!r}.{suggest(metric, self.values)} It has "
                f"{', '.join(self.values)}"
            )
        return self.values[metric]

    def __repr__(self) -> str:
        size = "×".join(str(len(axis)) for axis in self.axes)
        if self.rounds is not None:
            size = f"{(self.rounds >= 0).sum()} of {size}"
        return f"Landscape({size} points, metrics: {', '.join(self.values)})"

    def lowest(self, metric: str) -> tuple[tuple[float, ...], float]:
        """Find where a metric is lowest, and its value there."""
        return self._find(metric, np.nanargmin)

    def highest(self, metric: str) -> tuple[tuple[float, ...], float]:
        """Find where a metric is highest, and its value there."""
        return self._find(metric, np.nanargmax)

    def table(self) -> str:
        """Lay out each metric at the model, its lowest and its highest value, and where."""
        missing = 0 if self.rounds is None else int((self.rounds < 0).sum())
        rows = [
            [
                metric,
                f"{self.centre[metric][0]:.4g}",
                _name_error(self.centre[metric][1]),
                *(
                    cell
                    for place, value in (self.lowest(metric), self.highest(metric))
                    for cell in (f"{value:.4g}", ", ".join(f"{part:.3g}" for part in place))
                ),
                str(int(np.isnan(self.values[metric]).sum()) - missing),
            ]
            for metric in self.values
        ]
        headings = ["metric", "model", "± SE", "lowest", "at", "highest", "at", "NaN"]
        axes = [f"axis {k + 1}: {label}" for k, label in enumerate(self.labels)]
        return "\n".join([lay_out(headings, rows), "", *axes, *(f"note: {n}" for n in self.notes)])

    def save(self, path: str | Path) -> None:
        """Write it to a new folder, as a Zarr group.

        Raises:
            StoreError: There is something at this place.
        """
        _landscape_file.write(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save`, or `landscape` with ``to``, wrote.

        Raises:
            StoreError: There is none, or one that is not finished.
        """
        return cls(**_landscape_file.read(Path(path)))

    def plot(
        self,
        metrics: Sequence[str] | None = None,
        *,
        log: bool = False,
        to: str | Path | None = None,
    ) -> Any:
        """Draw the metrics side by side: lines with their error, or surfaces seen from above.

        The points that refined a surface are dots, and what was not measured is interpolated.
        Needs matplotlib, the extra ``plot``.

        Args:
            metrics: Which; all of them unless given.
            log: Draw the logarithm of the values.
            to: A file to write the picture to, as PNG, SVG or PDF by its name.

        Returns:
            The ``matplotlib.figure.Figure``.

        Raises:
            KeyError: There is no metric of this name.
            MissingExtraError: matplotlib is not installed.
        """
        names = list(self.values) if metrics is None else list(metrics)
        for name in names:
            _ = self[name]
        return draw_landscape(self.to_dict(), names, log=log, to=to)

    def to_dict(self) -> dict[str, Any]:
        """Give its fields by name, the arrays as they are."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def _find(self, metric: str, search: Any) -> tuple[tuple[float, ...], float]:
        values = self[metric]
        if np.isnan(values).all():
            return (math.nan,) * values.ndim, math.nan
        index = np.unravel_index(int(search(values)), values.shape)
        place = tuple(float(axis[k]) for axis, k in zip(self.axes, index, strict=True))
        return place, float(values[index])


def _name_error(error: float) -> str:
    return "" if math.isnan(error) else f"{error:.2g}"
