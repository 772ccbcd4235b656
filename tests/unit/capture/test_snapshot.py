import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import stratascope as ss
from stratascope.capture import _snapshot
from stratascope.capture._snapshot import snapshot, unshare


def test_torch_still_clones_lazily():
    """If this fails, torch changed what every capture is built on: read capture/_snapshot.py."""
    original = torch.arange(6.0)
    kept = torch._lazy_clone(original)

    assert torch._C._is_cow_tensor(original)
    assert torch._C._is_cow_tensor(kept)
    assert kept.untyped_storage()._cdata != original.untyped_storage()._cdata
    assert torch._C._data_address(kept) == torch._C._data_address(original)

    original.add_(1)

    assert torch._C._data_address(kept) != torch._C._data_address(original)
    assert kept.tolist() == [0, 1, 2, 3, 4, 5]
    assert original.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_snapshot_is_lazy_wherever_torch_allows_it():
    for tensor in (torch.ones(3), torch.ones(3, dtype=torch.bfloat16), torch.ones(4, 4)[1:, ::2]):
        kept = snapshot(tensor)

        assert torch._C._is_cow_tensor(kept)
        assert kept.stride() == tensor.stride()


def test_writing_into_a_snapshot_does_not_reach_the_tensor():
    original = torch.zeros(3)
    kept = snapshot(original)
    kept.add_(1)

    assert original.tolist() == [0, 0, 0]
    assert kept.tolist() == [1, 1, 1]


def write_through_view(y):
    view = y.flatten(1)
    view[:, :5] = 0


def write_through_older_view(y, view):
    view.zero_()


def write_through_data(y):
    y.data.fill_(3)


def write_by_out(y):
    torch.add(y, 1, out=y)


WRITES = [
    nn.ReLU(inplace=True),
    F.relu_,
    lambda y: y.__iadd__(1),
    lambda y: y.copy_(torch.zeros_like(y)),
    lambda y: y.set_(torch.zeros(1)),
    lambda y: y.index_fill_(0, torch.tensor([0]), 5.0),
    lambda y: y.transpose(0, 1).mul_(2),
    lambda y: torch._foreach_add_([y], 1.0),
    lambda y: F.dropout(y, 1.0, inplace=True),
    lambda y: y.detach().unbind(0)[0].zero_(),
    write_through_view,
    write_through_data,
    write_by_out,
]


@pytest.mark.parametrize("write", WRITES, ids=range(len(WRITES)))
@pytest.mark.parametrize("inference", [True, False], ids=["inference", "no_grad"])
def test_no_later_write_reaches_what_was_kept(write, inference):
    class Writer(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 2, 3)

        def forward(self, x):
            y = self.conv(x)
            before.append(y.clone())
            write(y)
            after.append(y.clone())
            return y

    before, after = [], []
    model = Writer()
    with (
        torch.inference_mode() if inference else torch.no_grad(),
        ss.tap(model, ["conv", ""]) as acts,
    ):
        model(torch.randn(2, 1, 10))

    assert torch.equal(acts["conv"], before[0])
    assert torch.equal(acts[""], after[0])
    assert not torch.equal(acts["conv"], acts[""])


def test_a_write_through_a_view_that_is_older_than_the_capture_does_not_reach_it():
    class Viewer(nn.Module):
        def forward(self, x):
            y = x * 1
            views.append(y[:2])
            return y

    views = []
    model = Viewer()
    with ss.tap(model, "") as acts:
        output = model(torch.ones(4))
    views[0].zero_()

    assert acts[""].tolist() == [1, 1, 1, 1]
    assert output.tolist() == [0, 0, 1, 1]


def test_a_write_into_the_base_of_a_captured_view_does_not_reach_it():
    base = torch.ones(4)
    kept = snapshot(base[:2])
    base.zero_()

    assert kept.tolist() == [1, 1]


