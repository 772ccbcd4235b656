import numpy as np
import pytest
import torch
from torch import nn

import stratascope as ss
from stratascope.errors import CaptureError, DataError
from stratascope.pipeline import _transfer
from stratascope.pipeline._source import Batch
from stratascope.pipeline._transfer import placed, run_forward, span, to_host, to_numpy


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


@pytest.fixture
def far(monkeypatch):
    """Make the meta device one that values come back from, as zeros; count the moves."""
    to, moves = torch.Tensor.to, []

    def move(tensor, *args, **kwargs):
        moves.append(tensor)
        if len(moves) == move.broken:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.\nmore")
        if tensor.device.type == "meta" and torch.device(args[0]).type == "cpu":
            return torch.zeros_like(tensor, device="cpu")
        return to(tensor, *args, **kwargs)

    move.broken = 0
    monkeypatch.setattr(torch.Tensor, "to", move)
    return move


def places(model):
    return {name: str(tensor.device) for name, tensor in model.state_dict().items()}


def spread_out():
    """Give a network on two devices, one layer with a gradient."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0](torch.zeros(1, 2)).sum().backward()
    model[1].to("meta")
    model[2]._buffers["running_var"] = torch.ones(2, device="meta")
    return model


def test_every_tensor_comes_back_to_where_it_was(far):
    model = spread_out()
    before = places(model)
    assert set(before.values()) == {"cpu", "meta"}

    with placed(model, "meta"):
        assert set(places(model).values()) == {"meta"}
        model[0].register_buffer("cache", torch.zeros(3, device="meta"))
    assert places(model) == {**before, "0.cache": "cpu"}
    assert model[0].weight.grad.device.type == "cpu"


@pytest.mark.parametrize("broken", range(3, 12))
def test_a_device_that_is_full_half_way_gets_nothing(far, broken):
    model = spread_out()
    before = places(model)
    far.broken = broken

    with (
        pytest.raises(
            DataError,
            match=r"^the memory of 'meta' must hold the model, but did not: CUDA out of memory\. "
            r"Tried to allocate 1 GiB\. Free some of it, or choose another device \(--device\)$",
        ),
        placed(model, "meta"),
    ):
        pass
    assert places(model) == before


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(DataError, match="device must be one that is there, got 'nowhere'"):
        placed(nn.Linear(2, 2), "nowhere").__enter__()


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
    np.testing.assert_array_equal(to_numpy(to_host(value)), expected, strict=True)


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
        DataError, match=r"samples 64 to 65 of the data, float32 \(2, 3\), y = int64 \(2,\): first"
    ) as caught:
        run_forward(model, handle, batch, None)
    assert "second" not in str(caught.value)
    assert type(caught.value.__cause__) is error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
@pytest.mark.parametrize("where", ["clone", "relu"])
def test_a_batch_that_does_not_fit_asks_for_a_smaller_one(monkeypatch, error, where):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(
        *(torch.Tensor, "clone") if where == "clone" else (nn.ReLU, "forward"), fail
    )
    model = nn.ReLU()
    batch = Batch(64, 2, (torch.zeros(2, 3),), {})

    with pytest.raises(
        DataError, match=r"must hold a forward of 2 samples, .*Use a smaller batch_size \(--batch-s"
    ) as caught:
        run_forward(model, ss.tap(model, ""), batch, None)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("place", [None, torch.device("cpu")])
def test_a_batch_stays_what_it_was(place):
    model = nn.ReLU(inplace=True)
    batch = Batch(0, 2, (-torch.ones(2, 3),), {})
    run_forward(model, ss.tap(model, ""), batch, place)

    assert batch.args[0].tolist() == [[-1, -1, -1]] * 2


def test_a_gpu_lays_out_what_it_sends(monkeypatch):
    class Far:
        is_cuda = True

        def contiguous(self):
            return "in order"

    monkeypatch.setattr(_transfer, "stage", lambda value: ("on its way", value))
    assert to_host(Far()) == ("on its way", "in order")


def test_an_error_of_the_capture_stays_what_it_is():
    model = nn.Identity()
    handle = ss.tap(model, "", transform=lambda x: x.nothing)

    with pytest.raises(CaptureError, match="the capture failed at 'model'"):
        run_forward(model, handle, Batch(0, 2, (torch.zeros(2),), {}), None)
