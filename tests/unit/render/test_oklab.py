import numpy as np

from stratascope.render._oklab import oklab_to_srgb, srgb_to_oklab


def test_a_colour_survives_the_way_there_and_back():
    colours = np.random.default_rng(0).random((1000, 3))
    np.testing.assert_allclose(oklab_to_srgb(srgb_to_oklab(colours)), colours, atol=1e-9)


def test_the_primaries_are_where_the_definition_puts_them():
    # Computed by the definition's author for sRGB red, green and blue.
    known = [[0.628, 0.225, 0.126], [0.866, -0.234, 0.179], [0.452, -0.032, -0.312]]
    np.testing.assert_allclose(srgb_to_oklab(np.eye(3)), known, atol=1e-3)


def test_greys_have_no_chroma():
    greys = np.repeat(np.linspace(0, 1, 11)[:, None], 3, axis=1)
    np.testing.assert_allclose(srgb_to_oklab(greys)[:, 1:], 0, atol=1e-4)
