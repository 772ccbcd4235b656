import re

import pytest
import torch

import stratascope as ss
from stratascope.seismic import InversionNet

SMALL = (4, 6, 8, 10, 12)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_parameters_are_those_of_the_published_network():
    with torch.device("meta"):
        parameters = dict(InversionNet().named_parameters())

    assert sum(parameter.numel() for parameter in parameters.values()) == 24_409_123
    assert len(parameters) == 100
    assert sum(p.numel() for p in parameters.values() if p.dim() == 1) == 12_963


@pytest.mark.parametrize(
    ("dims", "parameters"),
    [((8, 16, 32, 64, 128), 1_528_267), ((16, 32, 64, 128, 256), 6_105_875)],
)
def test_fewer_channels_leave_fewer_parameters(dims, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in InversionNet(dims).parameters()) == parameters


def test_every_level_has_the_size_that_openfwi_states():
    net = InversionNet(SMALL).eval()
    with torch.no_grad(), ss.tap(net, ["convblock*", "deconv*"]) as acts:
        net(noise(1, 5, 1000, 70))

    assert [(site.path, *acts[site].shape[2:]) for site in acts.sites] == [
        ("convblock1", 500, 70),
        ("convblock2_1", 250, 70),
        ("convblock2_2", 250, 70),
        ("convblock3_1", 125, 70),
        ("convblock3_2", 125, 70),
        ("convblock4_1", 63, 70),
        ("convblock4_2", 63, 70),
        ("convblock5_1", 32, 35),
        ("convblock5_2", 32, 35),
        ("convblock6_1", 16, 18),
        ("convblock6_2", 16, 18),
        ("convblock7_1", 8, 9),
        ("convblock7_2", 8, 9),
        ("convblock8", 1, 1),
        ("deconv1_1", 5, 5),
        ("deconv1_2", 5, 5),
        ("deconv2_1", 10, 10),
        ("deconv2_2", 10, 10),
        ("deconv3_1", 20, 20),
        ("deconv3_2", 20, 20),
        ("deconv4_1", 40, 40),
        ("deconv4_2", 40, 40),
        ("deconv5_1", 80, 80),
        ("deconv5_2", 80, 80),
        ("deconv6", 70, 70),
    ]


def test_the_state_has_the_names_of_published_checkpoints():
    names = list(InversionNet(SMALL).state_dict())

    assert names[:7] == [
        f"convblock1.layers.{part}"
        for part in (
            *("0.weight", "0.bias", "1.weight", "1.bias"),
            *("1.running_mean", "1.running_var", "1.num_batches_tracked"),
        )
    ]
    assert len(names) == 25 * 7


def test_the_names_of_old_blocks_load_too():
    new = InversionNet(SMALL).state_dict()
    old = {
        re.sub(r"^(deconv[1-5]_1)\.layers", r"\1.Deconv2DwithBN", name).replace(
            ".layers.", ".Conv2DwithBN."
        ): value
        for name, value in new.items()
    }
    net = InversionNet(SMALL)
    assert not set(old) & set(new)

    net.load_state_dict(old)

    assert all(torch.equal(value, new[name]) for name, value in net.state_dict().items())
    assert not any("layers" in name for name in old), "the caller's state was left as it was"


def test_a_network_inside_another_loads_old_names_too():
    outer = torch.nn.Sequential(InversionNet(SMALL))
    state = {
        name.replace(".layers.", ".Conv2DwithBN."): value
        for name, value in outer.state_dict().items()
    }

    assert str(outer.load_state_dict(state)) == "<All keys matched successfully>"


def test_a_checkpoint_of_another_network_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch for convblock1"):
        InversionNet(SMALL).load_state_dict(InversionNet((2, 2, 2, 2, 2)).state_dict())


def test_velocities_stay_within_one():
    net = InversionNet(SMALL)

    assert net(100 * noise(2, 5, 1000, 70)).abs().max() <= 1


def test_half_the_receivers_take_a_narrower_kernel():
    net = InversionNet(SMALL, sample_spatial=0.5).eval()

    assert net.convblock8.layers[0].kernel_size == (8, 5)
    with torch.no_grad():
        assert net(noise(1, 5, 1000, 35)).shape == (1, 1, 70, 70)


def test_gradients_reach_every_parameter():
    net = InversionNet(SMALL)

    net(noise(2, 5, 1000, 70)).square().sum().backward()

    assert all(parameter.grad is not None for parameter in net.parameters())


def test_symbolic_tracing_gives_the_same_network():
    net = InversionNet(SMALL).eval()
    x = noise(1, 5, 1000, 70)

    with torch.no_grad():
        torch.testing.assert_close(torch.fx.symbolic_trace(net)(x), net(x))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 1000, 70), r"must have 4 dimensions \(N, C, H, W\), got shape \(5, 1000, 70\)"),
        ((1, 1, 1000, 70), "must have 5 channels, got 1 .*; give the five shots of a sample"),
        ((1, 5, 70, 1000), "must be at least 897 x 65, got 70 x 1000"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        InversionNet(SMALL)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": (1, 2, 3)}, r"dims must be five positive numbers, got \(1, 2, 3\); the publ"),
        ({"dims": (1, 2, 3, 4, 0)}, "dims must be five positive numbers"),
        ({"sample_spatial": 0}, "sample_spatial must be above 0, got 0; usual is 1"),
    ],
)
def test_an_argument_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        InversionNet(**arguments)
