import copy
import gc
import pickle
import re
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import stratascope as ss
from naming import name_case
from networks import Loop, Prompted, Recurrent, Recursive, Reused, Tuples, conv1d_stack
from stratascope.errors import CaptureError, SiteNotFoundError
from stratascope.sites import Site


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))


@pytest.fixture
def x():
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def names(acts):
    return [str(site) for site in acts]


def hooks(model):
    return [
        (dict(module._forward_pre_hooks), dict(module._forward_hooks), "forward" in vars(module))
        for module in model.modules()
    ]


class Collector:
    """Keeps what it is called with."""

    def __init__(self):
        self.seen = []

    def __call__(self, site, value):
        self.seen.append((str(site), value))

    @property
    def names(self):
        return [name for name, _ in self.seen]


# Forwards


def test_each_forward_replaces_the_last(model, x):
    handle = ss.tap(model, "**")
    model(x)
    first = handle.activations["2"]
    output = model(2 * x)

    assert torch.equal(handle.activations["2"], output)
    assert not torch.equal(handle.activations["2"], first)
    assert handle.activations is handle.activations
    handle.remove()


def test_a_value_taken_before_the_next_forward_stays_as_it_was(model, x):
    with ss.tap(model, "0") as acts:
        model(x)
        first = acts["0"]
        expected = first.clone()
        model(2 * x)

    assert torch.equal(first, expected)


def test_only_every_nth_forward_is_captured(model):
    inputs = [torch.full((1, 4), float(index)) for index in range(7)]
    handle = ss.tap(model, ":in", every=3)
    captured = []
    for value in inputs:
        model(value)
        captured.append(handle.activations[":in"][0, 0].item())
    handle.remove()

    assert captured == [0, 0, 0, 3, 3, 3, 6]


def test_a_forward_that_is_not_captured_leaves_the_last_one_alone():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(4, 2), nn.Linear(4, 3)

        def forward(self, x, branch):
            return getattr(self, branch)(x)

    model = Branches()
    x = torch.ones(1, 4)
    handle = ss.tap(model, ["Linear[1]", "Linear[2]"], every=2)
    model(x, "right")
    model(x, "left")

    assert names(handle.activations) == ["right"]
    assert handle.activations["Linear[1]"].shape == (1, 3)
    assert "Linear[2]" not in handle.activations
    with pytest.warns(UserWarning, match=r"nothing was captured at 'Linear\[2\]'"):
        handle.remove()


def test_nothing_is_captured_between_pause_and_resume(model, x):
    handle = ss.tap(model, "**")
    model(x)
    kept = handle.activations["2"]
    handle.pause()
    handle.pause()
    model(2 * x)
    model[0](x)
    between = handle.activations["2"]
    handle.resume()
    handle.resume()
    output = model(3 * x)

    assert between is kept
    assert torch.equal(handle.activations["2"], output)
    assert names(handle.activations) == ["0", "1", "2"]
    handle.remove()


def test_a_pause_does_not_count_as_forwards(model, x):
    collected = Collector()
    handle = ss.tap(model, "2", every=2, on_capture=collected)
    model(x)
    handle.pause()
    model(x)
    handle.resume()
    model(x)
    model(x)
    handle.remove()

    assert len(collected.seen) == 2


def test_a_resume_in_the_middle_of_a_forward_waits_for_the_next(model, x):
    handle = ss.tap(model, "**")
    model(x)
    handle.pause()
    hook = model[1].register_forward_hook(lambda *_: handle.resume())
    kept = handle.activations["2"]
    model(2 * x)
    hook.remove()

    assert handle.activations["2"] is kept
    output = model(3 * x)
    assert torch.equal(handle.activations["2"], output)
    handle.remove()


def test_a_removed_tap_can_be_read_and_removed_again(model, x):
    handle = ss.tap(model, "**")
    output = model(x)
    handle.remove()
    handle.remove()
    model(2 * x)

    assert torch.equal(handle.activations["2"], output)
    assert all(not module._forward_hooks for module in model.modules())


def test_a_removed_tap_is_not_entered_again(model, x):
    with ss.tap(model, "**") as acts:
        model(x)
    handle = ss.tap(model, "**")
    handle.remove()
    with pytest.raises(CaptureError, match=r"this tap was removed: make a new one"), handle:
        pass

    assert len(acts) == 3


def test_a_tap_can_be_removed_by_its_own_callback(model, x):
    collected = []

    def stop(site, value):
        collected.append(str(site))
        handle.remove()

    handle = ss.tap(model, ["1", "0", "0:in"], on_capture=stop)
    model(x)
    model(x)

    assert collected == ["0:in"]


