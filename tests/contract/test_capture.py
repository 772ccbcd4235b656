"""What every capture promises: the values that flowed, and a network left as it was found."""

import re

import pytest
import torch
from torch import nn

import stratascope as ss
from flows import by_call, condition, frozen, pull, same, structure, watch
from networks import CASES, Case, Failing, conv1d_stack
from stratascope.errors import CaptureError, DataError, SiteNotFoundError

EVERYTHING = ["", "**", ":in", "**:in"]
GRADIENTS = [":grad", "**:grad"]
MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}

every_case = pytest.mark.parametrize("case", CASES, ids=repr)
every_positional_case = pytest.mark.parametrize(
    "case", [case for case in CASES if not case.kwargs()], ids=repr
)
every_flag = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


@every_mode
@every_flag
@every_case
def test_what_is_kept_is_what_flowed(case: Case, training, mode):
    watched = case.build().train(training)
    flowed = watch(watched)
    tapped = case.build().train(training)
    with mode(), ss.tap(tapped, [*EVERYTHING, *(GRADIENTS if mode is MODES["grad"] else [])]) as a:
        expected, output = case.run(watched), case.run(tapped)
        if mode is MODES["grad"]:
            pull(expected)
            pull(output)
    captured = by_call(a)

    assert set(captured) == set(flowed)
    assert [key for key in captured if same(captured[key], flowed[key]) is False] == []
    assert [key for key in captured if key[1] != "grad"] == [
        key for key in flowed if key[1] != "grad"
    ]
    assert same(frozen(output), frozen(expected))


@every_flag
@every_case
def test_a_tap_changes_no_result_no_gradient_and_no_random_number(case: Case, training):
    plain, tapped = case.build().train(training), case.build().train(training)
    for module in plain.modules():
        module.register_forward_hook(lambda module, args, output: None)
    pull(case.run(plain))
    expected = torch.get_rng_state()
    with ss.tap(tapped, [*EVERYTHING, *GRADIENTS]):
        pull(case.run(tapped))

    assert torch.equal(torch.get_rng_state(), expected)
    assert same(frozen(dict(plain.state_dict())), frozen(dict(tapped.state_dict())))
    for one, other in zip(plain.parameters(), tapped.parameters(), strict=True):
        assert same(frozen(one.grad), frozen(other.grad))


@every_flag
@every_case
def test_the_graph_is_kept_on_request_and_gives_the_same_gradients(case: Case, training):
    plain, tapped = case.build().train(training), case.build().train(training)
    for module in plain.modules():
        module.register_forward_hook(lambda module, args, output: None)
    pull(case.run(plain))
    with ss.tap(tapped, "", detach=False) as acts:
        case.run(tapped)
    pull(acts.calls("")[-1])

    for one, other in zip(plain.parameters(), tapped.parameters(), strict=True):
        assert same(frozen(one.grad), frozen(other.grad))


@every_case
def test_the_network_is_left_as_it_was(case: Case):
    model = case.build()
    for index, module in enumerate(model.modules()):
        module.training = index % 2 == 0
    next(model.parameters(), torch.empty(0)).requires_grad_(False)
    model.register_forward_hook(lambda module, args, output: None)
    case.run(model)
    found, random = condition(model), torch.get_rng_state()
    handle = ss.tap(model, [*EVERYTHING, *GRADIENTS])
    handle.remove()
    ss.select(model, "**")
    ss.survey(model, example=None)

    assert condition(model) == found
    assert torch.equal(torch.get_rng_state(), random)

    # BatchNorm counts its forwards, as it must: only then the numbers of its buffers may move.
    moving = any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
                 for module in model.modules())  # fmt: skip
    describe = structure if moving else condition
    found = describe(model)
    with ss.tap(model, EVERYTHING):
        case.run(model)

    assert describe(model) == found


@every_case
def test_a_look_at_an_example_leaves_the_network_and_the_input_as_they_were(case: Case):
    model = case.build()
    for index, module in enumerate(model.modules()):
        module.training = index % 2 == 0
    args = case.args()
    found, random, given = condition(model), torch.get_rng_state(), frozen(args)
    if case.kwargs():
        model.forward = lambda x, plain=model.forward: plain(x, **case.kwargs())
        found = condition(model)
    ss.survey(model, example=args)

    assert condition(model) == found
    assert torch.equal(torch.get_rng_state(), random)
    assert same(frozen(args), given)


