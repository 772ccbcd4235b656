import warnings

import pytest
import torch
from torch import nn

import stratascope as ss
from stratascope.errors import CaptureError, StoreError
from stratascope.pipeline._source import Batch
from stratascope.pipeline._values import Kind, collect_values, describe_arrays, name_kinds

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
    return describe_arrays(collect_values(acts), BATCH, {"": Kind(kind)})


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


def describe_run(model, data, site):
    with ss.tap(model, site) as acts:
        model(*data)
    return describe_arrays(collect_values(acts), BATCH, name_kinds(model))


SEQUENCE_FIRST = {
    "": (lambda: nn.LSTM(3, 5), 1),
    "0": (lambda: nn.Sequential(nn.GRU(3, 5)), 1),
    "layers.0.linear1": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(3, 1, 4), 1, None, False),
        1,
    ),
    "norm2": (lambda: nn.TransformerDecoderLayer(3, 1, 4), 2),
    "layers.0": (lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(3, 1, 4), 1), 2),
}


@pytest.mark.parametrize("site", SEQUENCE_FIRST)
def test_a_sequence_as_long_as_the_batch_is_not_taken_for_the_samples(site):
    make, inputs = SEQUENCE_FIRST[site]
    model = make()

    with pytest.raises(
        CaptureError,
        match=r"cannot be told from its sequence: both axes of its shape \(4, 4, \d\) have the "
        r"batch's 4, and \w+ has batch_first=False\. Give another batch_size \(--batch-size\)",
    ):
        describe_run(model, [torch.zeros(4, 4, 3)] * inputs, site)
    with pytest.raises(CaptureError, match=r"\(9, 4, \d\) does not begin with the batch's 4"):
        describe_run(model, [torch.zeros(9, 4, 3)] * inputs, site)


def test_the_weights_of_an_attention_may_go_with_its_samples():
    attention = nn.MultiheadAttention(3, 1)
    with pytest.raises(CaptureError, match=r"cannot be told from its sequence.*\(4, 4, 3\)"):
        describe_run(attention, [torch.zeros(4, 4, 3)] * 3, "")
    with pytest.warns(UserWarning, match=r"not stored: model/activation\.0: its shape \(9, 4, 3\)"):
        arrays, _ = describe_run(attention, [torch.zeros(9, 4, 3)] * 3, "")

    assert [array.shape for array in arrays] == [(9, 9)]


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(3, 4),
        nn.Conv1d(4, 4, 1),
        nn.TransformerEncoderLayer(3, 1, 4, batch_first=True),
        nn.Sequential(nn.Linear(3, 3), nn.GRU(3, 5, batch_first=True), nn.Identity()),
    ],
)
def test_as_many_channels_or_tokens_as_samples_are_no_matter(model):
    with warnings.catch_warnings():
        # The states of a recurrent network have the layers first.
        warnings.filterwarnings("ignore", "not stored: 1/activation.1")
        arrays, _ = describe_run(
            model, [torch.zeros(4, 4, 3)], "*" if len(list(model.children())) else ""
        )

    assert {array.shape[0] for array in arrays} == {4}


def test_a_network_around_a_sequence_is_not_one_itself():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 5), nn.Linear(5, 4)

        def forward(self, x):
            return self.head(self.lstm(x)[0][-1])

    arrays, _ = describe_run(Net(), [torch.zeros(9, 4, 3)], ["head", "model"])

    assert [array.shape for array in arrays] == [(4,), (4,)]


def test_what_is_compiled_is_stored_as_what_it_is():
    linear = torch.compile(nn.Linear(3, 2), backend="eager")
    model = nn.Sequential(linear, nn.LSTM(2, 2))

    assert name_kinds(torch.compile(model, backend="eager")) == name_kinds(model)
    assert name_kinds(model)["0"] == Kind("Linear")
    assert name_kinds(model)["1"] == Kind("LSTM", sequence_first=True)