def test_taps_whose_handles_were_thrown_away_can_be_removed(model, x):
    whole = nn.Sequential(model, nn.Linear(2, 2))
    own = model.register_forward_hook(lambda *_: None)
    before = hooks(whole)
    acts = ss.tap(whole, ["**", "0.0:in", "0.2:grad"]).activations
    ss.tap(whole[0], ["1", "linear"], on_capture=print)
    part, other = ss.tap(whole[1], ""), ss.tap(nn.Linear(2, 2), "")
    output = whole(x)
    removed = ss.Tap.remove_all(whole), ss.Tap.remove_all(whole)
    whole(2 * x)

    assert removed == (3, 0)
    assert torch.equal(acts["1"], output)
    assert [repr(handle) for handle in (part, other)] == [
        "Tap of 'model' (removed)", "Tap of 'model' (attached)",
    ]  # fmt: skip
    assert hooks(whole) == before
    own.remove()
    other.remove()


def test_removing_all_taps_of_a_part_leaves_those_of_the_whole(model, x):
    handle = ss.tap(model, "0")
    removed = ss.Tap.remove_all(model[0])
    output = model[0](x)
    model(x)

    assert removed == 0
    assert torch.equal(handle.activations["0"], output)
    handle.remove()


def test_a_block_whose_tap_was_removed_ends_in_peace(model, x):
    with ss.tap(model, ["0", "2:grad"]) as acts:
        model(x)
        ss.Tap.remove_all(model)

    assert names(acts) == ["0"]


def test_what_is_popped_is_kept_here_no_longer(model, x):
    handle = ss.tap(model, ["**", "Linear[2]"])
    output = model(x)
    taken = handle.pop()
    left = len(handle.activations)
    model(2 * x)

    assert left == 0
    assert torch.equal(taken["Linear[2]"], output)
    assert torch.equal(taken["2"], output)
    assert not torch.equal(handle.activations["2"], output)
    handle.remove()


AGAIN = "'0' was called again without a call of the tapped model"


def test_outside_the_forward_of_the_model_each_module_keeps_its_last_call(model, x):
    with ss.tap(model, ["**", "0:in"]) as acts:
        model(x)
        with pytest.warns(UserWarning, match=AGAIN):
            model[0](2 * x)
        model[0](3 * x)

    assert names(acts) == ["1", "2", "0:in", "0"]
    assert torch.equal(acts["0:in"], 3 * x)
    assert torch.equal(acts["0"], model[0](3 * x))


def test_calling_forward_by_name_does_not_add_up(model, x):
    with ss.tap(model, "**", max_bytes=150) as acts:
        model.forward(x)
        with pytest.warns(UserWarning, match=AGAIN):
            model.forward(2 * x)
        model.forward(3 * x)
        outside = names(acts)
        model(x)

    assert outside == ["0", "1", "2"]
    assert names(acts) == outside
    assert torch.equal(acts["2"], model(x))


def test_a_callback_gets_calls_outside_the_forward_of_the_model_under_the_plain_name(model, x):
    collected = Collector()
    with ss.tap(model, "0", on_capture=collected):
        model[0](x)
        model[0](x)

    assert collected.names == ["0", "0"]


def test_the_gradient_of_a_call_that_was_replaced_is_let_go_of(model, x):
    handle = ss.tap(model, ["0", "0:grad"])
    with pytest.warns(UserWarning, match=AGAIN):
        first, second = model[0](x).sum(), 2 * model[0](x).sum()
    taken = handle.pop()
    third = 3 * model[0](x).sum()
    for loss in (third, second, first):
        loss.backward()
    handle.remove()

    assert torch.equal(taken["0:grad"], torch.full((3, 4), 2.0))
    assert torch.equal(handle.activations["0:grad"], torch.full((3, 4), 3.0))


def test_calls_by_a_hook_on_the_input_belong_to_the_forward_that_follows(model, x):
    model.register_forward_pre_hook(lambda module, args: (module[0](*args),))
    with ss.tap(model, "**") as acts:
        model(x)
        model(2 * x)

    assert names(acts) == ["0@1", "0@2", "1", "2"]
    assert torch.equal(acts["0@1"], model[0](2 * x))


def test_calls_before_any_forward_of_the_model_are_captured(model, x):
    with ss.tap(model, "0") as acts:
        output = model[0](x)

    assert torch.equal(acts["0"], output)


def test_a_model_that_calls_itself_is_one_forward():
    model = Recursive()
    with ss.tap(model, ["", "layer"], every=2) as acts:
        model(torch.ones(1, 4))

    assert names(acts) == ["layer@1", "layer@2", "layer@3", "model@1", "model@2", "model@3"]
    assert torch.equal(acts["@1"], acts["@-1"])


class Waits(nn.Module):
    """Lets another thread in once, or is left by an interrupt."""

    def __init__(self, error=None):
        super().__init__()
        self.inside, self.go_on, self.error = threading.Event(), threading.Event(), error

    def forward(self, x):
        if not self.inside.is_set():
            self.inside.set()
            if self.error is not None:
                raise self.error
            assert self.go_on.wait(10)
        return x


