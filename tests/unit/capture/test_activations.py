import io
import pickle
import re
from collections.abc import Mapping

import pytest
import torch
from torch import nn

import stratascope as ss
from networks import CASES, Reused, Tuples, TwoNames, Wrapper
from stratascope.capture import Activations, named_tensors
from stratascope.errors import SiteNotFoundError
from stratascope.sites import Site

X = torch.linspace(-1, 1, 8).reshape(2, 4)


def capture(model, sites, x=X):
    with ss.tap(model, sites) as acts:
        model(x)
    return acts


@pytest.fixture
def acts():
    return capture(Reused(), ["**", "**:in", "Linear[2]"])


def test_they_are_a_read_only_mapping_in_the_order_of_execution(acts):
    assert isinstance(acts, Mapping)
    assert [str(site) for site in acts][:4] == ["layers.0:in", "layers.0", "relu@1:in", "relu@1"]
    assert list(acts) == list(acts.sites) == list(acts.keys())
    assert len(acts) == 12
    assert dict(acts)[Site("relu", call=3)] is acts["relu@3"]
    assert [value is acts[site] for site, value in acts.items()] == 12 * [True]
    with pytest.raises(TypeError, match="does not support item assignment"):
        acts["relu@1"] = X
    with pytest.raises(TypeError, match=r"doesn't support item deletion|object does not support"):
        del acts["relu@1"]


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("layers.0", True),
        ("layers.0@1", True),
        ("layers.0@-1", True),
        ("layers.0@2", False),
        ("layers.0:grad", False),
        ("layers.0:oot", False),
        ("relu@-1", True),
        ("relu@4", False),
        ("relu@-4", False),
        ("relu", False),
        ("Linear[2]", True),
        ("Linear[2]:in", True),
        ("Linear[7]", False),
        ("", False),
        ("model", False),
        (Site("layers.0", "in"), True),
        (Site("layers.9"), False),
    ],
    ids=str,
)
def test_a_name_is_held_or_not(acts, name, held):
    assert (name in acts) is held
    assert (acts.get(name) is not None) is held


def test_a_call_is_found_by_its_number_from_either_end(acts):
    assert acts["relu@-1"] is acts["relu@3"] is acts[Site("relu", call=3)]
    assert acts["relu@-3:in"] is acts["relu@1:in"]
    assert acts["layers.0@1"] is acts["layers.0"]
    assert acts["Linear[2]"] is acts["layers.1"]


def test_all_calls_come_first_call_first(acts):
    assert [value is acts[f"relu@{call}"] for call, value in enumerate(acts.calls("relu"), 1)] == [
        True, True, True,
    ]  # fmt: skip
    assert acts.calls("layers.0:in") == (acts["layers.0:in"],)
    with pytest.raises(SiteNotFoundError, match="'relu:grad' is not captured in this forward"):
        acts.calls("relu:grad")


def test_several_calls_are_not_chosen_between(acts):
    message = (
        "'relu' ran 3 times in this forward: ask for one call (captured: 'relu@1', 'relu@2', "
        "'relu@3'), or for acts.calls('relu')"
    )
    with pytest.raises(SiteNotFoundError, match=re.escape(message)):
        acts["relu"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layer.0", "'layer.0' is not captured in this forward. Did you mean 'layers.0'"),
        ("relu@9", "'relu@9' is not captured in this forward. Did you mean 'relu@3'"),
        ("layers.0:grad", "A gradient is there after backward(), where the forward ran with"),
        ("zzz", "'zzz' is not captured in this forward. Captured: layers.0:in, layers.0, "
                "relu@1:in, relu@1, layers.1:in, layers.1, relu@2:in, relu@2 …"),
        ("relu:oot", "the port of 'relu:oot' must be 'out', 'in' or 'grad', got 'oot'."),
        (Site("layer.0"), "'layer.0' is not captured in this forward."),
    ],
    ids=str,
)  # fmt: skip
def test_what_was_not_captured_is_an_error_with_near_names(acts, name, message):
    with pytest.raises(SiteNotFoundError, match=re.escape(message)):
        acts[name]


def test_before_a_forward_there_is_nothing():
    handle = ss.tap(Reused(), "**")
    acts = handle.activations

    assert (len(acts), list(acts), repr(acts)) == (
        0, [], "Activations(empty: no forward has been captured yet)",
    )  # fmt: skip
    with pytest.raises(SiteNotFoundError, match="nothing is, so run the model's forward first"):
        acts["relu"]
    handle.remove()


@pytest.mark.parametrize("name", [3, None, nn.ReLU, ("relu",)])
def test_a_site_is_a_name_or_a_site(acts, name):
    with pytest.raises(TypeError, match="a site must be a name or a Site, got"):
        acts[name]


