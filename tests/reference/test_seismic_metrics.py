"""The metrics against scikit-image and against OpenFWI's way of computing them."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch.nn import functional

from stratascope.seismic import measure_ssim, score
from stratascope.seismic._metrics import map_ssim

SETTINGS = {
    "data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False,
}  # fmt: skip


def draw_maps(samples=3, size=(70, 70), seed=0):
    """Draw layered maps and blurred, noisy copies of them, from 0 to 1."""
    rng = np.random.default_rng(seed)
    depth = np.sort(rng.uniform(0, size[0], (samples, 3, 1, 1)), axis=1)
    rows = np.arange(size[0])[:, None] + 3 * np.sin(np.arange(size[1]) / 9)
    true = (rows[None, None] > depth).sum(axis=1) / 3
    noisy = true + rng.normal(0, 0.03, true.shape)
    predicted = np.stack([np.clip(np.roll(one, 2, axis=0), 0, 1) for one in noisy])
    return predicted[:, None].astype("float32"), true[:, None].astype("float32")


def as_openfwi(first, second):
    """SSIM as a convolution with an 11 x 11 window and zero padding, pixel by pixel the same."""
    one = [math.exp(-((x - 5) ** 2) / (2 * 1.5**2)) for x in range(11)]
    one = torch.tensor(one, dtype=first.dtype) / sum(one)
    window = torch.outer(one, one)[None, None]
    blur = lambda image: functional.conv2d(image, window, padding=5)  # noqa: E731
    mu1, mu2 = blur(first), blur(second)
    var1, var2 = blur(first * first) - mu1**2, blur(second * second) - mu2**2
    cov = blur(first * second) - mu1 * mu2
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mu1 * mu2 + c1) * (2 * cov + c2)) / ((mu1**2 + mu2**2 + c1) * (var1 + var2 + c2))


@pytest.mark.parametrize("size", [(70, 70), (64, 31)])
def test_the_similarity_of_each_pixel_is_openfwis(size):
    first, second = (torch.from_numpy(maps).double() for maps in draw_maps(size=size))

    torch.testing.assert_close(
        map_ssim(first, second), as_openfwi(first, second), atol=1e-9, rtol=0
    )


def test_inside_the_edge_it_is_that_of_scikit_image():
    first, second = draw_maps()
    ours = map_ssim(torch.from_numpy(first).double(), torch.from_numpy(second).double())
    for sample in range(len(first)):
        mean, image = structural_similarity(
            first[sample, 0].astype("f8"), second[sample, 0].astype("f8"), full=True, **SETTINGS
        )
        inside = ours[sample, 0, 5:-5, 5:-5].numpy()

        np.testing.assert_allclose(inside, image[5:-5, 5:-5], atol=1e-10)
        assert inside.mean() == pytest.approx(mean, abs=1e-10)


def test_with_zeros_around_the_image_it_is_that_of_scikit_image_everywhere():
    first, second = draw_maps()
    ours = measure_ssim(torch.from_numpy(first).double(), torch.from_numpy(second).double())
    for sample in range(len(first)):
        padded = (np.pad(maps[sample, 0].astype("f8"), 10) for maps in (first, second))
        image = structural_similarity(*padded, full=True, **SETTINGS)[1]

        assert image[10:-10, 10:-10].mean() == pytest.approx(ours[sample].item(), abs=1e-10)


def test_the_scores_are_those_of_the_concatenated_set():
    first, second = (torch.from_numpy(2 * maps - 1) for maps in draw_maps(samples=5))
    means = score(first, second).means()

    assert means["mae"] == pytest.approx(functional.l1_loss(first, second).item(), rel=1e-5)
    assert means["rmse"] ** 2 == pytest.approx(functional.mse_loss(first, second).item(), rel=1e-5)
    assert means["mae_m_s"] == pytest.approx(
        np.abs((first - second).numpy() * 1500).mean(), rel=1e-5
    )
    assert means["ssim"] == pytest.approx(
        as_openfwi(first / 2 + 0.5, second / 2 + 0.5).mean().item(), abs=1e-4
    )
