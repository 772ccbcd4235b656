"""Recording every operation of a forward."""

import copy
import json
import math

import pytest
import torch
from pyarrow import parquet
from torch import nn
from torch.nn import functional as F

from naming import name_case
from stratascope.capture._trace import debug, trace
from stratascope.errors import CaptureError, SiteNotFoundError


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 2, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.conv(self.relu(self.conv(x)))
        y += x
        return F.relu(y)


class Loop(nn.Module):
    def forward(self, x):
        while x.abs().sum() < 10:
            x = x * 2
        return torch.cat([x, x])


class Divides(nn.Module):
    def forward(self, x):
        ratio = x / (x - x)
        return ratio.mean()


class Shift(nn.Module):
    def forward(self, x):
        return x + torch.tensor([0.0, math.nan, 3.0])


@pytest.fixture
def block():
    torch.manual_seed(0)
    return Residual()


x = torch.linspace(-1, 1, 40).reshape(2, 2, 10)


def test_operations_come_in_order_with_what_fed_them(block):
    run = trace(block, x)

    assert [operation.name for operation in run] == [
        "conv.conv1d",
        "relu.relu",
        "conv.conv1d_1",
        "add",
        "relu",
    ]
    assert [operation.parents for operation in run] == [(-1,), (0,), (1,), (-1, 2), (3,)]


def test_in_place_work_is_marked(block):
    run = trace(block, x)

    assert [operation.name for operation in run if operation.in_place] == ["relu.relu", "add"]


def test_an_operation_knows_its_line_in_the_users_code(block):
    run = trace(block, x)
    line = Residual.forward.__code__.co_firstlineno

    assert run["add"].source == f"test_trace.py:{line + 2}"
    assert run["conv.conv1d"].source == f"test_trace.py:{line + 1}"


def test_dynamic_control_flow_is_followed():
    run = trace(Loop(), torch.ones(1))

    assert [op.name for op in run if op.function.endswith("mul")] == [
        "mul",
        "mul_1",
        "mul_2",
        "mul_3",
    ]


def test_the_output_is_that_of_the_plain_forward(block):
    run = trace(block, x)

    assert torch.equal(run.activations["model"], block(x))


def test_kept_values_are_what_flowed_before_in_place_writes(block):
    run = trace(block, x, keep="all")
    first = F.conv1d(x, block.conv.weight, block.conv.bias, padding=1)

    assert torch.equal(run.activations["conv.conv1d"], first)
    assert torch.equal(run.activations["conv@1"], first)
    assert torch.equal(run.activations["model"], block(x))


def test_nothing_is_kept_unless_asked(block):
    assert len(trace(block, x, keep="none").activations) == 0


def test_a_budget_keeps_the_first_values_and_says_what_it_left_out(block):
    run = trace(block, x, keep="modules", max_bytes=2 * x.nbytes)

    assert len(run.activations) == 2
    assert run.left_out == 2
    assert "2 values were not kept" in repr(run)


def test_modules_are_recorded_with_their_operations(block):
    run = trace(block, x)
    root = run.modules[-1]

    assert [call.name for call in run.modules] == ["conv", "relu", "conv", "model"]
    assert (root.first, root.stop, root.depth) == (0, 5, 0)


def test_the_first_nonfinite_value_is_named_with_its_line_and_inputs():
    run = trace(Divides(), torch.ones(3))
    bad = run.first_nonfinite()

    assert bad is not None
    assert (bad.name, bad.infs, bad.nans) == ("div", 3, 0)
    assert [summary.high for summary in bad.input_summaries] == [1.0, 0.0]
    assert "first not finite: div" in repr(run)
    assert f"test_trace.py:{Divides.forward.__code__.co_firstlineno + 1}" in str(bad)


def test_a_finite_run_has_no_nonfinite_operation(block):
    assert trace(block, x).first_nonfinite() is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_large_finite_sums_are_not_taken_for_infinite(dtype):
    value = torch.full((64,), 30000.0, dtype=dtype)

    assert trace(nn.ReLU(), value.real).first_nonfinite() is None
    assert trace(nn.Flatten(0), value).first_nonfinite() is None


