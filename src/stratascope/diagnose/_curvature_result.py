"""What was found of a loss's curvature."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stratascope.diagnose._file import read_group, write_group
from stratascope.diagnose._plot_curvature import draw_curvature

_ARRAYS = ("eigenvalues", "residuals", "nodes", "weights")


@dataclass(frozen=True, eq=False, slots=True)
class Curvature:
    """Eigenvalues, trace and spectral density of a Hessian or Gauss–Newton matrix.

    Attributes:
        eigenvalues: The largest ones, in descending order.
        residuals: How far each of them is at most from an eigenvalue.
        lowest: The lowest eigenvalue: clearly below 0 at a saddle.
        lowest_residual: How far that is at most from an eigenvalue.
        trace: The sum of all eigenvalues, estimated.
        trace_error: Its standard error over the probes; by XTrace, whose probes share their
            products, an estimate of it that is a little low.
        nodes: Ritz values of each probe, ``(probes, depth)``, NaN where a run was shorter.
        weights: The part of the spectrum that each of them stands for; those of a probe add up to
            1.
        loss: The loss at the model as it is.
        gradient_norm: The L2 norm of its gradient there.
        sharpness: By how much the highest loss that was found at the radius exceeds it, a lower
            bound; NaN where no radius was given.
        settings: Matrix, parameters and their norm, radius, batch normalisation, samples, seed.
        notes: What a reader must know.

    >>> one = np.array([2.0])
    >>> Curvature(one, np.zeros(1), 0.0, 0.0, 2.0, 0.0, one[None], np.ones((1, 1)))
    Curvature(top: 2, lowest: 0, trace: 2)
    """

    eigenvalues: NDArray[np.float64]
    residuals: NDArray[np.float64]
    lowest: float
    lowest_residual: float
    trace: float
    trace_error: float
    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]
    loss: float = math.nan
    gradient_norm: float = math.nan
    sharpness: float = math.nan
    settings: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        top = ", ".join(f"{value:.4g}" for value in self.eigenvalues)
        return f"Curvature(top: {top}, lowest: {self.lowest:.4g}, trace: {self.trace:.4g})"

    def density(
        self, points: int = 512, *, width: float | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Smooth the spectrum by a Gaussian: eigenvalues, and the density of them at each.

        Args:
            points: How many.
            width: Standard deviation of the Gaussian; a hundredth of the spectrum unless given.

        Raises:
            ValueError: It was measured without probes.

        >>> one = np.array([2.0])
        >>> found = Curvature(one, one, 0.0, 0.0, 2.0, 0.0, one[None], np.ones((1, 1)))
        >>> places, heights = found.density(width=0.1)
        >>> round(float(np.trapezoid(heights, places)), 2)
        1.0
        """
        if not self.nodes.size:
            raise ValueError("a density needs probes, got none: measure with probes=10")
        low, high = float(np.nanmin(self.nodes)), float(np.nanmax(self.nodes))
        width = width or max(high - low, abs(high), 1e-12) / 100
        places = np.linspace(low - 4 * width, high + 4 * width, points)
        found = ~np.isnan(self.nodes)
        nodes, weights = self.nodes[found], self.weights[found] / len(self.nodes)
        bells = np.exp(-0.5 * ((places[:, None] - nodes) / width) ** 2)
        return places, bells @ weights / (width * math.sqrt(2 * math.pi))

    def table(self) -> str:
        """Lay out the figures, line by line."""
        settings = self.settings or {}
        rows = [
            ("matrix", str(settings.get("matrix", ""))),
            ("loss", f"{self.loss:.6g}"),
            ("gradient norm", f"{self.gradient_norm:.4g}"),
            *(
                (f"eigenvalue {k + 1}", f"{value:.6g} ± {residual:.2g}")
                for k, (value, residual) in enumerate(
                    zip(self.eigenvalues, self.residuals, strict=True)
                )
            ),
            ("lowest eigenvalue", f"{self.lowest:.4g} ± {self.lowest_residual:.2g}"),
            ("trace", f"{self.trace:.4g} ± {self.trace_error:.2g} (standard error)"),
        ]
        if not math.isnan(self.sharpness):
            radius, norm = settings["radius"], settings["parameter_norm"]
            rows.append(
                (
                    "sharpness",
                    f"at least {self.sharpness:.4g} at L2 distance {radius:.3g}, "
                    f"{radius / norm:.2%} of the parameters' norm",
                )
            )
        wide = max(len(name) for name, _ in rows)
        lines = [f"{name:<{wide}}  {text}" for name, text in rows]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def save(self, path: str | Path) -> None:
        """Write it to a new folder, as a Zarr group.

        Raises:
            StoreError: There is something at this place.
        """
        fields = self.to_dict()
        arrays = {name: fields.pop(name) for name in _ARRAYS}
        write_group(Path(path), "curvature", arrays, fields)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            StoreError: There is none.
        """
        arrays, fields = read_group(Path(path), "curvature")
        return cls(**{**arrays, **fields, "notes": tuple(fields["notes"])})

    def plot(self, to: str | Path | None = None) -> Any:
        """Draw the spectral density, with the eigenvalues as lines below it.

        Needs matplotlib, the extra ``plot``.

        Args:
            to: A file to write the picture to, as PNG, SVG or PDF by its name.

        Returns:
            The ``matplotlib.figure.Figure``.

        Raises:
            ValueError: It was measured without probes.
            MissingExtraError: matplotlib is not installed.
        """
        return draw_curvature(self.to_dict(), self.density(2048), to=to)

    def to_dict(self) -> dict[str, Any]:
        """Give its fields by name, the arrays as they are."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
