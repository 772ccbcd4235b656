import pytest
import torch
from torch import nn

import stratascope as ss
from stratascope.errors import CaptureError, StoreError
from stratascope.pipeline._source import Batch
from stratascope.pipeline._values import collect_values, describe_arrays

BATCH = Batch(0, 4, (), {})


class Gives(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value


def describe(value, kind="Conv1d"):
    model = Gives(value)
    with ss.tap(model, "") as acts:
        model(0)
    return describe_arrays(collect_values(acts), BATCH, {"": kind})


@pytest.mark.parametrize(
    ("shape", "kind", "dims"),
    [
        ((4,), "Linear", ()),
        ((4, 3), "Linear", ("channel",)),
        ((4, 3, 9), "Conv1d", ("channel", "time")),
        ((4, 9, 3), "TransformerEncoderLayer", ("token", "channel")),
        ((4, 3, 9, 9), "Conv2d", ("channel", "y", "x")),
        ((4, 3, 9, 9, 9), "Conv3d", ("channel", "z", "y", "x")),
        ((4, 3, 9, 9, 9, 2), "Net", ("channel", "z", "y", "x", "axis_5")),
    ],
)
def test_the_axes_have_names(shape, kind, dims):
    (array,), skipped = describe(torch.zeros(shape), kind)

    assert (array.dims, array.shape, array.kind) == (dims, shape[1:], kind)
    assert skipped == {}


def test_the_axes_of_several_tensors_are_told_apart():
    arrays, _ = describe({"a": torch.zeros(4, 3), "b/c": torch.zeros(4, 5)})

    assert [(a.key, a.place, a.dims) for a in arrays] == [
        ("model/activation.a", "a", ("channel_a",)),
        ("model/activation.b~c", "b/c", ("channel_b~c",)),
    ]


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [(torch.bfloat16, "float32"), (torch.float16, "float16"), (torch.bool, "bool")],
)
def test_the_type_is_kept_but_for_bfloat16(dtype, stored):
    (array,), _ = describe(torch.zeros(4, 3, dtype=dtype))

    assert (array.dtype, array.source_dtype) == (stored, str(dtype).removeprefix("torch."))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(()), r"model/activation: its shape \(\) does not begin with the batch's 4"),
        (torch.zeros(3, 4), r"its shape \(3, 4\) does not begin with the batch's 4 samples"),
        (torch.eye(4).to_sparse(), "its layout is sparse_coo"),
        (torch.zeros(4).to(torch.float8_e5m2), "its type float8_e5m2 has no place in Zarr"),
    ],
)
def test_what_cannot_be_stored_says_why(value, words):
    with pytest.raises(CaptureError, match=rf"can be stored sample by sample: .*{words}"):
        describe(value)
    with pytest.warns(UserWarning, match=rf"^not stored: .*{words.replace('ion:', 'ion.1:')}"):
        arrays, skipped = describe((torch.zeros(4), value))
    assert [array.place for array in arrays] == ["0"]
    assert list(skipped) == ["model/activation.1"]


def test_two_values_with_one_place_are_an_error():
    with pytest.raises(StoreError, match=r"would both be stored as model/activation\.a~b"):
        describe({"a/b": torch.zeros(4), "a:b": torch.zeros(4)})
