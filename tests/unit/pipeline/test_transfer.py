import numpy as np
import pytest
import torch
from torch import nn

import stratascope as ss
from stratascope.errors import CaptureError, DataError
from stratascope.pipeline._source import Batch
from stratascope.pipeline._transfer import placed, run_forward, span, stage, to_numpy


def test_without_a_device_the_model_stays_where_it_is():
    with placed(nn.Linear(2, 2), None) as place:
        assert place == torch.device("cpu")
    with placed(nn.Identity(), None) as place:
        assert place is None


def test_a_model_comes_back_from_a_device_even_after_an_error():
    model = nn.BatchNorm1d(2, affine=False)  # it has buffers only

    def work():
        with placed(model, "meta") as place:
            assert place == torch.device("meta")
            assert model.running_mean.device.type == "meta"
            model.running_mean = torch.zeros(2)
            model.running_var = torch.ones(2)
            model.num_batches_tracked = torch.tensor(0)
            raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        work()
    assert model.running_mean.device.type == "cpu"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor([1.5, 2], dtype=torch.bfloat16), np.array([1.5, 2], "float32")),
        (torch.tensor([1 + 2j]).conj(), np.array([1 - 2j], "complex64")),
        (torch.tensor([1 + 2j]).conj().imag, np.array([-2], "float32")),
        (torch.ones(2, 3).mT, np.ones((3, 2), "float32")),
        (torch.tensor([True]), np.array([True])),
    ],
)
def test_a_tensor_of_any_kind_becomes_an_array(value, expected):
    np.testing.assert_array_equal(to_numpy(stage(value)), expected, strict=True)


def test_the_samples_of_a_batch_are_named():
    assert span(Batch(64, 10, (), {})) == "64 to 73"


@pytest.mark.parametrize("error", [RuntimeError, TypeError, ValueError, IndexError])
def test_what_a_forward_raises_is_told_with_its_samples(error):
    class Broken(nn.Module):
        def forward(self, x, *, y):
            raise error("first line\nsecond line")

    model = Broken()
    batch = Batch(64, 2, (torch.zeros(2, 3),), {"y": torch.zeros(2, dtype=torch.int64)})
    handle = ss.tap(model, "")

    with pytest.raises(
        DataError, match=r"samples 64 to 65 of the data, float32 \(2, 3\), int64 \(2,\): first"
    ) as caught:
        run_forward(model, handle, batch, None)
    assert "second" not in str(caught.value)
    assert type(caught.value.__cause__) is error


def test_an_error_of_the_capture_stays_what_it_is():
    model = nn.Identity()
    handle = ss.tap(model, "", transform=lambda x: x.nothing)

    with pytest.raises(CaptureError, match="the capture failed at 'model'"):
        run_forward(model, handle, Batch(0, 2, (torch.zeros(2),), {}), None)