def test_a_second_thread_in_a_tapped_model_is_refused_and_the_first_goes_on(model, x):
    waits = Waits()
    model = nn.Sequential(model, waits)
    with ss.tap(model, "**") as acts, ThreadPoolExecutor(1) as threads:
        first = threads.submit(model, x)
        assert waits.inside.wait(10)
        with pytest.raises(CaptureError, match="one thread at a time, got a second one: give each"):
            model(2 * x)
        waits.go_on.set()
        output = first.result()
        shown = names(acts)
        assert torch.equal(acts["0"], output)
        later = model(2 * x)

    assert shown == names(acts) == ["0.0", "0.1", "0.2", "0", "1"]
    assert torch.equal(acts["0"], later)


def test_a_thread_that_was_interrupted_in_the_model_does_not_bar_others(x):
    model = nn.Sequential(Waits(KeyboardInterrupt()), nn.ReLU())
    with ss.tap(model, "1") as acts, ThreadPoolExecutor(1) as threads:
        with pytest.raises(KeyboardInterrupt):
            threads.submit(model, x).result()
        model(x)

    assert torch.equal(acts["1"], x.relu())


def test_a_paused_tap_lets_threads_pass(model, x):
    waits = Waits()
    model = nn.Sequential(model, waits)
    handle = ss.tap(model, "0")
    handle.pause()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(model, x)
        assert waits.inside.wait(10)
        model(x)
        waits.go_on.set()
        output = first.result()
    handle.resume()
    model(x)
    handle.remove()

    assert torch.equal(handle.activations["0"], output)


def test_two_taps_and_a_tap_within_a_tap_see_the_same(model, x):
    with ss.tap(model, "**") as outer:
        handle = ss.tap(model, ["0", "2"], dtype=torch.float64)
        with ss.tap(model, "1") as inner:
            model(x)
        handle.remove()

    assert names(outer) == ["0", "1", "2"]
    assert names(inner) == ["1"]
    assert torch.equal(inner["1"], outer["1"])
    assert torch.equal(handle.activations["0"], outer["0"].double())


def test_a_tap_of_a_part_sees_only_that_part():
    part = Reused()
    whole = nn.Sequential(nn.Linear(4, 4), part)
    with ss.tap(part, "") as acts:
        output = whole(torch.ones(1, 4))

    assert torch.equal(acts[""], output)


# Calls


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("relu", ["relu@1", "relu@2", "relu@3"]),
        ("relu@1", ["relu@1"]),
        ("relu@2", ["relu@2"]),
        ("relu@-1", ["relu@3"]),
        ("relu@-3:in", ["relu@1:in"]),
        (["relu@1", "relu@-1"], ["relu@1", "relu@3"]),
        ("relu@-1:grad", ["relu@3:grad"]),
        ("relu@2:grad", ["relu@2:grad"]),
        ("ReLU[1]@2", ["relu@2"]),
        (["ReLU[1]@2", "ReLU[1]@-1"], ["relu@2", "relu@3"]),
        ("ReLU[1]:grad", ["relu@3:grad", "relu@2:grad", "relu@1:grad"]),
        (["layers.0:grad", "layers.0"], ["layers.0", "layers.0:grad"]),
    ],
    ids=name_case,
)
def test_calls_are_counted_from_the_first_and_from_the_last(selector, expected):
    with ss.tap(Reused(), selector) as acts:
        assert acts == {}
    model = Reused()
    collected = Collector()
    watcher = ss.tap(model, selector, on_capture=collected)
    with ss.tap(model, selector) as acts:
        model(torch.ones(1, 4)).sum().backward()
    watcher.remove()

    assert names(acts) == expected
    assert [name.replace("@1", "") for name in expected] == collected.names
    for site, (_, value) in zip(acts, collected.seen, strict=True):
        assert torch.equal(acts[site], value)


def test_a_gradient_and_its_output_have_the_same_call_number(model, x):
    with ss.tap(model, ["**:grad", "**", "Linear[2]:grad"]) as acts:
        model(x).sum().backward()

    assert names(acts) == ["0", "1", "2", "2:grad", "1:grad", "0:grad"]
    assert torch.equal(acts["Linear[2]:grad"], torch.ones(3, 2))


@pytest.mark.parametrize(
    ("sites", "silent"),
    [
        ("small", "'small'"),
        (["cell", "small:in"], "'small:in'"),
        (["cell@1", "cell@3"], "'cell@3'"),
        (["cell@1", "cell@-2"], "'cell@-2'"),
        (["cell", "Linear[3]"], "'Linear[3]'"),
        (["Linear[1]@2"], "'Linear[1]@2'"),
        (["cell", "small", "cell@9"], "'cell@9', 'small'"),
    ],
)
def test_a_selector_whose_sites_never_ran_is_an_error_at_the_end_of_the_block(sites, silent):
    model = Loop()
    nn.init.ones_(model.cell.weight)
    message = f"nothing was captured at {silent}: the forward does not call these modules, calls "
    with (
        pytest.raises(CaptureError, match=re.escape(message)),
        torch.no_grad(),
        ss.tap(model, sites),
    ):
        model(torch.full((1, 4), 0.75))


def test_a_selector_that_was_reached_once_is_no_longer_missing():
    model = Loop()
    nn.init.ones_(model.cell.weight)
    nn.init.zeros_(model.cell.bias)
    with ss.tap(model, ["small", "large"]):
        model(torch.full((1, 4), 0.75))
        model(torch.full((1, 4), -0.75))


