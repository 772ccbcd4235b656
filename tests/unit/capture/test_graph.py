"""Cutting by graph, and falling back to stopping where there is none."""

import io
import pickle

import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import stratascope as ss
from networks import CASES, Loop
from stratascope.errors import CaptureError

X = torch.linspace(-1, 1, 2 * 4 * 8).reshape(2, 4, 8)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(4)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x):
        y = self.second(self.relu(self.norm(self.first(x))))
        y += x
        return self.relu(y)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = Block(), Block()
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        return self.head(torch.flatten(self.left(x) + self.right(x), 1))


def test_a_branch_that_feeds_nothing_wanted_is_neither_run_nor_held():
    model = Branches().eval()
    part = ss.submodel(model, "right.norm", example=(X,))
    held = {name for name, _ in part.named_parameters()}

    assert part.method == "graph"
    assert held == {"graph.right.first.weight", "graph.right.first.bias"} | {
        "graph.right.norm.weight",
        "graph.right.norm.bias",
    }


def test_an_early_layer_is_what_it_was_although_a_later_one_writes_in_place():
    model = Branches().eval()
    part = ss.submodel(model, ["left.norm", "left"], example=(X,))
    with torch.no_grad(), ss.tap(model, ["left.norm", "left"]) as acts:
        model(X)

    assert part.method == "graph"
    assert torch.equal(part(X)["left.norm"], acts["left.norm"])
    assert torch.equal(part(X)["left"], acts["left"])


def test_training_the_part_trains_the_model_and_moves_its_batchnorm():
    model = Branches()
    part = ss.submodel(model, "left.norm", example=(X,))
    before = model.left.norm.running_mean.clone()
    part(X)["left.norm"].square().sum().backward()

    assert model.left.first.weight.grad is not None
    assert not torch.equal(model.left.norm.running_mean, before)


def test_without_sharing_the_model_stays_as_it_is():
    model = Branches()
    part = ss.submodel(model, "left.norm", example=(X,), share=False)
    part(X)["left.norm"].square().sum().backward()

    assert model.left.first.weight.grad is None
    assert torch.equal(model.left.norm.running_mean, torch.zeros(4))


def test_control_flow_that_depends_on_the_input_is_run_and_stopped():
    model = Loop()
    x = torch.ones(1, 4)
    part = ss.submodel(model, "cell", example=(x,))

    assert part.method == "stop"
    assert "method='stop' (" in repr(part)
    assert part.reason


def test_a_forward_that_asks_for_its_mode_is_run_and_stopped():
    class Drops(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return self.layer(F.dropout(x, 0.5, training=self.training))

    part = ss.submodel(Drops(), "layer", example=(X,))

    assert part.reason == "its forward is another one in training than in evaluation"


def test_it_is_exported():
    part = ss.submodel(Branches().eval(), "left", example=(X,))
    program = torch.export.export(part.graph, (X,))

    assert torch.equal(program.module()(X)["left"], part(X)["left"])


# What torch's exporter does itself.
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore::DeprecationWarning")
def test_other_runtimes_take_it_as_onnx():
    model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv1d(4, 2, 3)).eval()
    x = torch.linspace(-1, 1, 32).reshape(2, 1, 16)
    part = ss.submodel(model, ["0", "1"], example=(x,))
    file = io.BytesIO()
    program = torch.onnx.export(
        part.graph, (x,), dynamo=True, verbose=False, output_names=["0", "1"]
    )
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    given = session.run(["0", "1"], {session.get_inputs()[0].name: x.numpy()})

    for values, flowed in zip(given, part(x).values(), strict=True):
        torch.testing.assert_close(torch.from_numpy(values), flowed)


@pytest.mark.parametrize("model", [Branches().eval(), Loop().eval()])
def test_it_is_saved_and_loaded(model):
    x = X if isinstance(model, Branches) else torch.ones(1, 4)
    site = "left" if isinstance(model, Branches) else "cell@1"
    part = ss.submodel(model, site, example=(x,))
    buffer = io.BytesIO()
    torch.save(part, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)

    assert torch.equal(loaded(x)[site], part(x)[site])
    assert pickle.loads(pickle.dumps(part)).method == part.method


def test_head_and_tail_make_the_whole_across_a_skip_connection():
    model = Branches().eval()
    head, tail = ss.split(model, "left.norm", example=(X,))
    handed = head(X)

    assert isinstance(handed, tuple)
    assert torch.equal(tail(handed), model(X))
    assert torch.equal(tail(handed), model(X)), "the tail must not write into what it was handed"