ERRORS = [ValueError("broken"), KeyboardInterrupt("broken"), StopIteration("broken")]
every_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


@every_error
def test_a_with_block_cleans_up_after_a_forward_that_failed(error):
    model = nn.Sequential(nn.Linear(4, 4), Failing(error), nn.Linear(4, 2))
    found = condition(model)
    with (
        pytest.raises(type(error), match=r"^broken$"),
        ss.tap(model, [*EVERYTHING, *GRADIENTS]) as acts,
    ):
        model(torch.ones(1, 4))

    assert condition(model) == found
    assert [str(site) for site in acts] == ["model:in", "0:in", "0", "1:in"]


@every_error
def test_a_lasting_tap_captures_again_after_a_forward_that_failed(error):
    model = nn.Sequential(nn.Linear(4, 4), Failing(error), nn.Linear(4, 2))
    found = condition(model)
    handle = ss.tap(model, ["**", "**:in", "2@-1"])
    for _ in range(2):
        with pytest.raises(type(error), match=r"^broken$"):
            model(torch.ones(1, 4))
    model[1].error = None
    x = torch.randn(1, 4)
    output = model(x)

    assert [str(site) for site in handle.activations] == ["0:in", "0", "1:in", "1", "2:in", "2"]
    assert torch.equal(handle.activations["0:in"], x)
    assert torch.equal(handle.activations["2"], output)
    handle.remove()
    model[1].error = error
    assert condition(model) == found


def test_a_lasting_tap_captures_again_after_a_hook_of_somebody_else_failed():
    model = conv1d_stack()
    broken = [True]

    def fail(module, args):
        if broken:
            raise ValueError(broken.pop())

    theirs = model.register_forward_pre_hook(fail)
    handle = ss.tap(model, "**")
    earlier = model.register_forward_pre_hook(fail, prepend=True)
    with pytest.raises(ValueError, match="True"):
        model(torch.ones(1, 1, 9))
    earlier.remove()
    broken.append(True)
    with pytest.raises(ValueError, match="True"):
        model(torch.ones(1, 1, 9))
    for _ in range(2):
        model(torch.ones(1, 1, 9))

    assert [str(site) for site in handle.activations] == ["0", "1", "2", "3", "4"]
    handle.remove()
    theirs.remove()


def broken(*_):
    raise ValueError("too bad")


@pytest.mark.parametrize(
    ("sites", "settings", "message"),
    [
        ("0", {"on_capture": broken}, "on_capture failed at '0': ValueError: too bad"),
        ("0", {"transform": broken}, "the capture failed at '0': ValueError: too bad"),
        (":in", {"transform": broken}, "the capture failed at 'model:in': ValueError: too bad"),
        ("", {"transform": broken}, "the capture failed at 'model': ValueError: too bad"),
        ("2@-1", {"on_capture": broken}, "on_capture failed at '2': ValueError: too bad"),
        (
            "1",
            {"transform": lambda tensor: tensor.tolist()},
            "the capture failed at '1': TypeError: transform must return a tensor, got list",
        ),
    ],
)
def test_a_capture_that_fails_lets_the_forward_finish_and_is_told_after_it(
    sites, settings, message
):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    ran = []
    model[2].register_forward_hook(lambda *_: ran.append(2))
    found = condition(model)["2"]
    with (
        pytest.raises(CaptureError, match=f"^{re.escape(message)}$") as info,
        ss.tap(model, sites, **settings),
    ):
        model(torch.ones(3, 4))

    assert isinstance(info.value.__cause__, ValueError | TypeError)
    assert ran == [2]
    assert model[1].num_batches_tracked == 1
    assert condition(model)["2"] == found


def test_where_the_forward_fails_too_its_own_error_comes_and_the_other_as_a_note():
    model = nn.Sequential(nn.Linear(4, 4), Failing(ValueError("the forward")))
    with (
        pytest.raises(ValueError, match="the forward") as info,
        ss.tap(model, "0", on_capture=broken),
    ):
        model(torch.ones(1, 4))

    assert info.value.__notes__ == ["on_capture failed at '0': ValueError: too bad"]


