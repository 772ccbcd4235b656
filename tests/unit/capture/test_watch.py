"""Operations as sites: in a tap, a survey, a submodel and a store."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import stratascope as ss
from stratascope.errors import CaptureError, SiteNotFoundError


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        y += x
        y = F.relu(y - 0.5)
        y = y + 1
        return F.relu_(torch.cat([y, x], 1)[:, :4])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.steps = 2

    def forward(self, x):
        x = self.blocks(x)
        for _ in range(self.steps):
            x = x * 2
        return x.mean(-1)


X = torch.linspace(-1, 1, 2 * 4 * 8).reshape(2, 4, 8)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def reference(net: Net) -> dict[str, torch.Tensor]:
    """Run the first block by hand, every value cloned as it flows."""
    block, found = net.blocks[0], {}
    y = block.conv(X) + X
    found["blocks.0.add"] = y.clone()
    y = y - 0.5
    found["blocks.0.sub"] = y.clone()
    y = F.relu(y)
    found["blocks.0.relu"] = y.clone()
    y = y + 1
    found["blocks.0.add_1"] = y.clone()
    y = torch.cat([y, X], 1)
    found["blocks.0.cat"] = y.clone()
    y = y[:, :4]
    found["blocks.0.getitem"] = y.clone()
    found["blocks.0.relu_"] = F.relu(y)
    return found


def test_every_operation_of_a_block_is_what_flowed(net):
    expected = reference(net)
    with torch.no_grad(), ss.tap(net, list(expected)) as acts:
        net(X)

    assert [str(site) for site in acts] == list(expected)
    assert all(torch.equal(acts[name], value) for name, value in expected.items())


def test_a_tap_sees_what_a_trace_sees(net):
    run = ss.trace(net, X, keep="all")
    names = [operation.name for operation in run if operation.name.startswith("blocks.1.")]
    own = [name for name in names if name.count(".") == 2]
    with ss.tap(net, own) as acts:
        net(X)

    assert own
    assert all(torch.equal(acts[name], run.activations[name]) for name in own)


def test_a_glob_picks_the_operation_of_many_modules(net):
    with ss.tap(net, "blocks.*.cat") as acts:
        net(X)

    assert [str(site) for site in acts] == ["blocks.0.cat", "blocks.1.cat"]


def test_operations_of_the_model_itself_stand_under_their_bare_name(net):
    with ss.tap(net, ["mul", "mul_1", "mean"]) as acts:
        net(X)

    assert torch.equal(acts["mul_1"], acts["mul"] * 2)


def test_a_loop_of_another_length_gives_other_operations(net):
    net.steps = 3
    with ss.tap(net, "mul_2") as acts:
        net(X)

    assert "mul_2" in acts


def test_inputs_and_gradients_of_operations_are_captured(net):
    with ss.tap(net, ["blocks.0.cat:in", "mean:in", "mul:grad"]) as acts:
        net(X).sum().backward()

    parts, axis = acts["blocks.0.cat:in"]
    assert [part.shape for part in parts] == [X.shape, X.shape]
    assert axis == 1
    assert torch.equal(acts["mul:grad"], torch.full_like(X, 2 / 8))


def test_modules_and_operations_come_in_one_order(net):
    with ss.tap(net, ["blocks.0.add", "blocks.0.conv", "blocks.1.conv"]) as acts:
        net(X)

    assert [str(site) for site in acts] == ["blocks.0.conv", "blocks.0.add", "blocks.1.conv"]


def test_two_taps_at_once_see_the_same_names(net):
    mixed = ["blocks.0.conv", "blocks.0.add_1"]
    with (
        ss.tap(net, mixed) as one,
        ss.tap(net, "blocks.0.**") as two,
        ss.tap(net, "blocks.0.add_1") as three,
    ):
        net(X)

    assert torch.equal(one["blocks.0.add_1"], three["blocks.0.add_1"])
    assert torch.equal(one["blocks.0.conv"], two["blocks.0.conv"])


def test_an_operation_that_does_not_run_is_an_error_with_those_that_do(net):
    with (
        pytest.raises(CaptureError, match=r"no such operation ran. Did you mean 'blocks.0.add"),
        ss.tap(net, "blocks.0.add_7"),
    ):
        net(X)


def test_what_is_no_operation_of_torch_is_unknown_at_once(net):
    with pytest.raises(SiteNotFoundError, match=r"no site of the model matches 'blocks.0.convv'"):
        ss.tap(net, "blocks.0.convv")


def test_the_survey_knows_operations(net):
    (info,) = ss.survey(net, "blocks.0.cat", example=(X,))

    assert (info.kind, info.shapes, info.parameters) == ("operation", {"": (2, 8, 8)}, 0)


def test_a_submodel_by_graph_ends_at_an_operation(net):
    part = ss.submodel(net, "blocks.0.cat", example=(X,))

    assert part.method == "graph"
    assert torch.equal(part(X)["blocks.0.cat"], reference(net)["blocks.0.cat"])


def test_a_submodel_that_stops_ends_at_an_operation_too():
    class Branching(Net):
        def forward(self, x):
            return super().forward(x if x.sum() > 1e9 else x * 1)

    model = Branching()
    part = ss.submodel(model, "blocks.0.cat", example=(X,))
    ran = []
    model.blocks[1].register_forward_hook(lambda *_: ran.append(1))

    assert part.method == "stop"
    assert torch.equal(part(X)["blocks.0.cat"], reference(model)["blocks.0.cat"])
    assert ran == []


def test_a_network_is_split_at_an_operation(net):
    head, tail = ss.split(net, "blocks.0.add", example=(X,))

    assert torch.equal(tail(head(X)), net(X))


def test_operations_are_stored(net, tmp_path):
    store = ss.extract(net, X, "blocks.*.add", to=tmp_path / "store", progress=False)

    assert list(store) == ["blocks.0.add", "blocks.1.add"]
    assert torch.equal(torch.from_numpy(store["blocks.0.add"][:]), reference(net)["blocks.0.add"])


def test_the_model_is_left_as_it_was(net):
    def state():
        return [
            (list(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
            for module in net.modules()
        ]

    before = state()
    with ss.tap(net, "blocks.0.add"):
        net(X)
    with pytest.raises(RuntimeError, match="expected input"), ss.tap(net, "blocks.0.add"):
        net(X[:, :2])
    handle = ss.tap(net, "blocks.0.add")
    handle.remove()

    assert state() == before
    assert not torch.overrides._get_current_function_mode_stack()


def test_an_interrupt_leaves_no_mode_behind(net):
    handle = ss.tap(net, "blocks.1.add")

    def interrupt(*_):
        raise KeyboardInterrupt

    hook = net.blocks[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        net(X)
    hook.remove()
    net(X)

    assert "blocks.1.add" in handle.activations
    assert not torch.overrides._get_current_function_mode_stack()
    handle.remove()


def test_a_paused_tap_captures_no_operation(net):
    handle = ss.tap(net, "blocks.0.add")
    handle.pause()
    net(X)

    assert len(handle.activations) == 0
    handle.remove()


def test_nothing_keeps_the_model_alive():
    model = Net()
    with ss.tap(model, "blocks.0.add"):
        model(X)
    gone = weakref.ref(model)
    del model
    gc.collect()

    assert gone() is None


def test_training_with_a_watched_operation_is_the_same(net):
    def train(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(X).square().mean().backward()
            optimizer.step()
        return [parameter.detach().clone() for parameter in model.parameters()]

    torch.manual_seed(0)
    other = Net()
    with ss.tap(net, ["blocks.0.add", "blocks.1.relu_:grad"]):
        watched = train(net)

    assert all(torch.equal(*pair) for pair in zip(watched, train(other), strict=True))


def test_a_write_that_returns_nothing_is_a_site_as_in_a_trace():
    class Writes(nn.Module):
        def forward(self, x):
            y = x * 1
            y[0] = 5
            return y + 1

    model, x = Writes(), torch.ones(2)
    with ss.tap(model, ["setitem", "mul"]) as acts:
        model(x)

    assert acts["mul"].tolist() == [1, 1]
    assert (
        acts["setitem"].tolist() == ss.trace(model, x, keep="all").activations["setitem"].tolist()
    )
    assert acts["setitem"].tolist() == [5, 1]
