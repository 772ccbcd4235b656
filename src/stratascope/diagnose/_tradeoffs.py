"""Which metrics agree, where each is best, and what one costs the other."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stratascope._tables import lay_out
from stratascope.diagnose._file import read_group, write_group
from stratascope.diagnose._landscape_result import Landscape
from stratascope.diagnose._plot_tradeoffs import draw_tradeoffs
from stratascope.diagnose._ranks import rank
from stratascope.sites import suggest

_KIND = "trade-off"
_AXES = {
    "points": ("points", "metrics"),
    "places": ("points", "axes"),
    "agreement": ("metrics", "metrics"),
    "best": ("metrics",),
    "front": ("front",),
}


@dataclass(frozen=True, eq=False, slots=True)
class Tradeoffs:
    """How several metrics relate over the points of a grid or over checkpoints.

    Attributes:
        metrics: Their names.
        maximize: Those of which more is better; of the others less is.
        points: The metrics at each point that has all of them, ``(points, metrics)``.
        places: The coordinates of each of these points, or the number of its checkpoint,
            ``(points, axes)``.
        agreement: Spearman's rank correlation of each pair, ``(metrics, metrics)``, with the sign
            that makes 1 of two metrics that always agree on which point is the better one. Of a
            refined landscape over its first grid alone, so that no place counts for more.
        best: For each metric the index of its best point.
        front: The indices of the points that no other point is better than in one metric without
            being worse in another: the Pareto front.
        notes: What a reader must know.

    >>> tradeoffs({"mae": [3, 2, 1], "mse": [1, 2, 3]})
    Tradeoffs(mae, mse: 3 points, 3 on the front)
    """

    metrics: tuple[str, ...]
    maximize: tuple[str, ...]
    points: NDArray[np.float64]
    places: NDArray[np.float64]
    agreement: NDArray[np.float64]
    best: NDArray[np.int64]
    front: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"Tradeoffs({', '.join(self.metrics)}: {len(self.points)} points, "
            f"{len(self.front)} on the front)"
        )

    def table(self) -> str:
        """Lay out what every metric is where each is best, and how far they agree."""
        best_rows = [
            [
                f"best {name}",
                ", ".join(f"{part:.3g}" for part in self.places[index]),
                *(f"{value:.4g}" for value in self.points[index]),
            ]
            for name, index in zip(self.metrics, self.best, strict=True)
        ]
        agree_rows = [
            [name, *(f"{value:.3f}" for value in row)]
            for name, row in zip(self.metrics, self.agreement, strict=True)
        ]
        share = len(self.front) / len(self.points)
        return "\n".join(
            [
                lay_out(["", "at", *self.metrics], best_rows),
                "",
                lay_out(["rank correlation", *self.metrics], agree_rows),
                "",
                f"Pareto front: {len(self.front)} of {len(self.points)} points ({share:.1%})",
                *(f"note: {note}" for note in self.notes),
            ]
        )

    def save(self, path: str | Path) -> None:
        """Write it to a new folder, as a Zarr group.

        Raises:
            StoreError: There is something at this place.
        """
        fields = self.to_dict()
        arrays = {name: fields.pop(name) for name in _AXES}
        write_group(Path(path), _KIND, arrays, fields, _AXES)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            StoreError: There is none.
        """
        arrays, values = read_group(Path(path), _KIND)
        return cls(**{**arrays, **{name: tuple(value) for name, value in values.items()}})

    def plot(self, to: str | Path | None = None) -> Any:
        """Draw how far the metrics agree, where each is best, and the front of the worst pair.

        Needs matplotlib, the extra ``plot``.

        Args:
            to: A file to write the picture to, as PNG, SVG or PDF by its name.

        Returns:
            The ``matplotlib.figure.Figure``.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return draw_tradeoffs(self.to_dict(), to=to)

    def to_dict(self) -> dict[str, Any]:
        """Give its fields by name, the arrays as they are."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def tradeoffs(
    values: Landscape | Mapping[str, ArrayLike], *, maximize: Collection[str] = ()
) -> Tradeoffs:
    """Find out how far metrics agree over a grid or over checkpoints, and what one costs another.

    Points at which any metric is not finite are left out, and counted in the notes.

    Args:
        values: A landscape; or by metric its value at each checkpoint, in order.
        maximize: The metrics of which more is better, such as SSIM.

    Raises:
        ValueError: There are not two metrics of the same length, fewer than two points have all of
            them, or `maximize` names another.

    >>> found = tradeoffs({"mae": [3, 2, 1], "ssim": [0.1, 0.3, 0.2]}, maximize=["ssim"])
    >>> found.front.tolist(), round(float(found.agreement[0, 1]), 3)
    ([1, 2], 0.5)
    """
    first: Any = True
    if isinstance(values, Landscape):
        grids: Mapping[str, Any] = values.values
        mesh = np.meshgrid(*values.axes, indexing="ij")
        places = np.stack([axis.ravel() for axis in mesh], axis=1)
        if values.rounds is not None:
            measured = values.rounds >= 0
            grids = {name: grid[measured] for name, grid in grids.items()}
            places, first = places[measured.ravel()], values.rounds[measured] == 0
    else:
        grids, places = values, np.empty((0, 1))
    columns = {name: np.asarray(grid, dtype=np.float64).ravel() for name, grid in grids.items()}
    lengths = {len(column) for column in columns.values()}
    if len(columns) < 2 or len(lengths) != 1:
        raise ValueError(
            "values must be two metrics or more, each with one value a point, got "
            f"{ {name: len(column) for name, column in columns.items()} }"
        )
    for name in maximize:
        if name not in columns:
            raise ValueError(
                f"maximize must name metrics, got {name!r}.{suggest(name, columns)} There are "
                f"{', '.join(columns)}"
            )
    points = np.stack([*columns.values()], axis=1)
    if not len(places):
        places = np.arange(len(points), dtype=np.float64)[:, None]
    kept = np.asarray(np.isfinite(points).all(axis=1))
    first = (kept & first)[kept]
    if first.sum() < 2:
        raise ValueError(
            f"two points or more must have a finite value of every metric, got {first.sum()} of "
            f"{len(points)}"
        )
    points, places = points[kept], places[kept]
    # Less is better from here on.
    signs = np.array([-1.0 if name in maximize else 1.0 for name in columns])
    losses = points * signs
    lost = len(kept) - len(points)
    return Tradeoffs(
        metrics=tuple(columns),
        maximize=tuple(name for name in columns if name in maximize),
        points=points,
        places=places,
        agreement=_correlate(losses[first]),
        best=losses.argmin(axis=0),
        front=_find_front(losses),
        notes=(f"{lost} points without a finite value of every metric are left out",) * bool(lost),
    )


def _correlate(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    ranks = np.stack([rank(column) for column in losses.T])
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    lengths = np.sqrt((centred**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (centred @ centred.T) / np.outer(lengths, lengths)


def _find_front(losses: NDArray[np.float64]) -> NDArray[np.int64]:
    beaten = [
        bool(((losses <= point).all(axis=1) & (losses < point).any(axis=1)).any())
        for point in losses
    ]
    return np.flatnonzero(~np.array(beaten))
