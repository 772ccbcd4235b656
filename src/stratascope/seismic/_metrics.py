"""How near predicted velocity maps are to the true ones, measured as OpenFWI measures it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stratascope.seismic._openfwi import FASTEST, SLOWEST

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2  # for values from 0 to 1

METRICS = ("mae", "rmse", "ssim", "mae_m_s")


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The errors of predicted velocity maps, one value a sample, float64.

    Attributes:
        mae: Mean absolute error of maps in [-1, 1], ``(samples,)``.
        mse: Mean squared error of the same.
        ssim: Structural similarity of the maps moved to [0, 1].

    >>> scores = score(torch.full((2, 1, 70, 70), 0.5), torch.zeros(2, 1, 70, 70))
    >>> scores.mae, scores.means()["mae_m_s"]
    (array([0.5, 0.5]), 750.0)
    """

    mae: np.ndarray[Any, np.dtype[np.float64]]
    mse: np.ndarray[Any, np.dtype[np.float64]]
    ssim: np.ndarray[Any, np.dtype[np.float64]]

    @property
    def mae_m_s(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The mean absolute error of each sample, in m/s."""
        return self.mae * ((FASTEST - SLOWEST) / 2)

    @property
    def rmse(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The root of each sample's mean squared error."""
        return np.sqrt(self.mse)

    def means(self) -> dict[str, float]:
        """Give each metric of the whole set: MAE, RMSE, SSIM, and the MAE in m/s.

        The RMSE is the root of the mean over all pixels, as in OpenFWI's tables, and not the mean
        of the samples' roots.
        """
        return {
            "mae": float(self.mae.mean()),
            "rmse": float(np.sqrt(self.mse.mean())),
            "ssim": float(self.ssim.mean()),
            "mae_m_s": float(self.mae_m_s.mean()),
        }

    @classmethod
    def join(cls, parts: Sequence["Scores"]) -> "Scores":
        """Put the samples of several scores one after the other."""
        return cls(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__)
        )


def score(predicted: Tensor, true: Tensor) -> Scores:
    """Compare predicted velocity maps with the true ones, sample by sample.

    MAE and MSE are those of maps in [-1, 1]; the SSIM is `measure_ssim` of the same moved to
    [0, 1], as OpenFWI does it.

    Args:
        predicted: Maps in [-1, 1], ``(N, 1, H, W)``.
        true: As many of the same shape.

    Raises:
        ValueError: The two have not the same shape of four dimensions.

    >>> true = torch.rand(3, 1, 70, 70) * 2 - 1
    >>> score(true, true).means()
    {'mae': 0.0, 'rmse': 0.0, 'ssim': 1.0, 'mae_m_s': 0.0}
    """
    _check_maps(predicted, true)
    # In float32 the variance of a window is a small difference of large numbers.
    predicted, true = (maps.detach().cpu().double() for maps in (predicted, true))
    difference = (predicted - true).flatten(1)
    return Scores(
        difference.abs().mean(1).numpy(),
        difference.square().mean(1).numpy(),
        measure_ssim(predicted / 2 + 0.5, true / 2 + 0.5).numpy(),
    )


def measure_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Measure the structural similarity of images from 0 to 1, one value a sample.

    Gaussian windows of 11 x 11 with a deviation of 1.5, and zeros around the image: OpenFWI's
    convention (pytorch-ssim). scikit-image leaves out the windows that reach over the edge, and
    torchmetrics mirrors the image beyond it, which gives other values; the how-to on training
    shows by how much.

    Wang et al., Image quality assessment, IEEE Trans. Image Process. 13 (2004).

    Args:
        first: Images, ``(N, C, H, W)``.
        second: As many of the same shape.

    Raises:
        ValueError: The two have not the same shape of four dimensions.

    >>> image = torch.rand(2, 1, 70, 70)
    >>> measure_ssim(image, image)
    tensor([1., 1.])
    """
    _check_maps(first, second)
    return map_ssim(first, second).flatten(1).mean(1)


def map_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Measure the structural similarity at each pixel, ``(N, C, H, W)``."""
    images = torch.stack([first, second, first * first, second * second, first * second])
    rows = _window_matrix(first.shape[-2]).to(images)
    columns = _window_matrix(first.shape[-1]).to(images)
    # A Gaussian window with zeros around the image is a banded matrix from either side.
    mean_1, mean_2, square_1, square_2, product = rows @ images @ columns
    variance = square_1 + square_2 - mean_1**2 - mean_2**2
    covariance = product - mean_1 * mean_2
    luminance = (2 * mean_1 * mean_2 + _C1) / (mean_1**2 + mean_2**2 + _C1)
    return luminance * (2 * covariance + _C2) / (variance + _C2)


def _window_matrix(size: int) -> Tensor:
    """Give the symmetric matrix that takes the weighted mean around each of so many cells."""
    away = torch.arange(size)[:, None] - torch.arange(size)
    weights = torch.exp(-(away.double() ** 2) / (2 * _SIGMA**2))
    reach = torch.arange(_WINDOW).double() - _WINDOW // 2
    total = torch.exp(-(reach**2) / (2 * _SIGMA**2)).sum()
    return torch.where(away.abs() <= _WINDOW // 2, weights / total, 0.0)


def _check_maps(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape or first.dim() != 4:
        raise ValueError(
            "both must be maps of the same shape (N, C, H, W), got "
            f"{tuple(first.shape)} and {tuple(second.shape)}; a single one is x[None]"
        )