def quietly(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


SPECIAL = {
    "numpy": lambda: torch.from_numpy(np.arange(4.0)),
    "numpy view": lambda: torch.from_numpy(np.arange(8.0))[::2],
    "shared memory": lambda: torch.arange(4.0).share_memory_(),
    "buffer": lambda: torch.frombuffer(bytearray(b"abcd"), dtype=torch.uint8),
    "sparse": lambda: torch.eye(4).to_sparse(),
    "sparse rows": lambda: quietly(lambda: torch.eye(4).to_sparse_csr()),
    "quantized": lambda: quietly(
        lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.quint8)
    ),
    "empty": lambda: torch.empty(0, 3),
    "scalar": lambda: torch.tensor(2.0),
    "expanded": lambda: torch.ones(1).expand(5),
    "complex": lambda: torch.tensor([1 + 2j, 3 - 1j]),
    "conjugated": lambda: torch.tensor([1 + 2j, 3 - 1j]).conj(),
    "negated": lambda: torch.tensor([1 + 2j, 3 - 1j]).conj().imag,
    "bfloat16": lambda: torch.ones(3, dtype=torch.bfloat16),
    "float8": lambda: torch.ones(3).to(torch.float8_e4m3fn),
    "boolean": lambda: torch.tensor([True, False]),
    "channels last": lambda: torch.randn(1, 2, 3, 3).to(memory_format=torch.channels_last),
}


def readable(tensor):
    dense = tensor.dequantize() if tensor.is_quantized else tensor.to_dense()
    return dense.to(torch.float32) if "float8" in str(tensor.dtype) else dense.clone()


@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)
def test_a_snapshot_of_any_tensor_equals_it(make):
    original = make()
    kept = quietly(lambda: snapshot(original))

    assert type(kept) is type(original)
    assert (kept.dtype, kept.shape, kept.layout) == (
        original.dtype, original.shape, original.layout,
    )  # fmt: skip
    assert torch.equal(readable(kept), readable(original))


WRITABLE = [name for name in SPECIAL if name not in ("expanded", "empty", "quantized")]


@pytest.mark.parametrize("name", WRITABLE)
def test_a_snapshot_of_any_tensor_is_a_copy(name):
    original = SPECIAL[name]()
    kept = quietly(lambda: snapshot(original))
    expected = readable(kept)
    original.zero_()

    assert torch.equal(readable(kept), expected)
    assert not torch.equal(readable(original), expected)


def test_a_numpy_array_written_after_the_capture_does_not_reach_it():
    array = np.zeros(3)
    model = nn.Identity()
    with ss.tap(model, ":in") as acts:
        model(torch.from_numpy(array))
    array += 1

    assert acts[":in"].tolist() == [0, 0, 0]


def test_a_tensor_without_values_keeps_its_shape():
    kept = snapshot(torch.empty(2, 3, device="meta"))

    assert kept.is_meta
    assert kept.shape == (2, 3)


def test_a_snapshot_stays_on_the_graph():
    weight = torch.ones(2, requires_grad=True)
    snapshot(3 * weight).sum().backward()

    assert weight.grad.tolist() == [3, 3]


def test_without_the_lazy_clone_a_snapshot_is_a_plain_one(monkeypatch):
    monkeypatch.setattr(_snapshot, "_lazy_clone", None)
    original = torch.zeros(2)
    kept = snapshot(original)
    original.add_(1)

    assert kept.tolist() == [0, 0]
    assert not torch._C._is_cow_tensor(kept)


def test_a_parameter_becomes_a_plain_tensor():
    kept = snapshot(nn.Parameter(torch.ones(2), requires_grad=False))

    assert type(kept) is torch.Tensor


def test_unshared_snapshots_share_one_copy_that_no_write_reaches():
    original = torch.arange(6.0).reshape(2, 3).t()
    kept = [snapshot(original), snapshot(original)]
    unshare(original, kept)
    address = original.data_ptr()
    original.add_(1)

    assert original.data_ptr() == address, "the writer had to copy"
    assert all(torch.equal(part, torch.arange(6.0).reshape(2, 3).t()) for part in kept)
    assert kept[0].stride() == original.stride()
    kept[0].zero_()
    assert kept[1].abs().sum() > 0


def test_snapshots_of_different_views_are_left_to_torch():
    original = torch.arange(6.0)
    whole, half = snapshot(original), snapshot(original[3:])
    unshare(original, [whole, half])
    original.zero_()

    assert whole.tolist() == [0, 1, 2, 3, 4, 5]
    assert half.tolist() == [3, 4, 5]


def test_nothing_to_unshare_is_no_error():
    unshare(torch.zeros(1), [])