def test_of_two_modules_of_one_class_the_one_that_never_ran_is_named():
    model = Loop()
    with (
        pytest.raises(CaptureError, match=r"nothing was captured at .(small|large).: the forward"),
        ss.tap(model, [model.small, model.large, model.cell]),
    ):
        model(torch.ones(1, 4))


def test_of_two_lambdas_the_one_that_picked_what_never_ran_is_named():
    model = Loop()
    never = lambda name, module: name == "small"  # noqa: E731
    place = f"test_tap.py:{never.__code__.co_firstlineno}"
    message = f"nothing was captured at '<lambda> at {place}': the forward does not call"
    nn.init.ones_(model.cell.weight)
    with (
        torch.no_grad(),
        pytest.raises(CaptureError, match=re.escape(message)),
        ss.tap(model, [never, lambda name, module: name == "cell"]),
    ):
        model(torch.full((1, 4), 0.75))


def test_a_glob_of_which_some_modules_ran_is_satisfied():
    model = Loop()
    with ss.tap(model, "**") as acts:
        model(torch.full((1, 4), 0.75))

    assert len({site.path for site in acts}) == 2


def test_a_block_without_a_forward_is_no_error(model):
    with ss.tap(model, "**") as acts:
        pass

    assert len(acts) == 0


def test_removing_a_tap_whose_sites_never_ran_warns():
    model = Loop()
    handle = ss.tap(model, ["small", "large"])
    model(torch.ones(1, 4))
    with pytest.warns(UserWarning, match="nothing was captured at '(small|large)'") as caught:
        handle.remove()
    handle.remove()

    assert caught[0].filename == __file__


def test_gradients_without_a_backward_are_missed_with_the_reason(model, x):
    message = "nothing was captured at '0:grad': no backward.. reached them while the tap was on"
    with pytest.raises(CaptureError, match=message), ss.tap(model, ["2", "0:grad"]):
        model(x)


# What is kept


def test_values_are_cut_off_the_graph_by_default(model, x):
    with ss.tap(model, ["**", "**:in"]) as acts:
        model(x)

    assert not any(value.requires_grad for value in acts.values())


def test_on_request_a_loss_on_an_activation_trains_the_network(model, x):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with ss.tap(model, "0", detach=False) as acts:
        for _ in range(5):
            model(x)
            loss = acts["0"].square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    assert losses == sorted(losses, reverse=True)
    assert model[2].weight.grad is None


def test_a_cast_is_for_floating_point_tensors_only():
    class Mixed(nn.Module):
        def forward(self, x):
            return x, x > 0, (x * 10).int(), torch.complex(x, x)

    model = Mixed()
    with ss.tap(model, "", dtype=torch.float16) as acts:
        model(torch.randn(3))

    assert [tensor.dtype for tensor in acts[""]] == [
        torch.float16, torch.bool, torch.int32, torch.complex64,
    ]  # fmt: skip


def test_values_can_be_put_on_a_device(model, x):
    with ss.tap(model, "0", device="cpu") as kept, ss.tap(model, "0", device="meta") as shapes:
        model(x)

    assert torch.equal(kept["0"], model[0](x))
    assert shapes["0"].is_meta
    assert shapes["0"].shape == (3, 4)


@pytest.mark.parametrize(
    "settings",
    [{"device": "cpu"}, {"dtype": torch.float32}, {"transform": lambda tensor: tensor}],
    ids=name_case,
)
def test_a_conversion_that_changes_nothing_still_protects_from_later_writes(model, x, settings):
    with ss.tap(model, "0", **settings) as acts:
        model(x)

    assert torch.equal(acts["0"], model[0](x))
    assert (acts["0"] < 0).any()


def test_a_transform_is_applied_before_anything_is_kept(model, x):
    with ss.tap(model, ["0", "2"], transform=lambda t: t.mean(0), dtype=torch.float64) as acts:
        output = model(x)

    assert torch.equal(acts["2"], output.detach().mean(0).double())
    assert acts["0"].shape == (4,)


def test_a_transform_that_writes_does_not_reach_the_network(model, x):
    expected = model(x)
    with ss.tap(model, ["**", ":in"], transform=lambda tensor: tensor.zero_()) as acts:
        output = model(x)

    assert torch.equal(output, expected)
    assert x.any()
    assert not acts["0"].any()


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0, keepdim=True)


def test_what_a_transform_or_a_callback_computes_is_no_operation_of_the_network(x):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = Centred()

        def forward(self, x):
            return self.b(self.b(x + 1) ** 2)

    model, collected = Twice(), {}
    with ss.tap(model, "b.mean_1") as alone:
        model(x)
    with ss.tap(model, ["b", "b.mean_1"], transform=lambda v: v.mean(0, keepdim=True)) as reduced:
        model(x)

    def compute(site, value):
        collected[str(site)] = value.mean(0, keepdim=True)

    with ss.tap(model, ["b", "b.mean_1"], on_capture=compute):
        model(x)

    assert torch.equal(reduced["b.mean_1"], alone["b.mean_1"])
    assert torch.equal(collected["b.mean_1"], alone["b.mean_1"])


