import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import stratascope as ss
from networks import Reused, Tuples
from stratascope.capture import Staged, stage
from stratascope.errors import CaptureError

X = torch.linspace(-1, 1, 8).reshape(2, 4)
DEVICE = torch.device("cuda:1")


class Queue:
    """The work that a device was given and has not done yet."""

    def __init__(self):
        self.work = []
        self.streams = []
        self.sent = []

    def run(self, end):
        while self.done < end:
            self.work[self.done]()
            self.work[self.done] = None

    @property
    def done(self):
        return sum(work is None for work in self.work)


@pytest.fixture
def queue(monkeypatch):
    """Make `Far` tensors ones of a GPU that only works when somebody waits for it."""
    queue = Queue()

    class Event:
        def record(self, stream):
            queue.streams.append(stream)
            self.position = len(queue.work)

        def synchronize(self):
            queue.run(self.position)

    monkeypatch.setattr(Far, "queue", queue, raising=False)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    return queue


class Far(Tensor):
    device = DEVICE
    is_cuda = True

    def to(self, *args, device=None, non_blocking=False, **kwargs):
        if "cpu" not in (*args, device):
            return super().to(**kwargs)
        near = self.as_subclass(Tensor).clone()
        if not non_blocking:
            return near.to(**kwargs)
        self.queue.sent.append(near)
        host = torch.full_like(near, -7)
        # What is in a queue sees the tensor as it is now, whatever is written after it.
        self.queue.work.append(lambda: host.copy_(near))
        return host


def far(tensor):
    return tensor.as_subclass(Far)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))


def test_a_copy_is_waited_for_on_the_device_of_its_tensor(queue):
    staged = stage((far(X), {"y": far(2 * X), "z": X, "n": None}))

    assert queue.streams == [f"stream of {DEVICE}"] * 2
    assert queue.done == 0
    first, rest = staged.wait()
    assert queue.done == 2
    assert torch.equal(first, X)
    assert torch.equal(rest["y"], 2 * X)
    assert rest["z"] is X
    assert rest["n"] is None


def test_what_is_on_the_host_is_there_at_once():
    staged = stage(X)

    assert staged == Staged(X, ())
    assert staged.wait() is X


def test_the_forward_waits_for_no_copy_and_who_reads_waits_for_his(queue):
    network = model()
    with ss.tap(network, "**", device="cpu", transform=far) as acts:
        output = network(X)

    assert (len(queue.work), queue.done) == (3, 0)
    assert torch.equal(acts["1"], network[1](network[0](X)))
    assert queue.done == 2
    assert torch.equal(acts["2"], output)
    assert torch.equal(acts["0"], network[0](X))
    assert type(acts["0"]) is Tensor


@pytest.mark.parametrize(
    "read",
    [
        lambda acts: list(acts.values()),
        lambda acts: list(dict(acts).values()),
        lambda acts: [value for _, value in acts.items()],
        lambda acts: [acts.calls("layers.0")[0], *acts.calls("relu")],
        lambda acts: list(pickle.loads(pickle.dumps(acts)).values()),
        lambda acts: list(copy.deepcopy(acts).values()),
    ],
    ids=["values", "dict", "items", "calls", "pickle", "deepcopy"],
)
@pytest.mark.parametrize("popped", [False, True], ids=["held", "popped"])
def test_whatever_is_read_is_complete(queue, read, popped):
    network, sites = Reused(), ["layers.0", "relu"]
    with ss.tap(network, sites) as expected:
        network(X)
    handle = ss.tap(network, sites, device="cpu", transform=far)
    network(X)
    acts = handle.pop() if popped else handle.activations
    assert queue.done == 0
    found = read(acts)
    handle.remove()

    assert len(found) == 4
    for one, other in zip(found, expected.values(), strict=True):
        assert torch.equal(one, other)


def test_looking_at_what_was_captured_waits_for_nothing(queue):
    network = model()
    with ss.tap(network, "**", device="cpu", transform=far) as acts:
        network(X)

    assert repr(acts) == (
        "Activations of 3 sites\n  0  (2, 4) float32\n  1  (2, 4) float32\n  2  (2, 2) float32"
    )
    assert (len(acts), len(acts.sites), "0" in acts.sites, queue.done) == (3, 3, False, 0)


def test_a_later_forward_leaves_what_was_handed_over_alone(queue):
    network = model()
    handle = ss.tap(network, "2", device="cpu", transform=far)
    first = network(X)
    taken = handle.pop()
    network(2 * X)

    assert torch.equal(taken["2"], first)
    assert queue.done == 1
    handle.remove()


def test_values_are_cast_where_they_are(queue):
    network = model()
    with ss.tap(network, "0", device="cpu", dtype=torch.float16, transform=far) as acts:
        network(X)

    assert [tensor.dtype for tensor in queue.sent] == [torch.float16]
    assert torch.equal(acts["0"], network[0](X).half())


def test_structures_and_gradients_are_sent_too(queue):
    network = Tuples()
    with ss.tap(network, ["pair", "pair:grad"], device="cpu", transform=far) as acts:
        network(torch.ones(1, 4)).sum().backward()

    assert queue.done == 0
    _, (of_right, nothing) = acts["pair:grad"]
    assert torch.equal(of_right, network.join.weight[:, 3:])
    assert nothing is None
    assert torch.equal(acts["pair"][0], network.pair(torch.ones(1, 4))[0])


def test_a_callback_gets_what_is_complete(queue):
    network, seen = Reused(), []
    handle = ss.tap(
        network,
        ["layers.0", "relu@-1"],
        device="cpu",
        transform=far,
        on_capture=lambda site, value: seen.append(value),
    )
    output = network(X)
    handle.remove()

    assert queue.work == []
    assert torch.equal(seen[0], network.layers[0](X))
    assert torch.equal(seen[1], output)


def test_a_host_without_memory_for_the_copy_is_told_when_the_forward_is_over(queue, monkeypatch):
    def refuse(tensor, *args, **kwargs):
        if args:
            raise RuntimeError("CUDA error: out of memory")
        return tensor

    network, ran = model(), []
    network[2].register_forward_hook(lambda *_: ran.append("2"))
    monkeypatch.setattr(Far, "to", refuse)
    handle = ss.tap(network, "0", device="cpu", transform=far)
    message = "the copy to the host failed at '0': RuntimeError: CUDA error: out of memory"
    with pytest.raises(CaptureError, match=message):
        network(X)
    handle.remove()

    assert ran == ["2"]


def test_nothing_is_sent_once_a_forward_is_too_large(queue):
    network = model()
    handle = ss.tap(network, "**", device="cpu", transform=far, max_bytes=40)
    with pytest.raises(CaptureError, match="at most max_bytes=40 bytes, got 80 at 3 sites"):
        network(X)
    handle.remove()

    assert len(queue.work) == 1
