"""The trace of a matrix that can only be multiplied with vectors."""

from collections.abc import Callable

import torch
from torch import Tensor

_DEPENDENT = 1e3  # times the rounding: from here on others span a column too


def xtrace(multiply: Callable[[Tensor], Tensor], probes: Tensor, images: Tensor) -> Tensor:
    """Estimate the trace of a symmetric matrix once with each of m vectors, ``(m,)``.

    XTrace of Epperly, Tropp and Webber, XTrace: making the most of every sample in stochastic
    trace estimation, SIAM J. Matrix Anal. Appl. 2024. Each estimate takes the trace exactly on
    what the matrix makes of the other vectors, and by one vector, stretched to the dimension
    (their section 2.3), on the rest. The mean of all is unbiased, and their standard deviation by
    the root of m says how sure it is. Products of the matrix with m further vectors are taken.

    Args:
        multiply: Multiplies the matrix with a vector.
        probes: The vectors in columns, ``(n, m)``, independent and of any direction alike.
        images: What the matrix makes of them, ``(n, m)``.

    >>> matrix = torch.diag(torch.tensor([5.0, 2.0, 0.0, 0.0, 0.0]))
    >>> probes = torch.randn(5, 3)
    >>> xtrace(matrix.mv, probes, matrix @ probes).round(decimals=3).tolist()
    [7.0, 7.0, 7.0]
    """
    basis, sizes, turned = torch.linalg.svd(images, full_matrices=False)
    rounding = torch.finfo(sizes.dtype).eps
    rank = int((sizes > sizes[0] * len(sizes) * rounding).sum())
    basis, turned = basis[:, :rank], turned[:rank]
    # In columns: the direction of the basis that is lost without each vector; none, where the
    # others span it too.
    lost = turned / sizes[:rank, None]
    lost = lost / lost.norm(dim=0).clamp_min(torch.finfo(sizes.dtype).tiny)
    lost = lost * (turned.square().sum(0) > 1 - _DEPENDENT * rounding)
    onto = torch.stack([multiply(column) for column in basis.T], 1) if rank else basis
    small = basis.T @ onto
    within = small.trace() - (lost * (small @ lost)).sum(0)
    inside = basis.T @ probes
    inside = inside - lost * (lost * inside).sum(0)
    rest = probes - basis @ inside
    dimension = len(probes) - rank + lost.square().sum(0)
    beyond = (rest * (images - onto @ inside)).sum(0)
    return within + beyond * dimension / rest.square().sum(0)
