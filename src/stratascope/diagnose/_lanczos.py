"""Eigenvalues of a symmetric matrix that can only be multiplied with vectors."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BROKEN = 1e-7  # of the largest coefficient: the space is exhausted


@dataclass(frozen=True, eq=False, slots=True)
class Ritz:
    """What a run has found.

    Attributes:
        values: Ritz values, ascending.
        weights: The square of the first component of each of their vectors, which add up to 1.
        residuals: How far each is at most from an eigenvalue.
        combinations: The vectors of the small matrix, in columns.
        basis: The Lanczos vectors, in rows.
    """

    values: NDArray[np.float64]
    weights: NDArray[np.float64]
    residuals: NDArray[np.float64]
    combinations: NDArray[np.float64]
    basis: Tensor

    def vector(self, index: int) -> Tensor:
        """Give a Ritz vector."""
        weights = torch.from_numpy(self.combinations[:, index].copy()).to(self.basis)
        found = weights @ self.basis
        return found / found.norm()


def iterate(
    multiply: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    finished: Callable[[Ritz], bool] = lambda ritz: False,
) -> Ritz:
    """Run Lanczos from a vector, orthogonalised in full, until it is finished.

    Golub and Van Loan, Matrix Computations, section 10.3.

    >>> matrix = torch.diag(torch.tensor([1.0, 2.0, 5.0]))
    >>> iterate(matrix.mv, torch.ones(3), 3).values.round(4).tolist()
    [1.0, 2.0, 5.0]
    """
    steps = min(steps, start.numel())
    basis = start.new_empty(steps, start.numel())
    basis[0] = start / start.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        done = len(diagonal) + 1
        known, last = basis[:done], basis[done - 1]
        image = multiply(last)
        diagonal.append(float(torch.dot(image.double(), last.double())))
        # Twice, as rounding in float32 leaves a rest of what was subtracted once.
        for _ in range(2):
            image = image - (known @ image) @ known
        length = float(image.norm())
        ritz = _solve(diagonal, beside, length, known)
        scale = max(map(abs, [*diagonal, *beside]))
        if done >= steps or length <= _BROKEN * scale or finished(ritz):
            return ritz
        beside.append(length)
        basis[done] = image / length


def _solve(diagonal: list[float], beside: list[float], rest: float, basis: Tensor) -> Ritz:
    small = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    values, vectors = np.linalg.eigh(small)
    # No closer than the products themselves are computed.
    rounding = torch.finfo(basis.dtype).eps * np.abs(values).max()
    return Ritz(
        values=values,
        weights=vectors[0] ** 2,
        residuals=np.maximum(np.abs(rest * vectors[-1]), rounding),
        combinations=vectors,
        basis=basis,
    )
