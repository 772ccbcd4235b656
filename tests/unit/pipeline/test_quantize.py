import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stratascope.pipeline import _quantize
from stratascope.pipeline._quantize import quantize
from stratascope.store._quantized import dequantize

SHAPES = [((5, 4, 100), 2), ((5, 4, 9, 9), 2), ((5, 200), 1), ((5,), 1), ((0, 4, 100), 2)]
TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def give_back(values, axes):
    return dequantize(*(tensor.numpy() for tensor in quantize(values, axes)))


def make_values(shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 1).to(dtype)


def assert_near(values, axes):
    """Compare with what may be wrong: half a step, and what the type itself rounds."""
    wide, found = values.double().numpy(), give_back(values, axes)
    kind = np.finfo(found.dtype)
    for place in np.ndindex(wide.shape[:axes]):
        group, ours = wide[place], found[place].astype("f8")
        finite = np.isfinite(group)
        np.testing.assert_array_equal(ours[~finite], group[~finite])
        if finite.any():
            low, high = group[finite].min(), group[finite].max()
            rounded = 4 * float(kind.eps) * max(abs(low), abs(high)) + 252 * float(kind.tiny)
            assert abs(ours[finite] - group[finite]).max() <= high / 504 - low / 504 + rounded


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_a_value_is_wrong_by_half_a_step_at_most(shape, axes, dtype):
    values = make_values(shape, dtype)
    codes, scale, offset = quantize(values, axes)

    assert (codes.dtype, codes.shape) == (torch.uint8, values.shape)
    assert scale.shape == offset.shape == values.shape[:axes]
    assert scale.dtype == offset.dtype == (dtype if dtype is torch.float64 else torch.float32)
    assert_near(values, axes)


@settings(max_examples=200, deadline=None)
@given(
    values=hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        hnp.array_shapes(min_dims=2, max_dims=3, max_side=6),
        elements=st.floats(width=32),
        fill=st.nothing(),
    ),
    axes=st.sampled_from([1, 2]),
)
def test_no_value_is_clipped_whatever_the_range(values, axes):
    assert_near(torch.from_numpy(values), axes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_range_may_be_wider_than_the_greatest_number(dtype):
    end = torch.finfo(dtype).max

    assert_near(torch.tensor([[-end, end, 0.3 * end], [-5, 7, end / 2]], dtype=dtype), 1)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_and_changes_no_other(monkeypatch, bad, elsewhere):
    if elsewhere:
        # As on a device, which is not asked what it holds.
        monkeypatch.setattr(_quantize, "_are_finite", lambda low, high: False)
    values = make_values((3, 2, 80))
    alone = give_back(values, 2)
    values[1, 1, 7] = bad
    values[2, 0] = bad
    found = give_back(values, 2)

    np.testing.assert_array_equal(found[~values.isfinite()], values[~values.isfinite()])
    np.testing.assert_array_equal(found[[0, 1, 2], [0, 0, 1]], alone[[0, 1, 2], [0, 0, 1]])
    assert_near(values, 2)


def test_a_device_finds_what_the_host_finds(monkeypatch):
    values = make_values((6, 3, 70))
    host = quantize(values, 2)
    monkeypatch.setattr(_quantize, "_are_finite", lambda low, high: False)

    for ours, theirs in zip(quantize(values, 2), host, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", TYPES)
def test_cuda_finds_what_the_host_finds(dtype):
    values = make_values((6, 3, 70), dtype)
    values[1, 1, 7], values[2, 0] = torch.nan, torch.inf
    host = [tensor.numpy() for tensor in quantize(values, 2)]
    device = [tensor.cpu().numpy() for tensor in quantize(values.cuda(), 2)]

    # Its division may round the last bit otherwise, and so a value in the middle of two codes.
    np.testing.assert_allclose(device[1:], host[1:], rtol=1e-6)
    assert abs(device[0].astype(int) - host[0]).max() <= 1


def test_zeros_behind_a_rectifier_stay_zeros():
    values = make_values((5, 4, 100)).relu()
    found = torch.from_numpy(give_back(values, 2))

    assert (values == 0).any()
    assert (found[values == 0] == 0).all()
    half = values.amax(-1, keepdim=True) / 504
    assert (found > 0)[values > half * 1.001].all()


def test_what_is_all_the_same_is_exact():
    values = torch.tensor([0.1, -3e38, 1e-40, 7.0])[:, None].expand(4, 90)

    np.testing.assert_array_equal(give_back(values, 1), values.numpy())


def test_a_sample_does_not_depend_on_its_batch_nor_on_the_layout_in_memory():
    values = make_values((6, 3, 10, 8))
    whole = quantize(values, 2)
    strange = quantize(values.to(memory_format=torch.channels_last), 2)
    alone = [quantize(one[None], 2) for one in values]

    for number, tensor in enumerate(whole):
        assert torch.equal(strange[number], tensor)
        assert torch.equal(torch.cat([parts[number] for parts in alone]), tensor)