def test_writing_into_what_was_kept_does_not_reach_the_network(model, x):
    expected = model(x)
    handle = ss.tap(model, ["**", "**:in"], on_capture=lambda site, value: value.fill_(7))
    output = model(x)
    handle.remove()

    assert torch.equal(output, expected)
    assert x.max() < 7


def test_a_parameter_that_is_put_out_is_kept_as_it_was():
    model = Prompted()
    with ss.tap(model, ["prompt", "prompt:in"]) as acts:
        model(torch.ones(1, 4))
    with torch.no_grad():
        model.prompt.weight.zero_()

    assert type(acts["prompt"]) is torch.Tensor
    assert acts["prompt"].tolist() == [1, 1, 1, 1]
    assert acts["prompt:in"] == ()


def test_an_output_that_holds_no_tensor_is_kept_as_it_is():
    class Silent(nn.Module):
        def forward(self, x):
            return None

    model = nn.Sequential(Silent())
    with ss.tap(model, "0") as acts:
        model(torch.ones(1))

    assert acts["0"] is None
    assert repr(acts) == "Activations of 1 sites\n  0  NoneType"


# Callbacks


def test_a_callback_gets_every_value_and_nothing_is_kept():
    model = Reused()
    collected = Collector()
    with ss.tap(model, ["relu", "layers.0"], on_capture=collected) as acts:
        output = model(torch.ones(2, 4))

    assert collected.names == ["layers.0", "relu", "relu@2", "relu@3"]
    assert torch.equal(collected.seen[-1][1], output)
    assert len(acts) == 0


def test_a_callback_gets_gradients_of_several_tensors_once_and_whole():
    model = nn.LSTM(3, 4)
    collected = Collector()
    handle = ss.tap(model, ":grad", on_capture=collected)
    output, (hidden, _) = model(torch.randn(5, 3))
    (output.sum() + 2 * hidden.sum()).backward()
    handle.remove()

    ((name, (of_output, (of_hidden, of_cell))),) = collected.seen
    assert name == "model:grad"
    assert of_output.shape == output.shape
    assert torch.equal(of_hidden, torch.full_like(hidden, 2))
    assert of_cell is None


def test_a_forward_that_fails_hands_over_no_last_call():
    class Failing(Reused):
        def forward(self, x):
            super().forward(x)
            raise ValueError("broken")

    model = Failing()
    collected = Collector()
    handle = ss.tap(model, ["relu@-1", "relu@1"], on_capture=collected)
    with pytest.raises(ValueError, match="broken"):
        model(torch.ones(1, 4))
    handle.remove()

    assert collected.names == ["relu"]


def test_a_removed_callback_is_not_called_by_a_late_backward(model, x):
    collected = Collector()
    handle = ss.tap(model, ["2", "2:grad"], on_capture=collected)
    loss = model(x).sum()
    with pytest.warns(UserWarning, match="nothing was captured at '2:grad'"):
        handle.remove()
    loss.backward()

    assert collected.names == ["2"]


def test_an_error_of_a_callback_in_a_backward_comes_from_the_backward(model, x):
    def refuse(site, value):
        raise ValueError("no")

    with (
        pytest.raises(CaptureError, match="on_capture failed at '2:grad': ValueError: no"),
        ss.tap(model, "2:grad", on_capture=refuse),
    ):
        model(x).sum().backward()


# Gradients


def test_a_late_backward_belongs_to_its_own_forward(model, x):
    handle = ss.tap(model, ["2", "2:grad"])
    first = model(x).sum()
    before = handle.pop()
    second = 3 * model(2 * x).sum()
    first.backward()
    after_first = names(handle.activations)
    second.backward()
    handle.remove()

    assert after_first == ["2"]
    assert torch.equal(before["2:grad"], torch.ones(3, 2))
    assert torch.equal(handle.activations["2:grad"], torch.full((3, 2), 3.0))


def test_the_gradient_is_the_one_before_a_later_write(model, x):
    with ss.tap(model, "0:grad") as acts:
        output = model(x)
        output.sum().backward()
    hidden = model[0](x)
    expected = (torch.ones(3, 2) @ model[2].weight) * (hidden > 0)

    assert torch.equal(acts["0:grad"], expected.detach())


def test_gradients_of_a_tuple_come_in_its_structure():
    model = Tuples()
    with ss.tap(model, "pair:grad") as acts:
        model(torch.ones(1, 4)).sum().backward()
    left, (right, nothing) = acts["pair:grad"]

    assert left.shape == (1, 3)
    assert torch.equal(right, model.join.weight[:, 3:])
    assert nothing is None


