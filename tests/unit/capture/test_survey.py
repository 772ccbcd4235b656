import re

import pytest
import torch
from torch import nn

import stratascope as ss
from networks import Loop, Reused, Tuples, TwoNames, Wrapper
from stratascope.capture import SiteInfo, match_forward_sites
from stratascope.errors import CaptureError, SiteNotFoundError
from stratascope.sites import Site

X = torch.ones(1, 4)


def test_without_an_example_sites_come_in_the_order_of_the_model():
    sites = ss.select(Reused(), ["relu@2", "layers.*", "relu:in", "relu:in"])

    assert [str(site) for site in sites] == [
        "layers.0", "layers.1", "layers.2", "relu@2", "relu:in",
    ]  # fmt: skip


def test_with_an_example_sites_come_in_the_order_of_execution_call_by_call():
    sites = ss.select(Reused(), ["relu", "layers.2", "layers.1:in"], example=(X,))

    assert [str(site) for site in sites] == [
        "relu@1",
        "layers.1:in",
        "relu@2",
        "layers.2",
        "relu@3",
    ]


def test_calls_from_the_last_get_their_number():
    assert ss.select(Reused(), "relu@-2", example=(X,)) == (Site("relu", call=2),)


def test_the_index_of_a_class_counts_what_ran():
    model = Loop()
    nn.init.ones_(model.cell.weight)
    second = ss.select(model, "Linear[2]", example=(X,))

    assert second in ((Site("small"),), (Site("large"),))
    with pytest.raises(
        SiteNotFoundError, match=re.escape("'Linear[2]' counts modules in the order")
    ):
        ss.select(model, "Linear[2]")


def test_what_is_selected_selects_itself():
    model = Reused()
    for example in (None, (X,)):
        sites = ss.select(model, ["", "**", "**:in"], example=example)

        assert ss.select(model, sites, example=example) == sites


def test_the_root_and_a_child_called_model_are_two_sites():
    sites = ss.select(Wrapper(), ["", "model"], example=(X,))

    assert sites == (Site("model"), Site(""))
    assert ss.select(Wrapper(), ["", "model"]) == (Site(""), Site("model"))


def test_a_survey_tells_class_parameters_shapes_and_further_names():
    infos = {str(info.site): info for info in ss.survey(TwoNames(), "**", example=(X,))}

    assert infos["act"] == SiteInfo(Site("act"), "Tanh", 0, {"": (1, 4)}, "float32")
    assert infos["encode@2"].aliases == ("decode",)
    assert infos["encode@1"].parameters == 20


def test_a_survey_lists_every_tensor_of_a_value():
    (info,) = ss.survey(Tuples(), "pair", example=(X,))

    assert info.shapes == {"0": (1, 3), "1.0": (1, 2)}


def test_without_an_example_there_are_no_shapes():
    infos = ss.survey(Tuples())

    assert [str(info.site) for info in infos] == ["pair", "pair.left", "pair.right", "join"]
    assert all(info.shapes == {} and info.dtype == "" for info in infos)


def test_integers_keep_their_type():
    model = nn.Sequential(nn.Embedding(5, 2))
    infos = ss.survey(model, ["0:in", "0"], example=(torch.tensor([1, 2]),))

    assert [info.dtype for info in infos] == ["int64", "float32"]


def test_an_example_that_the_model_would_write_into_stays_as_it_is():
    x = -torch.ones(1, 4)
    ss.survey(nn.Sequential(nn.ReLU(inplace=True)), example=(x,))

    assert x.tolist() == [[-1, -1, -1, -1]]


def test_an_example_is_a_tuple_of_arguments():
    with pytest.raises(TypeError, match=r"example must be a tuple .* write example=\(x,\)"):
        ss.survey(Reused(), example=X)
    with pytest.raises(TypeError, match="example must be a tuple"):
        ss.submodel(Reused(), "relu", example=X)


def test_gradients_are_no_values_of_a_forward():
    with pytest.raises(CaptureError, match="must be values of a forward here, got 'relu:grad'"):
        match_forward_sites(Reused(), ["layers.0", "relu:grad"])


def test_what_the_example_does_not_reach_is_an_error():
    with pytest.raises(CaptureError, match="nothing was captured at 'cell@7'"):
        ss.select(Loop(), "cell@7", example=(X,))
