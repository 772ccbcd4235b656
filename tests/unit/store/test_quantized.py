import numpy as np
import pytest

from stratascope.store._quantized import count_group_axes, dequantize, quantized_dtype


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((), 1),
        ((512,), 1),
        ((64, 7, 7), 1),
        ((64, 8, 8), 2),
        ((4, 64), 2),
        ((4, 63), 1),
        ((2, 1, 1, 64), 2),
        ((0, 100), 2),
        ((3, 0), 1),
    ],
)
def test_a_map_of_64_values_has_a_scale_of_its_own(shape, axes):
    assert count_group_axes(shape) == axes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_codes_are_affine_in_each_group(dtype):
    codes = np.arange(253, dtype="uint8").repeat(6).reshape(253, 2, 3).swapaxes(0, 2)
    scale = np.linspace(0, 3, 6, dtype=dtype).reshape(3, 2)
    offset = np.linspace(-9, 9, 6, dtype=dtype).reshape(3, 2)
    found = dequantize(codes, scale, offset)

    assert found.dtype == dtype
    np.testing.assert_array_equal(found, offset[..., None] + scale[..., None] * codes.astype(dtype))


def test_what_is_not_finite_has_codes_of_its_own():
    codes = np.array([[252, 253, 254, 255]], "uint8")
    found = dequantize(codes, np.float32([0.5]), np.float32([1]))

    np.testing.assert_array_equal(found, np.float32([[127, -np.inf, np.inf, np.nan]]))


def test_nothing_is_given_back_as_nothing():
    none = np.empty((0, 3), "uint8")

    assert dequantize(none, np.empty(0, "f4"), np.empty(0, "f4")).shape == (0, 3)


def test_halves_come_back_as_float32_and_doubles_as_doubles():
    found = [quantized_dtype(name) for name in ("float16", "bfloat16", "float32", "float64")]

    assert found == [np.float32, np.float32, np.float32, np.float64]