def test_the_gradient_of_a_parameter_that_is_put_out_leaves_no_hook():
    model = Prompted()
    handle = ss.tap(model, "prompt:grad")
    for factor in (1, 2):
        (factor * model(torch.ones(1, 4)).sum()).backward()
        assert len(model.prompt.weight._backward_hooks) == 1
    expected = 2 * model.head.weight.sum(0)
    handle.remove()

    assert torch.allclose(handle.activations["prompt:grad"], expected)
    assert not model.prompt.weight._backward_hooks


# What cannot be kept


@pytest.mark.parametrize("settings", [{}, {"copy": False}, {"dtype": torch.float64}])
@pytest.mark.parametrize("wrap", [torch.vmap, torch.func.jacrev])
def test_what_torch_func_wraps_is_refused(model, x, wrap, settings):
    handle = ss.tap(model, "2", **settings)
    with pytest.raises(CaptureError, match=r"inside torch\.vmap or torch\.func .* on the batch"):
        wrap(model)(x)
    output = model(x)
    handle.remove()

    assert torch.equal(handle.activations["2"].to(output.dtype), output)


# A budget

EXCESS = (
    "the values kept of one forward must take at most max_bytes={limit} bytes, got {got} sites, so "
    "none of them are kept. The biggest: {biggest}. Choose fewer"
)


def exceeds(limit, got, biggest):
    message = EXCESS.format(limit=limit, got=got, biggest=biggest)
    return pytest.raises(CaptureError, match=re.escape(message))


def test_a_forward_that_needs_more_than_the_budget_ends_and_then_names_the_biggest(x):
    model = nn.Sequential(nn.Linear(4, 100), nn.Linear(100, 2), nn.Linear(2, 300))
    ran, kept = [], []

    def note(*_):
        kept.extend(weakref.ref(value) for value in handle.activations.values())

    model[1].register_forward_pre_hook(note)
    model[2].register_forward_hook(lambda *_: ran.append("2"))
    handle = ss.tap(model, ["**", ":in"], dtype=torch.float16, max_bytes=1_000)
    with exceeds("1,000", "2,436 at 4", "'2' 1,800, '0' 600, 'model:in' 24"):
        model(x)

    assert ran == ["2"]
    assert [reference() for reference in kept] == [None, None]
    assert len(handle.activations) == 0
    output = model(x[:1])
    assert torch.equal(handle.activations["2"], output.half())
    handle.remove()


def test_a_budget_is_for_each_forward_and_may_be_used_up(model, x):
    handle = ss.tap(model, "**", max_bytes=48 + 48 + 24)
    for _ in range(3):
        model(x)
        assert names(handle.activations) == ["0", "1", "2"]
    handle.remove()


def test_gradients_count_for_the_forward_they_belong_to(model, x):
    handle = ss.tap(model, ["2", "2:grad"], max_bytes=48)
    first, second = model(x).sum(), model(x).sum()
    first.backward()
    second.backward()
    assert names(handle.activations) == ["2", "2:grad"]
    handle.remove()

    handle = ss.tap(model, ["2", "0:grad", "2:grad"], max_bytes=48)
    loss = model(x).sum()
    with exceeds("48", "96 at 3", "'0:grad' 48, '2' 24, '2:grad' 24"):
        loss.backward()
    assert len(handle.activations) == 0
    with pytest.warns(UserWarning, match="nothing was captured at '0:grad'"):
        handle.remove()


def test_what_was_handed_over_outlives_a_backward_that_needs_too_much(model, x):
    handle = ss.tap(model, ["2", "0:grad"], max_bytes=24)
    output = model(x)
    taken = handle.pop()
    with exceeds("24", "72 at 2", "'0:grad' 48, '2' 24"):
        output.sum().backward()
    ss.Tap.remove_all(model)

    assert torch.equal(taken["2"], output)


def test_calls_that_turn_out_to_be_unwanted_count_until_then():
    model = Reused()
    sites = ["relu@-1", "relu@-1:grad"]
    with ss.tap(model, sites, max_bytes=3 * 16) as acts:
        for _ in range(2):
            model(torch.ones(1, 4)).sum().backward()

    assert names(acts) == ["relu@3", "relu@3:grad"]
    with (
        exceeds("47", "48 at 3", "'relu' 16, 'relu@2' 16, 'relu@3' 16"),
        ss.tap(model, sites, max_bytes=47),
    ):
        model(torch.ones(1, 4))


def test_a_callback_needs_no_budget(model, x):
    collected = Collector()
    handle = ss.tap(model, "**", on_capture=collected, max_bytes=1)
    model(x)
    handle.remove()

    assert collected.names == ["0", "1", "2"]


def test_the_error_of_the_network_goes_before_that_of_the_budget(model, x):
    def refuse(*_):
        raise ValueError("broken")

    model[2].register_forward_hook(refuse)
    handle = ss.tap(model, "0", max_bytes=47)
    with pytest.raises(ValueError, match="broken") as caught:
        model(x)
    handle.remove()

    assert "got 48 at 1 sites" in caught.value.__notes__[0]


