import numpy as np
import pytest
import torch

from stratascope.seismic import Scores, measure_ssim, score


def draw(samples=3, seed=0):
    return torch.rand((samples, 1, 70, 70), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_each_sample_has_a_value_of_its_own():
    predicted, true = draw(), draw(seed=1)
    predicted[1] = true[1]
    scores = score(predicted, true)

    assert scores.mae.shape == scores.mse.shape == scores.ssim.shape == (3,)
    assert scores.mae[1] == scores.mse[1] == 0
    assert scores.ssim[1] == pytest.approx(1)
    assert scores.mae[0] == pytest.approx((predicted[0] - true[0]).abs().mean().item())
    np.testing.assert_allclose(scores.rmse, np.sqrt(scores.mse))
    np.testing.assert_allclose(scores.mae_m_s, 1500 * scores.mae)


def test_the_root_is_taken_of_the_mean_over_all_pixels():
    true = torch.zeros(2, 1, 70, 70)
    predicted = torch.stack([true[0], true[0] + 1])

    assert score(predicted, true).means()["rmse"] == pytest.approx(np.sqrt(0.5))


def test_joined_parts_are_the_whole():
    predicted, true = draw(5), draw(5, seed=1)
    parts = [score(predicted[part], true[part]) for part in (slice(2), slice(2, 5))]

    joined, whole = Scores.join(parts), score(predicted, true)
    np.testing.assert_allclose(joined.ssim, whole.ssim, rtol=1e-6)
    np.testing.assert_array_equal(joined.mae, whole.mae)


def test_half_precision_is_scored_in_single():
    predicted, true = draw(), draw(seed=1)

    assert score(predicted.bfloat16(), true).ssim == pytest.approx(
        score(predicted.bfloat16().float(), true).ssim
    )


def test_the_similarity_is_a_loss_that_can_be_learned():
    true = draw() / 2 + 0.5
    guess = torch.full_like(true, 0.5, requires_grad=True)
    before = measure_ssim(guess, true).mean()
    before.backward()
    step = guess.detach() + 100 * guess.grad

    assert measure_ssim(step, true).mean() > before


@pytest.mark.parametrize("function", [score, measure_ssim])
@pytest.mark.parametrize("shape", [(2, 1, 70, 70), (1, 70, 70)])
def test_maps_of_different_shapes_are_refused(function, shape):
    with pytest.raises(ValueError, match=r"of the same shape \(N, C, H, W\), got .*x\[None\]"):
        function(torch.zeros(shape), torch.zeros(1, 70, 70))