def test_head_and_tail_share_the_models_parameters_between_them():
    model = Branches()
    head, tail = ss.split(model, "left", example=(X,))
    held = {id(p) for p in (*head.parameters(), *tail.parameters())}

    assert held == {id(p) for p in model.parameters()}


def test_a_single_value_is_handed_on_as_itself():
    model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    head, tail = ss.split(model, "1", example=(X,))

    assert torch.equal(head(X), model[:2](X))
    assert torch.equal(tail(head(X)), model(X))


def test_what_has_no_graph_cannot_be_split():
    with pytest.raises(CaptureError, match=r"cannot be split at 'cell@1': .* gives its head"):
        ss.split(Loop(), "cell@1", example=(torch.ones(1, 4),))


def test_a_network_is_split_at_one_site():
    with pytest.raises(CaptureError, match=r"split at one site, got 2: choose of '0', '1'"):
        ss.split(nn.Sequential(nn.Tanh(), nn.Tanh()), "*", example=(X,))


CHAINS = [case for case in CASES if not case.kwargs()]


@pytest.mark.parametrize("case", CHAINS, ids=str)
def test_wherever_a_network_can_be_split_the_halves_make_the_whole(case):
    model = case.build().eval()
    with torch.no_grad():
        whole = case.run(model)
        for site in ss.select(model, "**", example=case.args()):
            try:
                head, tail = ss.split(model, site, example=case.args())
            except CaptureError:
                continue
            torch.testing.assert_close(tail(head(*case.args())), whole, rtol=0, atol=0)


def test_most_of_the_networks_can_be_split():
    found = 0
    for case in CHAINS:
        model = case.build().eval()
        try:
            ss.split(model, ss.select(model, "**", example=case.args())[0], example=case.args())
        except CaptureError:
            continue
        found += 1

    assert found >= len(CHAINS) // 2


class Remembering(nn.Module):
    """With a linear layer, and a side effect by name."""

    def __init__(self, effect):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("mean", None)
        self.effect = getattr(self, effect)
        self.runs = 0

    def attribute(self, h):
        self.last = h
        self.runs += 1
        return h

    def counting(self, h):
        self.count += 1
        return h * self.count

    def counting_in_training(self, h):
        if self.training:
            self.count += 1
        return h

    def first_mean(self, h):
        if self.mean is None:
            self.mean = torch.ones(2)
        return h + self.mean

    def noise(self, h):
        return h + torch.rand(2)

    def number(self, h):
        return h * torch.rand(1).item()

    def forward(self, x):
        return torch.relu(self.effect(self.layer(x)))


EFFECTS = {
    "attribute": "graph",
    "counting": "stop",
    "counting_in_training": "stop",
    "first_mean": "stop",
    "noise": "stop",
    "number": "stop",
}


@pytest.mark.parametrize(("effect", "method"), EFFECTS.items())
def test_cutting_leaves_no_trace_of_a_forward_with_side_effects(effect, method):
    model = Remembering(effect).train()
    x = torch.rand(3, 2)
    random = torch.get_rng_state()
    names, buffers = set(vars(model)), dict(model._buffers)
    part = ss.submodel(model, "relu", example=(x,))

    assert part.method == method
    assert torch.equal(torch.get_rng_state(), random)
    assert set(vars(model)) - names <= {"last"}
    assert isinstance(vars(model).get("last", x), torch.Tensor)
    assert all(model._buffers[name] is buffer for name, buffer in buffers.items())
    assert model.count == 0
    assert model.training


@pytest.mark.parametrize("effect", ["counting", "counting_in_training"])
def test_a_part_counts_in_buffers_as_the_model_does(effect):
    model = Remembering(effect).train()
    x = torch.rand(3, 2)
    part = ss.submodel(model, "relu", example=(x,))
    part(x)

    assert part.reason == "its forward changes its buffers"
    assert model.count == 1


def test_a_network_that_draws_numbers_cannot_be_split():
    model = Remembering("noise")
    with pytest.raises(CaptureError, match="makes a tensor that a graph would hold as it is now"):
        ss.split(model, "layer", example=(torch.rand(3, 2),))

    assert not [name for name in vars(model) if name.startswith("_tensor_constant")]