@pytest.mark.parametrize("max_bytes", [0, -1])
def test_a_budget_is_a_number_of_bytes(model, max_bytes):
    with pytest.raises(ValueError, match=f"max_bytes must be at least 1, got {max_bytes}"):
        ss.tap(model, "0", max_bytes=max_bytes)


# Copies, compilation, memory


def test_a_copy_of_a_tapped_network_does_not_write_into_the_tap(model, x):
    handle = ss.tap(model, ["**", "**:in", "Linear[1]"])
    output = model(x)
    shadow = copy.deepcopy(model)
    shadow(2 * x)

    assert torch.equal(handle.activations["2"], output)
    assert names(handle.activations) == ["0:in", "0", "1:in", "1", "2:in", "2"]
    handle.remove()


@pytest.fixture
def compiled(model):
    yield torch.compile(model, backend="eager")
    torch._dynamo.reset()


def test_a_network_compiled_before_the_tap_is_captured_in_eager_stance_only(model, compiled, x):
    compiled(x)
    with ss.tap(model, "**") as acts:
        compiled(x)
    with pytest.raises(SiteNotFoundError, match="one that was compiled before the tap"):
        acts["2"]
    with torch.compiler.set_stance("force_eager"), ss.tap(model, "**") as acts:
        output = compiled(x)

    assert torch.equal(acts["2"], output)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of what Dynamo makes of the hooks
def test_a_network_compiled_after_the_tap_is_captured(model, compiled, x):
    handle = ss.tap(model, "**")
    for factor in (1, 2, 3):
        output = compiled(factor * x)

        assert names(handle.activations) == ["0", "1", "2"]
        assert torch.equal(handle.activations["2"], output)
        assert (handle.activations["0"] < 0).any()
    handle.remove()


def test_after_the_block_nothing_keeps_the_network_or_its_values(x):
    def run():
        model = Recurrent(nn.LSTM)
        with ss.tap(model, ["", "**", "**:in", "**:grad", "LSTM[1]", "head@-1"]) as acts:
            model(torch.randn(2, 5, 3)).sum().backward()
        return weakref.ref(model), weakref.ref(acts["head"]), weakref.ref(acts)

    gc.disable()
    try:
        assert [reference() for reference in run()] == [None, None, None]
    finally:
        gc.enable()


def test_a_lasting_tap_holds_one_forward_however_many_there_were():
    model = conv1d_stack()
    handle = ss.tap(model, ["**", "**:in", "**:grad", "Conv1d[2]@-1"])
    alive = []
    gc.disable()
    try:
        for _ in range(50):
            model(torch.randn(2, 1, 9)).sum().backward()
            alive.append(weakref.ref(handle.activations["4"]))
            alive.append(weakref.ref(handle.activations["4:grad"]))
        living = sum(reference() is not None for reference in alive)
    finally:
        gc.enable()
    handle.remove()

    assert living == 2
    assert len(handle.activations) == 15


def test_a_tap_can_be_told_by_its_check_before_the_end():
    model = Loop()
    handle = ss.tap(model, ["cell", "cell@9"])
    handle.check()
    model(torch.ones(1, 4))
    with pytest.raises(CaptureError, match="nothing was captured at 'cell@9'"):
        handle.check()
    with pytest.warns(UserWarning, match="cell@9"):
        handle.remove()


def test_selectors_of_every_kind_can_be_mixed(model, x):
    sites = [model[0], nn.ReLU, lambda name, module: name == "2", Site("", "in"), "Linear[2]:in"]
    with ss.tap(model, sites) as acts:
        model(x)

    assert names(acts) == ["model:in", "0", "1", "2:in", "2"]
    assert torch.equal(acts["Linear[2]:in"], acts["1"])
    with pytest.raises(SiteNotFoundError, match=re.escape("'Linear[1]:in' is not captured")):
        acts["Linear[1]:in"]


def test_a_copy_of_a_tapped_model_is_free_of_the_tap_and_can_be_saved():
    model = conv1d_stack()
    with ss.tap(model, "0") as acts:
        copied = copy.deepcopy(model)
        copied(torch.ones(1, 1, 12))
        saved = pickle.loads(pickle.dumps(model))
        saved(torch.ones(1, 1, 12))

        assert len(acts) == 0
        model(torch.ones(1, 1, 12))
    pickle.loads(pickle.dumps(copied))

    assert len(acts) == 1


def test_a_copy_of_a_model_with_watched_operations_runs_its_own_forward():
    model = nn.Sequential(nn.Linear(2, 2))
    with ss.tap(model, "0.linear") as acts:
        copied = copy.deepcopy(model)
        with torch.no_grad():
            copied[0].weight.zero_()
        output = copied(torch.ones(1, 2))
        model(torch.ones(1, 2))
        with pytest.raises(pickle.PicklingError, match="remove the tap first"):
            pickle.dumps(model)

    assert torch.equal(output, copied[0].bias[None])
    assert not torch.equal(acts["0.linear"], output)


