import numpy as np
import pytest

from stratascope.render._gamut import in_gamut, most_chroma, reach, to_bytes, to_linear
from stratascope.render._oklab import encode, oklab_to_linear, oklab_to_srgb, srgb_to_oklab


@pytest.fixture
def colours():
    rng = np.random.default_rng(0)
    return np.stack([rng.uniform(0.02, 0.98, 4000), *rng.normal(0, 0.12, (2, 4000))])


def bisected(lab):
    """Reduce the chroma of each colour as far as it takes, slowly."""
    low, high = np.zeros(lab.shape[1]), np.ones(lab.shape[1])
    for _ in range(40):
        middle = (low + high) / 2
        inside = in_gamut(lab * np.stack([np.ones_like(middle), middle, middle]))
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    kept = np.where(in_gamut(lab), 1, low)
    return encode(oklab_to_linear(lab * np.stack([np.ones_like(kept), kept, kept])).clip(0, 1)).T


def test_the_bytes_are_those_of_srgb():
    srgb = np.random.default_rng(0).integers(0, 256, (2000, 3))
    assert np.abs(to_bytes(srgb_to_oklab(srgb / 255).T)[0].astype(int) - srgb).max() <= 1


def test_the_table_takes_as_much_chroma_off_as_bisection(colours):
    away = np.abs(to_bytes(colours)[0].astype(int) - bisected(colours) * 255).max(1)
    assert np.quantile(away, 0.99) <= 1.5  # of which rounding to a byte is half a step
    assert away.max() < 4


def test_a_colour_within_the_gamut_is_left_as_it_is(colours):
    inside = colours[:, in_gamut(colours)]
    linear, moved = to_linear(inside)
    np.testing.assert_allclose(linear, oklab_to_linear(inside), atol=2e-6)
    assert not moved.any()


def test_lightness_and_hue_survive(colours):
    shown = srgb_to_oklab(encode(to_linear(colours)[0].T)).T
    np.testing.assert_allclose(shown[0], colours[0], atol=0.01)
    chroma = np.hypot(*shown[1:])
    turned = np.angle((shown[1] + 1j * shown[2]) / (colours[1] + 1j * colours[2]))
    assert np.abs(turned[chroma > 0.03]).max() < 0.1


def test_what_is_lighter_than_white_is_white():
    bytes_, moved = to_bytes(np.array([[1.4, -0.3], [0.1, 0], [0, 0]]))
    assert bytes_.tolist() == [[255] * 3, [0] * 3]
    assert moved.all()


def test_what_is_out_by_less_than_can_be_seen_does_not_count():
    white = np.array([[1.001], [0], [0]])
    assert not to_bytes(white)[1].any()


def test_the_largest_chroma_lies_on_the_border():
    light, hue = np.random.default_rng(1).uniform([[0.05], [-3]], [[0.95], [3]], (2, 500))
    chroma = most_chroma(light, np.cos(hue), np.sin(hue))
    edge = np.stack([light, chroma * np.cos(hue), chroma * np.sin(hue)])
    assert in_gamut(edge * [[1], [0.99], [0.99]]).all()
    assert not in_gamut(edge * [[1], [1.01], [1.01]]).any()


def test_one_can_go_as_far_as_white_and_no_farther():
    origin, up = np.array([[0.6], [0], [0]]), np.array([[1.0], [0], [0]])
    assert reach(origin, up)[0] == pytest.approx(0.4, abs=1e-5)
    assert oklab_to_srgb([1.0, 0, 0]).max() == pytest.approx(1, abs=1e-6)