def test_a_shared_module_is_found_by_all_its_names():
    acts = capture(TwoNames(), "decode")

    assert acts["decode@2"] is acts["encode@2"] is acts[Site("decode", call=2)]
    assert len(acts.calls("decode")) == 2


def test_the_root_is_found_by_both_its_names():
    acts = capture(Tuples(), ["", ":in"])

    assert acts[""] is acts["model"] is acts[Site("")] is acts["model@1"]
    assert acts[":in"] is acts["model:in"]


def test_a_child_called_model_takes_that_name_from_the_root():
    model = Wrapper()
    both, root, child = (capture(model, sites) for sites in (["", "model"], "", "model"))

    assert torch.equal(both[""], 2 * both["model"])
    assert torch.equal(root[""], both[""])
    assert torch.equal(child["model"], both["model"])
    assert (len(both), "model" in root, "" in child) == (2, False, False)
    with pytest.raises(SiteNotFoundError, match="has that name; the network itself is ''"):
        root["model"]


def test_names_with_the_signs_of_the_language_are_found_as_they_are():
    model = nn.ModuleDict({"a:in": nn.ReLU(), "b@2": nn.ReLU(), "c": nn.ReLU()})
    model.forward = lambda x: model["c"](model["b@2"](model["a:in"](x)))
    acts = capture(model, ["a:in", "b@2", "c"])

    assert len(acts) == 3
    assert acts["a:in"] is acts[Site("a:in")]
    assert torch.equal(acts["b@2"], X.relu())


def test_the_repr_lists_sites_shapes_and_types():
    acts = capture(Tuples(), ["pair", "join:in"])

    assert repr(acts) == (
        "Activations of 2 sites\n"
        "  pair     tuple(0: (2, 3) float32, 1.0: (2, 2) float32)\n"
        "  join:in  (2, 5) float32"
    )


@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("way", ["pickle", "torch"])
def test_a_pickled_copy_is_equal(case, way):
    model = case.build()
    with ss.tap(model, ["", "**", ":in", "**:in"]) as acts:
        case.run(model)
    if way == "pickle":
        again = pickle.loads(pickle.dumps(acts))
    else:
        buffer = io.BytesIO()
        torch.save(acts, buffer)
        buffer.seek(0)
        again = torch.load(buffer, weights_only=False)

    assert list(again) == list(acts)
    assert repr(again) == repr(acts)
    for site in acts:
        one, other = dict(named_tensors(acts[site])), dict(named_tensors(again[site]))

        assert list(one) == list(other)
        assert all(torch.equal(one[place], other[place]) for place in one)


def test_a_pickled_copy_is_asked_as_the_original(acts):
    again = pickle.loads(pickle.dumps(acts))

    assert torch.equal(again["Linear[2]:in"], acts["layers.1:in"])
    assert torch.equal(again["relu@-1"], acts["relu@3"])


def test_they_come_from_a_capture_only():
    assert len(Activations()) == 0
    with pytest.raises(TypeError, match="Activations come from a tap or a submodel"):
        Activations({"relu": X})


def test_looking_through_very_many_sites_takes_no_time():
    model = nn.Sequential(*(nn.Identity() for _ in range(3000)))
    acts = capture(model, "**")

    assert sum(1 for _ in acts.items()) == 3000


def test_a_notebook_shows_sites_values_and_sizes(acts):
    shown = acts._repr_html_()

    assert shown.count("<tr>") == 13
    assert "layers.0:in" in shown
    assert "(2, 4) float32" in shown


class Nests(nn.Module):
    """Runs its convolutions in another order than it holds them, and sequences in sequences."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 4)
        self.first = nn.Sequential(nn.Tanh(), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))

    def forward(self, x):
        return self.last(self.first(x) + self.first[1](x))


@pytest.mark.parametrize("sites", ["**", nn.Linear, "Linear[*]"])
def test_a_class_whose_modules_are_all_tapped_is_known_by_its_order(sites):
    acts = capture(Nests(), sites)

    assert acts["Linear[3]"] is acts["last"]
    assert acts["Linear[2]@2"] is acts["first.1.1@2"]
    assert "Linear[4]" not in acts
    again = pickle.loads(pickle.dumps(acts))
    assert torch.equal(again["Linear[3]"], acts["last"])


def test_a_class_is_not_known_where_some_of_its_modules_are_not_tapped_or_lie_in_others():
    assert "Linear[1]" not in capture(Nests(), "last")
    acts = capture(Nests(), "**")
    assert "Sequential[1]" not in acts
    assert acts["Tanh[1]"] is acts["first.0"]


def test_a_submodel_knows_the_classes_that_a_tap_knows():
    part = ss.submodel(Nests(), "Linear[*]", example=(X,))

    acts = part(X)
    assert acts["Linear[3]"] is acts["last"]