def test_statistics_summarise_every_output():
    run = trace(Shift(), torch.ones(3), statistics=True)
    (summary,) = run["add"].output_summaries

    assert (summary.low, summary.high, summary.nans, summary.zeros) == (1.0, 4.0, 1, 0)
    assert (summary.mean, summary.std) == (2.5, 1.5)


def test_memory_counts_new_storage_once(block):
    run = trace(block, x)

    assert run["conv.conv1d"].new_bytes == x.nbytes
    assert run["relu.relu"].new_bytes == 0
    assert run.peak_bytes >= 2 * x.nbytes


def test_two_equal_runs_do_not_differ(block):
    assert trace(block, x).diff(trace(block, x)) is None


def test_the_first_site_at_which_two_checkpoints_differ_is_named(block):
    other = Residual()
    other.load_state_dict(block.state_dict())
    with torch.no_grad():
        other.conv.bias += 1e-3
    found = trace(block, x).diff(trace(other, x))

    assert found is not None
    assert found.name == "conv@1"
    assert found.largest == pytest.approx(1e-3, rel=1e-3)


def test_runs_without_common_values_cannot_be_compared(block):
    bare = trace(block, x, keep="none")
    with pytest.raises(CaptureError, match="must have kept the same sites to be compared"):
        bare.diff(bare)


def test_an_unknown_operation_is_an_error_with_near_names(block):
    with pytest.raises(SiteNotFoundError, match=r"called 'conv.conv2d'. Did you mean 'conv.conv1d"):
        trace(block, x)["conv.conv2d"]


def test_the_table_shows_every_operation(block):
    run = trace(block, x)

    assert len(run.table().splitlines()) == 1 + len(run)
    assert "in place" in run.table()
    assert "  conv" in run.table(modules=True)


def test_plain_values_are_json(block):
    plain = json.loads(json.dumps(trace(block, x, statistics=True).to_dict()))

    assert plain["operations"][3]["name"] == "add"


def test_the_inner_layers_of_a_fused_transformer_layer_are_seen():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    with torch.no_grad():
        run = trace(layer, torch.ones(1, 3, 4))

    assert "linear1.linear" in [operation.name for operation in run]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_runs_in_every_gradient_mode(block, context):
    with context():
        run = trace(block, x, keep="all", statistics=True)

    assert len(run) == 5