def test_a_tap_shows_its_sites_and_state():
    handle = ss.tap(conv1d_stack(), ["0", "Conv1d[2]"])
    attached = repr(handle)
    handle.pause()
    paused = repr(handle)
    handle.remove()

    assert attached == "Tap of '0', 'Conv1d[2]' (attached)"
    assert (paused[-8:], repr(handle)[-9:]) == ("(paused)", "(removed)")


def test_a_look_up_says_that_the_tap_is_paused_or_removed():
    model = conv1d_stack()
    handle = ss.tap(model, "0")
    model(torch.ones(1, 1, 12))
    handle.pop()
    handle.pause()
    model(torch.ones(1, 1, 12))
    with pytest.raises(SiteNotFoundError, match="'0' is not captured: its tap is paused"):
        handle.activations["0"]
    handle.remove()
    with pytest.raises(SiteNotFoundError, match="'0' is not captured: its tap was removed"):
        handle.activations["0"]
    with pytest.raises(CaptureError, match="this tap was removed"):
        handle.resume()


def in_place() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))


class Overwriting(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x).relu_()


def copied(acts):
    return pickle.loads(pickle.dumps(acts))


X4 = torch.linspace(-1, 1, 8).reshape(2, 4)


def test_a_reference_is_the_tensor_itself():
    seen = []
    model = in_place()
    model[2].register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad(), ss.tap(model, "2", copy=False) as acts:
        model(X4)

    assert acts["2"] is seen[0]


def test_reading_a_reference_that_was_overwritten_is_an_error():
    model = in_place()
    with torch.no_grad(), ss.tap(model, "**", copy=False) as acts:
        model(X4)

    assert (acts["1"] >= 0).all()
    with pytest.raises(CaptureError, match="'0' was captured with copy=False and has been written"):
        acts["0"]


def test_references_that_were_overwritten_are_still_shown():
    model = in_place()
    with torch.no_grad(), ss.tap(model, "0", copy=False) as acts:
        model(X4)

    assert "(2, 4) float32" in repr(acts)
    assert "(2, 4) float32" in acts._repr_html_()


def test_a_write_through_a_view_is_noticed_too():
    model = in_place()
    with torch.no_grad(), ss.tap(model, "2", copy=False) as acts:
        output = model(X4)
    output[0].view(-1)[:1] = 0
    with pytest.raises(CaptureError, match="has been written to since"):
        acts["2"]


def test_references_are_checked_after_they_were_handed_over_too():
    model = in_place()
    handle = ss.tap(model, "0", copy=False)
    with torch.no_grad():
        model(X4)
    acts = handle.pop()
    handle.remove()
    with pytest.raises(CaptureError, match="has been written to since"):
        acts["0"]


def test_copies_are_made_at_once_where_asked():
    model = in_place()
    with torch.no_grad(), ss.tap(model, "0", copy=True) as acts:
        model(X4)

    assert torch.equal(acts["0"], model[0](X4))


def test_references_cannot_be_converted():
    with pytest.raises(ValueError, match="copy=False keeps values as they are"):
        ss.tap(in_place(), "0", copy=False, dtype=torch.float16)


def test_references_need_torch_to_count_writes():
    model = in_place()
    with (
        torch.inference_mode(),
        pytest.raises(CaptureError, match="in inference_mode torch does not count writes"),
        ss.tap(model, "0", copy=False),
    ):
        model(X4)


def test_references_are_checked_in_every_way_of_reading():
    model = Overwriting()
    with torch.no_grad(), ss.tap(model, "layer", copy=False) as acts:
        model(X4)

    for read in (lambda: acts.calls("layer"), lambda: list(acts.values()), lambda: copied(acts)):
        with pytest.raises(CaptureError, match="'layer' was captured with copy=False and has been"):
            read()
    assert repr(acts) == "Activations of 1 sites\n  layer  (2, 4) float32"


def test_a_reference_that_was_overwritten_before_the_last_call_is_known_is_not_handed_over():
    model, collected = Overwriting(), Collector()
    handle = ss.tap(model, "layer@-1", copy=False, on_capture=collected)
    with torch.no_grad(), pytest.raises(CaptureError, match="'layer' was captured with copy=False"):
        model(X4)
    handle.remove()

    assert collected.seen == []


def test_a_copy_of_references_is_no_longer_checked():
    model = in_place()
    with torch.no_grad(), ss.tap(model, "1", copy=False) as acts:
        output = model[:2](X4)
    again = copied(acts)
    again["1"].zero_()

    assert torch.equal(acts["1"], output)
    assert not again["1"].any()


def test_gradients_kept_as_references_are_checked_after_they_were_handed_over_too():
    model = in_place()
    handle = ss.tap(model, "2:grad", copy=False)
    loss = model(X4).square().sum()
    taken = handle.pop()
    loss.backward()
    handle.remove()
    taken["2:grad"].zero_()
    with pytest.raises(CaptureError, match="has been written to since"):
        taken["2:grad"]


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool])
def test_a_cast_that_would_cut_off_fractions_is_refused(dtype):
    with pytest.raises(ValueError, match=rf"floating-point or complex.*got {dtype}.*transform="):
        ss.tap(nn.Identity(), "", dtype=dtype)
