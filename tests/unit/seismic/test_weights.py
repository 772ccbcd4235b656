import argparse

import pytest
import torch
from torch import nn

from stratascope.errors import DataError
from stratascope.seismic import build_network, load_weights
from stratascope.seismic._weights import read_weights, save_weights


@pytest.fixture
def net():
    torch.manual_seed(0)
    return build_network("InversionNet", 2)


def same_state(first, second):
    return all(
        torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items()
    )


def as_published(net, **more):
    """What OpenFWI's training saves: the state, that of its optimizer, and its command line."""
    optimizer = torch.optim.AdamW(net.parameters())
    schedule = {"milestones": [], "gamma": 0.1, "base_lrs": [1e-4], "last_epoch": 8}
    return {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule,
        "epoch": 119,
        "step": 22_440,
        "args": argparse.Namespace(device="cuda", lr=1e-4, lr_milestones=[]),
        **more,
    }


@pytest.mark.parametrize(
    ("name", "channels", "parameters"),
    [("InversionNet", 32, 24_409_123), ("ReconstructionNet", 32, 13_530_081)],
)
def test_a_network_is_built_by_its_name(name, channels, parameters):
    with torch.device("meta"):
        net = build_network(name, channels)

    assert type(net).__name__ == name
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


def test_a_published_checkpoint_loads(tmp_path, net):
    torch.save(as_published(net), tmp_path / "checkpoint.pth")
    torch.manual_seed(1)
    other = build_network("InversionNet", 2)
    facts = load_weights(other, tmp_path / "checkpoint.pth")

    assert facts == {"epoch": 119, "step": 22_440}
    assert same_state(net, other)


def test_a_published_checkpoint_with_old_names_loads(tmp_path, net):
    state = {
        name.replace("layers", "Conv2DwithBN"): value for name, value in net.state_dict().items()
    }
    torch.save(as_published(net, model=state), tmp_path / "checkpoint.pth")
    torch.manual_seed(1)
    other = build_network("InversionNet", 2)
    load_weights(other, tmp_path / "checkpoint.pth")

    assert same_state(net, other)


def test_what_is_saved_is_loaded_with_its_facts(tmp_path, net):
    net.to(memory_format=torch.channels_last)
    save_weights(net, tmp_path / "best.safetensors", {"step": 4, "family": "Style_A"})
    torch.manual_seed(1)
    other = build_network("InversionNet", 2)

    assert load_weights(other, tmp_path / "best.safetensors") == {"step": 4, "family": "Style_A"}
    assert same_state(net, other)
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]


@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_a_state_is_found_alone_or_under_its_key(tmp_path, net, key):
    state = net.state_dict()
    torch.save(state if key is None else {key: state}, tmp_path / "weights.pt")

    assert list(read_weights(tmp_path / "weights.pt")[0]) == list(state)


class Harmful:
    def __reduce__(self):
        return (print, ("this ran",))


def test_no_code_in_a_file_is_run(tmp_path, net, capsys):
    torch.save(as_published(net, more=Harmful()), tmp_path / "checkpoint.pth")
    with pytest.raises(DataError, match=r"checkpoint.pth must be a whole file .* without code"):
        load_weights(net, tmp_path / "checkpoint.pth")

    assert "this ran" not in capsys.readouterr().out


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_file_that_was_cut_off_is_named(tmp_path, net, name):
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save(net.state_dict(), path)
    else:
        save_weights(net, path, {})
    cut_off(path)
    with pytest.raises(DataError, match=rf"{name} must be a whole .* fetch or save it again"):
        load_weights(net, path)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            build_network("ReconstructionNet", 2),
            r"of this InversionNet, got that of another network: it lacks convblock1.layers.0.w.*"
            r" and 172 more; it has besides enc.0.weight, enc.0.bias, .* and \d+ more. Build",
        ),
        (
            build_network("InversionNet", 4),
            r"it has in another shape convblock1.layers.0.weight \(4, 5, 7, 1\) for \(2, 5, 7, 1\)",
        ),
    ],
)
def test_the_weights_of_another_network_are_refused(tmp_path, net, other, message):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.save(other.state_dict(), tmp_path / "other.pt")
    with pytest.raises(DataError, match=message):
        load_weights(net, tmp_path / "other.pt")

    assert all(value.equal(before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ([1, 2], "must hold the state of a network, alone or under 'model' .* got a list"),
        ({"weights": 1}, "must hold the state of a network, .* got a dict"),
    ],
)
def test_a_file_without_a_state_is_refused(tmp_path, net, saved, message):
    torch.save(saved, tmp_path / "weights.pt")
    with pytest.raises(DataError, match=message):
        load_weights(net, tmp_path / "weights.pt")


def test_a_file_that_is_not_there_is_refused(tmp_path, net):
    with pytest.raises(DataError, match=r"the weights file .*none.pt does not exist"):
        load_weights(net, tmp_path / "none.pt")


def test_a_near_name_is_offered_for_a_network():
    with pytest.raises(DataError, match=r"got 'InversonNet'. Did you mean 'InversionNet'\?"):
        build_network("InversonNet")


def test_the_state_of_a_plain_module_is_checked_too(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    linear = nn.Linear(2, 2)
    load_weights(linear, tmp_path / "linear.pt")
    with pytest.raises(DataError, match=r"of this Linear, .*: it has in another shape weight"):
        load_weights(nn.Linear(3, 2), tmp_path / "linear.pt")