def test_the_model_is_left_as_it_was(block):
    def attributes():
        return {
            name: (list(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
            for name, module in block.named_modules()
        }

    before = attributes()
    trace(block, x)
    with pytest.raises(RuntimeError, match="expected input"):
        trace(block, torch.ones(1, 5, 10))
    with debug(block):
        block(x)

    assert attributes() == before
    assert not torch.overrides._get_current_function_mode_stack()


def test_an_unknown_keep_is_an_error(block):
    with pytest.raises(ValueError, match="keep must be 'none', 'modules' or 'all', got 'some'"):
        trace(block, x, keep="some")


def test_debug_records_every_forward_of_unchanged_code(block):
    with debug(block, last=2) as runs:
        outputs = [block(x) for _ in range(3)]

    assert len(runs) == 2
    assert all(torch.equal(output, block(x)) for output in outputs)
    assert "forward" not in vars(block)


def test_debug_trains_to_the_same_weights(block):
    def train(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        return [parameter.detach().clone() for parameter in model.parameters()]

    other = Residual()
    other.load_state_dict(block.state_dict())
    with debug(block, keep="all", statistics=True):
        watched = train(block)

    assert all(torch.equal(*pair) for pair in zip(watched, train(other), strict=True))


def test_debug_gives_an_own_forward_back(block):
    def forward(x):
        return x

    block.forward = forward
    with debug(block):
        block(x)

    assert block.forward is forward


def test_debug_needs_room_for_one_trace(block):
    with pytest.raises(ValueError, match="last must be at least 1, got 0"), debug(block, last=0):
        pass


def test_without_looking_nothing_is_said_of_nonfinite_values():
    run = trace(Divides(), torch.ones(3), nonfinite=False)

    assert run["div"].nans is None
    assert "first not finite" not in repr(run)
    with pytest.raises(CaptureError, match="this trace did not look for NaN and Inf: trace with"):
        run.first_nonfinite()


def test_modules_alone_are_recorded_without_operations(block):
    run = trace(block, x, operations=False)

    assert len(run) == 0
    assert [call.name for call in run.modules] == ["conv", "relu", "conv", "model"]
    assert torch.equal(run.activations["model"], block(x))
    assert "operations were not recorded" in repr(run)
    assert len(run.table(modules=True).splitlines()) == 5


@pytest.mark.parametrize(
    "wish", [{"keep": "all"}, {"statistics": True}, {"backward": torch.sum}], ids=name_case
)
def test_what_needs_operations_says_so(block, wish):
    with pytest.raises(
        ValueError, match=r"operations must be True for (keep|stat|back).*got False"
    ):
        trace(block, x, operations=False, **wish)


def test_the_backward_is_recorded_under_the_names_of_the_forward(block):
    run = trace(block, x, backward=lambda y: y.square().sum())

    assert [(step.name, step.function) for step in run.backward] == [
        ("relu", "ReluBackward0"),
        ("add", "AddBackward0"),
        ("conv.conv1d_1", "ConvolutionBackward0"),
        ("relu.relu", "ReluBackward0"),
        ("conv.conv1d", "ConvolutionBackward0"),
    ]
    assert [step.parents for step in run.backward] == [(4,), (3,), (2,), (1,), (0,)]
    assert run.backward[0].outputs[0].shape == tuple(x.shape)
    assert run.backward[0].source == run["relu"].source
    assert "5 backward operations" in repr(run)
    assert "conv.conv1d ConvolutionBackward0" in run.table()
    assert len(run.to_dict()["backward"]) == 5


def test_a_recorded_backward_leaves_the_gradients_as_they_were(block):
    inputs = x.clone().requires_grad_()
    block(inputs).sum().backward()
    before = {name: parameter.grad.clone() for name, parameter in block.named_parameters()}
    kept = inputs.grad.clone()
    trace(block, inputs, backward=torch.sum)

    assert torch.equal(inputs.grad, kept)
    assert all(torch.equal(p.grad, before[name]) for name, p in block.named_parameters())
    block.zero_grad()
    trace(block, inputs, backward=torch.sum)
    assert all(parameter.grad is None for parameter in block.parameters())


def test_the_first_nonfinite_gradient_is_named():
    class Root(nn.Module):
        def forward(self, x):
            return torch.sqrt(x * 1.0).sum()

    run = trace(Root(), torch.zeros(3, requires_grad=True), backward=lambda y: y)
    bad = run.first_nonfinite()

    assert bad is not None
    assert (bad.name, bad.function, bad.infs) == ("sqrt", "SqrtBackward0", 3)
    assert [summary.high for summary in bad.input_summaries] == [1.0]


@pytest.mark.parametrize(
    ("make_loss", "got"),
    [
        (lambda y: y, r"got a tensor of shape \(2, 2, 10\): run with"),
        (lambda y: y.detach().sum(), r"got a tensor of shape \(\) without a graph: run with"),
        (lambda y: 1.0, "got float: run with"),
    ],
)
def test_a_loss_that_cannot_go_backward_is_refused(block, make_loss, got):
    with pytest.raises(CaptureError, match=f"backward must make one number that depends.*{got}"):
        trace(block, x, backward=make_loss)


def test_debug_follows_the_backward_of_a_training(block):
    with debug(block, backward=True, last=2) as runs:
        losses = []
        for _ in range(3):
            losses.append(block(x).square().sum())
            losses[-1].backward(retain_graph=True)

    assert [len(run.backward) for run in runs] == [5, 5]
    losses[-1].backward()
    assert len(runs[-1].backward) == 5, "nothing watches when the block is over"


def test_parquet_holds_a_row_for_each_operation(block, tmp_path):
    run = trace(block, x, backward=torch.sum, statistics=True)
    run.to_parquet(tmp_path / "run.parquet")
    rows = parquet.read_table(tmp_path / "run.parquet").to_pylist()

    assert [row["name"] for row in rows if not row["backward"]] == [op.name for op in run]
    assert rows[0]["outputs"][0]["shape"] == list(x.shape)
    assert next(row["function"] for row in rows if row["backward"]) == "ReluBackward0"


def test_a_notebook_shows_the_operations_as_a_table(block):
    shown = trace(block, x)._repr_html_()

    assert shown.count("<tr>") == 6
    assert "conv.conv1d" in shown
    assert trace(block, x, operations=False)._repr_html_().count("<tr>") == 5


def test_copies_of_a_model_under_debug_are_not_watched(block):
    with debug(block) as runs:
        copy.deepcopy(block)(x)

    assert len(runs) == 0


def test_snapshots_of_one_value_stay_right_when_it_is_written(block):
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Conv1d(2, 2, 3))

        def forward(self, x):
            y = self.inner(x)
            y[:, :1] += 1
            y.relu_()
            return y

    model = Writes()
    with torch.no_grad():
        flowed = F.conv1d(x, model.inner[0].weight, model.inner[0].bias)
        for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with context():
                run = trace(model, x, keep="all")
            for name in ("inner", "inner.0", "inner.0.conv1d"):
                assert torch.equal(run.activations[name], flowed)
            assert torch.equal(run.activations["model"], model(x))


def test_memory_that_torch_uses_again_keeps_no_value_of_another_layer():
    torch.manual_seed(0)
    model = nn.Sequential(*(Residual() for _ in range(8)))
    flowed = {}
    for name, layer in model.named_modules():
        if name.endswith("conv"):
            layer.register_forward_hook(
                lambda _, args, output, name=name: flowed.setdefault(name, []).append(
                    output.clone()
                )
            )
    with torch.no_grad():
        for _ in range(10):
            flowed.clear()
            run = trace(model, x, keep="all")
            for name, values in flowed.items():
                pairs = zip(values, run.activations.calls(name), strict=True)
                assert all(torch.equal(*pair) for pair in pairs), name


def test_sparse_values_are_recorded():
    class Sparse(nn.Module):
        def forward(self, x):
            return x.to_sparse()

    run = trace(Sparse(), torch.eye(3))

    assert torch.equal(run.activations["model"].to_dense(), torch.eye(3))
    assert run._repr_html_().count("<tr>") == 2


def test_tables_of_several_traces_are_read_as_one(block, tmp_path):
    trace(block, x).to_parquet(tmp_path / "a.parquet")
    trace(Divides(), torch.ones(3), nonfinite=True).to_parquet(tmp_path / "new" / "b.parquet")

    assert parquet.read_table(tmp_path).num_rows == 8


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def twice_out(x):
    y = torch.empty_like(x)
    torch.add(x, 1, out=y)
    torch.add(x, 2, out=y)
    return y.mul_(10)


def conjugated(x):
    y = torch.complex(x, x)
    z = y.conj()
    y.mul_(5)
    return z.real.sum()


def reread(x):
    y = x + 1
    z = y.view(torch.int32)
    y.mul_(5)
    return z


def masked(x):
    mask = x > 0
    mask |= x < -1
    mask |= x == 0
    mask.fill_(False)
    return mask


def exported(x):
    y = x - 1
    torch.ops.aten.relu_.default(y)
    return torch.nn.functional.hardtanh(y, 0, 0.1, inplace=True)


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (twice_out, {"add": [1.0, 2.0], "add_1": [2.0, 3.0], "mul_": None}),
        (conjugated, {"conj": [0, 1 - 1j]}),
        (reread, {"view": [1065353216, 1073741824]}),
        (masked, {"gt": [False, True], "ior": [False, True], "ior_1": [True, True]}),
        (exported, {"sub": [-1.0, 0.0], "relu_": [0.0, 0.0]}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_values_before_and_after_unusual_writes_are_kept_apart(function, wanted):
    run = trace(Calls(function), torch.tensor([0.0, 1.0]), keep="all")
    kept = {str(site): value for site, value in run.activations.items()}

    for name, values in wanted.items():
        if values is not None:
            assert kept[name].tolist() == values, name


def test_a_write_that_returns_nothing_is_an_operation():
    def write(x):
        y = x * 1
        y[0] = math.nan
        return y + 1

    run = trace(Calls(write), torch.ones(2))
    bad = run.first_nonfinite()

    assert [(op.name, op.in_place) for op in run] == [
        ("mul", False),
        ("setitem", True),
        ("add", False),
    ]
    assert bad is not None
    assert bad.name == "setitem"
    assert run["add"].parents == (1,)


def test_a_write_through_a_view_feeds_what_reads_the_whole():
    def write(x):
        y = x * 1
        y[0].add_(1)
        return y * 2

    assert trace(Calls(write), torch.ones(2))["mul_1"].parents == (0, 2)


def test_a_recorded_backward_stops_at_the_input():
    weight = torch.ones(3, requires_grad=True)
    given = weight * 2
    kept = given.pow(2)
    trace(nn.Linear(3, 1), given, backward=torch.sum)

    assert weight.grad is None
    kept.sum().backward()
    assert weight.grad is not None


def test_what_feeds_a_bad_operation_with_nan_is_told():
    bad = trace(nn.Linear(2, 1), torch.tensor([math.nan, 1.0])).first_nonfinite()

    assert "only passes on what was not finite in what came in" in str(bad)


def test_debug_warns_where_no_backward_was_seen(block):
    with debug(block, backward=True) as runs:
        block(x)
    with pytest.warns(UserWarning, match="no backward was seen: call backward"):
        assert runs[-1].first_nonfinite() is None
    assert "first not finite" not in repr(runs[-1])


def test_a_forward_that_raises_leaves_the_trace_of_what_ran(block):
    model = nn.Sequential(block, nn.Linear(3, 3))
    with debug(model) as broken, pytest.raises(RuntimeError, match="shapes"):
        model(x)

    assert [op.name for op in broken[-1]][-1] == "0.relu"


def test_lazy_modules_are_recorded():
    run = trace(nn.Sequential(nn.LazyLinear(2), nn.ReLU()), torch.ones(1, 3))

    assert [op.name for op in run if op.name.endswith("relu")] == ["1.relu"]


def test_nothing_inside_vmap_is_taken_for_a_value():
    run = trace(Calls(lambda x: torch.vmap(lambda part: part * 2)(x)), torch.ones(2, 3))

    assert run.activations["model"].tolist() == [[2, 2, 2], [2, 2, 2]]


@pytest.mark.parametrize("make", [torch.Tensor.to_sparse, lambda x: x.to("meta")])
def test_kinds_without_plain_numbers_are_summarised_or_left(make):
    run = trace(Calls(make), torch.eye(3), statistics=make is torch.Tensor.to_sparse)

    assert len(run) == 1


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"backward": True}, "backward must be a function that makes the loss.*got True"),
        ({"max_bytes": "1GB"}, "max_bytes must be a whole number from 0, got '1GB'"),
        ({"max_bytes": -3}, "max_bytes must be a whole number from 0, got -3"),
    ],
)
def test_wrong_arguments_are_told(block, wish, message):
    with pytest.raises((TypeError, ValueError), match=message):
        trace(block, x, **wish)