def test_a_failed_capture_is_told_also_where_another_exception_is_being_handled():
    model = conv1d_stack()
    with ss.tap(model, "0", on_capture=broken):
        try:
            raise KeyError("unrelated")
        except KeyError:
            with pytest.raises(CaptureError, match="on_capture failed at '0'"):
                model(torch.ones(1, 1, 9))


def test_an_interrupt_makes_a_failed_capture_forgotten_in_the_next_forward():
    model = nn.Sequential(nn.Linear(4, 4), Failing(KeyboardInterrupt("stop")))
    fail = [True]
    handle = ss.tap(model, "0", on_capture=lambda *_: broken() if fail else None)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        model(torch.ones(1, 4))
    fail.clear()
    model[1].error = None
    model(torch.ones(1, 4))

    assert handle.activations == {}
    handle.remove()


def test_errors_of_the_package_that_a_callback_raises_come_as_they_are():
    def refuse(site, value):
        raise DataError("data must be better")

    model = conv1d_stack()
    ran = []
    model[4].register_forward_hook(lambda *_: ran.append(4))
    with (
        pytest.raises(DataError, match=r"^data must be better$"),
        ss.tap(model, "0", on_capture=refuse),
    ):
        model(torch.ones(1, 1, 9))

    assert ran == [4]


@pytest.mark.parametrize(
    ("sites", "settings", "error", "message"),
    [
        ("nothing", {}, SiteNotFoundError, "no site of the model matches 'nothing'"),
        (["0", "1:inn"], {}, SiteNotFoundError, "Did you mean '1:in'"),
        ([], {}, SiteNotFoundError, "at least one site, got none"),
        ("0", {"every": 0}, ValueError, "every must be a whole number from 1, got 0"),
        ("0", {"every": 1.5}, ValueError, "every must be a whole number from 1, got 1.5"),
        ("0", {"dtype": "half"}, TypeError, "dtype must be a torch.dtype .* got 'half'"),
    ],
)
def test_a_tap_that_cannot_be_made_leaves_no_hook(sites, settings, error, message):
    model = conv1d_stack()
    found = condition(model)
    with pytest.raises(error, match=message):
        ss.tap(model, sites, **settings)

    assert condition(model) == found


def test_a_tap_that_fails_while_it_attaches_takes_its_hooks_off_again():
    class Stubborn(nn.Linear):
        def register_forward_hook(self, *args, **kwargs):
            raise RuntimeError("no hooks here")

    model = nn.Sequential(nn.Linear(4, 4), Stubborn(4, 4), nn.Linear(4, 4))
    found = condition(model)
    with pytest.raises(RuntimeError, match="no hooks here"):
        ss.tap(model, ["**", "**:in"])

    assert condition(model) == found


@every_positional_case
def test_a_submodel_gives_what_a_tap_gives(case: Case):
    model = case.build().eval()
    sites = ss.select(model, [*EVERYTHING], example=case.args())
    with ss.tap(model, sites) as expected:
        case.run(model)
    part = ss.submodel(model, EVERYTHING, example=case.args())
    found = condition(model)
    acts = part(*case.args())

    assert list(acts) == list(part.sites) == list(expected) == list(sites)
    assert all(same(frozen(acts[site]), frozen(expected[site])) for site in sites)
    assert condition(model) == found


@every_positional_case
def test_a_submodel_runs_no_module_after_its_last_site(case: Case):
    model = case.build().eval()
    order = [site for site in ss.select(model, "**", example=case.args()) if site.path]
    for position, wanted in enumerate(order):
        part = ss.submodel(model, wanted, example=case.args())
        ran = []
        hooks = [
            module.register_forward_hook(lambda *_, path=path, ran=ran: ran.append(path))
            for path, module in model.named_modules()
            if path
        ]
        acts = part(*case.args())
        for hook in hooks:
            hook.remove()

        assert list(acts) == [wanted]
        allowed = [site.path for site in order[: position + 1]]
        # A graph holds no containers, and no branch that the site does not need.
        assert ran == allowed if part.method == "stop" else set(ran) <= set(allowed)
