"""The names of the axes of samples with two: what the modules around a value say of it."""

import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import stratascope as ss
from stratascope.pipeline._axes import AxisOrder, puts_out_tokens
from stratascope.pipeline._table import RunOrder

TOKENS, SIGNALS = ("sample", "token", "channel"), ("sample", "channel", "time")


class Block(nn.Module):
    """A residual block, as people write them."""

    def __init__(self, *inner):
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x):
        return x + self.inner(x)


class Patches(nn.Module):
    """A transformer of images: nothing says that the patches are tokens until the first norm."""

    def __init__(self):
        super().__init__()
        self.embed, self.drop = nn.Conv2d(3, 24, 4, 4), nn.Dropout()
        self.norm = nn.LayerNorm(24)
        self.attend = nn.MultiheadAttention(24, 2, batch_first=True)
        self.mlp = Block(nn.LayerNorm(24), nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))
        self.last = nn.Identity()

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = self.drop(x * 1)
        y = self.norm(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        return self.last(self.mlp(x))


class Named(nn.Module):
    """Hands its tokens over by name, and runs one activation on signals and on tokens."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv1d(3, 6, 1), nn.ReLU(), nn.Linear(6, 5)
        self.end = Takes()

    def forward(self, x):
        x = self.act(self.conv(x))
        return self.end(value=self.act(self.fc(x.transpose(1, 2))))


class Takes(nn.Module):
    def forward(self, value):
        return value * 2


def signals_net():
    return nn.Sequential(
        nn.Identity(),
        nn.Conv1d(3, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.BatchNorm1d(8),
        Block(nn.Dropout(), nn.Conv1d(8, 8, 1), nn.GELU()),
        nn.MaxPool1d(2),
        nn.Sigmoid(),
    )


def extract(model, shape, sites, tmp_path, **settings):
    values = np.random.default_rng(0).normal(size=(6, *shape)).astype("float32")
    to = tmp_path / "acts.zarr"
    return ss.extract(model, values, sites, to=to, progress=False, **settings)


def list_dims(store):
    return {site: store[site].dims for site in store}


def test_what_follows_a_linear_has_its_tokens(tmp_path):
    mlp = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 32))
    model = nn.Sequential(mlp, nn.Softmax(-1))
    store = extract(model, (17, 32), ["**", "0:in", "0.1:in", "model"], tmp_path)

    assert set(list_dims(store).values()) == {TOKENS}
    assert len(store) == 9


def test_signals_stay_signals(tmp_path):
    store = extract(signals_net(), (3, 16), ["**", "4:in", "4.add", "model:in"], tmp_path)

    assert set(list_dims(store).values()) == {SIGNALS}


def test_the_patches_of_an_image_are_tokens(tmp_path):
    sites = ["drop:in", "drop", "mul", "norm", "add", "mlp", "mlp.**", "mlp.add", "last"]
    store = extract(Patches(), (3, 16, 16), [*sites, "embed", "flatten"], tmp_path)
    dims = list_dims(store)

    assert dims.pop("embed") == ("sample", "channel", "y", "x")
    assert dims.pop("flatten") == SIGNALS
    assert set(dims.values()) == {TOKENS}


def test_one_module_may_run_on_signals_and_on_tokens(tmp_path):
    store = extract(Named(), (3, 9), ["act@1", "act@2", "end", "transpose"], tmp_path)
    named = extract(Named(), (3, 9), "end:in", tmp_path / "named")

    assert list_dims(store) == {
        "act@1": SIGNALS, "act@2": TOKENS, "end": TOKENS, "transpose": TOKENS,
    }  # fmt: skip
    assert named["end:in"]["value"].dims == ("sample", "token_value", "channel_value")


def test_the_same_tensor_counts_for_more_than_the_last_of_its_shape():
    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv1d(7, 7, 1), nn.Linear(7, 7)
            self.first, self.second = nn.ReLU(), nn.ReLU()

        def forward(self, x):
            signals, tokens = self.conv(x), self.fc(x)
            return self.first(signals) + self.second(tokens)

    model = Square()
    order = RunOrder(model)
    with order.watching():
        model(torch.zeros(2, 7, 7))

    assert not order.axes.is_tokens("first", "out", (7, 7))
    assert order.axes.is_tokens("second", "out", (7, 7))


def test_a_transform_keeps_the_order_of_the_axes(tmp_path):
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU())
    store = extract(model, (17, 32), "1", tmp_path, transform=lambda value: value[:, 1:])

    assert (store["1"].dims, store["1"].shape) == (TOKENS, (6, 16, 64))


def test_a_probe_is_watched_and_a_training_tells_by_what_is_recorded(tmp_path):
    model, x = nn.Sequential(nn.Linear(5, 6), nn.ReLU()), torch.randn(4, 7, 5)
    for name, sites, probe in [("a", "1", x), ("b", ["0", "1"], None), ("c", "1", None)]:
        with ss.record(model, sites, to=tmp_path / name, every=1, probe=probe) as rec:
            model(x)
            rec.step(1)

    dims = [ss.open_store(tmp_path / name).at(1)["1"].dims for name in "abc"]
    assert dims == [TOKENS, TOKENS, SIGNALS]


def test_scripted_and_fused_parts_are_left_as_they_are(tmp_path):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        scripted = torch.jit.script(nn.Sequential(nn.Tanh()))
    model = nn.Sequential(layer, nn.Identity(), scripted, nn.Dropout())
    store = extract(model, (5, 8), ["1", "3"], tmp_path)

    assert list_dims(store) == {"1": TOKENS, "3": TOKENS}


def test_nothing_is_kept_alive():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    order = RunOrder(model)
    with order.watching():
        result = model(torch.zeros(2, 5, 3))
    held = weakref.ref(result)
    del result
    gc.collect()

    assert held() is None
    assert order.axes._tensors == {}


def test_a_nested_tensor_says_nothing():
    order = AxisOrder({"": "Linear"})
    order.note(
        "",
        "out",
        [torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(1, 3)], layout=torch.jagged)],
    )

    assert order._notes == {}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Linear", True), ("ConvTranspose1d", False), ("LazyConv1d", False), ("MaxUnpool1d", False),
        ("AdaptiveAvgPool1d", False), ("GroupNorm", False), ("PixelUnshuffle", False),
        ("ReflectionPad1d", False), ("ConvBlock", None), ("AttentionPool", None), ("Dropout", None),
    ],
)  # fmt: skip
def test_a_class_says_it_by_its_name(name, said):
    assert puts_out_tokens(name) is said


def test_the_dead_channels_behind_a_linear_are_found():
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
    with torch.no_grad():
        mlp[0].bias[[3, 40]] = -1000
    values = np.random.default_rng(0).normal(size=(50, 17, 32)).astype("float32")
    prof = ss.profile(nn.Sequential(mlp), values, "0.1", progress=False)

    assert np.flatnonzero(prof["0.1"].dead()).tolist() == [3, 40]
    (found,) = prof.findings("dead")
    assert found.channels == (3, 40)
    assert str(found).startswith("0.1: 3 % of 64 channels dead")
