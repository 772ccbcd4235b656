import numpy as np
import pytest
import torch

from naming import name_case
from stratascope.render._arrays import as_values


class Lazy:
    """What a Zarr array looks like to NumPy."""

    shape = (2, 3)

    def __array__(self, dtype=None, copy=None):
        return np.ones(self.shape, dtype)


@pytest.mark.parametrize(
    "source",
    [
        [[1, 1, 1], [1, 1, 1]],
        Lazy(),
        torch.ones(2, 3),
        torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True),
        torch.ones(2, 3).to_sparse(),
        torch.ones(2, 3, dtype=torch.bool),
        np.ones((2, 3), np.longdouble),
        np.ones((2, 3), ">f4"),
        np.ones((2, 3), np.complex64),
    ],
    ids=name_case,
)
def test_anything_like_an_array_becomes_float64(source):
    values = as_values(source).array
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, np.ones((2, 3)))


def test_a_memory_map_is_read(tmp_path):
    written = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float16, (4, 5))
    written[:] = 2
    np.testing.assert_array_equal(as_values(written).array, np.full((4, 5), 2.0))


@pytest.mark.parametrize("source", [["a"], [object()], np.zeros(2, "M8[s]"), [{}]], ids=name_case)
def test_what_is_no_number_is_refused(source):
    with pytest.raises(TypeError, match=r"array must be numbers, got dtype .*; convert it"):
        as_values(source)