def test_a_trace_without_values_says_why(block):
    with pytest.raises(SiteNotFoundError, match="the trace kept no values: ask for keep='modules'"):
        trace(block, x, keep="none").activations["conv@1"]


class Spoilt(nn.Module):
    """Makes values that are finite no more, and passes them on in many ways."""

    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil

    def forward(self, x):
        y = F.relu(x + 1)
        self.spoil(y)
        whole = torch.cat([y.relu_(), F.relu(y.transpose(0, 1).reshape(y.shape))]).flatten()
        return whole[:3].unsqueeze(0) * 2, torch.stack(whole.chunk(2))


def _spoil_through_data(y):
    y.data.log_()


def _spoil_through_numpy(y):
    y.numpy()[:] = math.nan


@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: None,
        lambda y: y.log_(),
        lambda y: y[0].div_(0),
        _spoil_through_data,
        _spoil_through_numpy,
    ],
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_only_passes_values_on_is_counted_as_if_it_were_looked_at(spoil, mode):
    with mode():
        run = trace(Spoilt(spoil), x.flatten(1), keep="all")

    for operation in run:
        kept = run.activations[operation.name]
        values = torch.cat([part.flatten() for part in (kept if type(kept) is tuple else [kept])])
        counted = int(values.isnan().sum()), int(values.isinf().sum())
        assert (operation.nans, operation.infs) == counted, operation


class Ragged(nn.Module):
    def forward(self, x):
        return (torch.nested.nested_tensor([x[0], x[1, :2]]) * 2).to_padded_tensor(0.0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_tensors_are_described_as_far_as_torch_tells():
    run = trace(Ragged(), torch.ones(2, 3))

    assert (run["mul"].outputs[0].shape, run["to_padded_tensor"].outputs[0].shape) == (
        (2, -1),
        (2, 3),
    )
