import pytest
import torch
from torch import nn

from stratascope.seismic import ConvBlock, DeconvBlock, ReconstructionNet


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def shape_of(net, *shape):
    return tuple(net.eval()(noise(*shape)).shape)


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({}, 13_529_185),
        ({"in_channels": 5, "literal": True}, 13_530_213),
        ({"in_channels": 5, "out_channels": 1}, 13_530_081),
        ({"in_channels": 5, "out_channels": 1, "base_channels": 16}, 3_384_049),
        ({"in_channels": 5, "out_channels": 1, "base_channels": 8}, 846_777),
    ],
)
def test_the_parameters_are_as_many_as_the_layers_say(arguments, parameters):
    with torch.device("meta"):
        assert count(ReconstructionNet(**arguments)) == parameters


def test_the_state_of_the_literal_network_fits():
    literal = ReconstructionNet(base_channels=4, literal=True)
    net = ReconstructionNet(base_channels=4)

    net.load_state_dict(literal.state_dict())

    assert [name for name, _ in net.named_children()] == ["enc", "dec"]
    assert (len(net.enc), len(net.dec)) == (6, 9)


@pytest.mark.parametrize("size", [(16, 4), (64, 64), (70, 70), (200, 31), (1000, 70)])
def test_an_image_of_any_size_is_reconstructed_at_its_size(size):
    assert shape_of(ReconstructionNet(base_channels=2), 2, 1, *size) == (2, 1, *size)


@pytest.mark.parametrize("size", [(64, 64), (129, 33), (1000, 70)])
def test_the_latent_is_one_cell(size):
    net = ReconstructionNet(base_channels=2)

    assert shape_of(net.enc, 1, 1, *size) == (1, 32, 1, 1)


def test_five_shots_become_one_velocity_map():
    net = ReconstructionNet(5, base_channels=2, out_channels=1, out_size=(70, 70))

    assert shape_of(net, 1, 5, 1000, 70) == (1, 1, 70, 70)


@pytest.mark.parametrize(
    ("size", "latent", "output"),
    [
        ((113, 29), (1, 1), (40, 40)),
        ((128, 32), (1, 1), (40, 40)),
        ((129, 33), (2, 2), (56, 56)),
        ((1000, 70), (56, 11), (920, 200)),
    ],
)
def test_the_literal_network_gives_what_its_layers_give(size, latent, output):
    net = ReconstructionNet(base_channels=2, literal=True)

    assert shape_of(net.enc, 1, 1, *size) == (1, 32, *latent)
    assert shape_of(net, 1, 1, *size) == (1, 1, *output)


def test_pooling_changes_nothing_where_the_map_has_the_size_of_the_kernel():
    literal = ReconstructionNet(base_channels=4, literal=True).eval()
    net = ReconstructionNet(base_channels=4, out_size=(40, 40)).eval()
    net.load_state_dict(literal.state_dict())
    x = noise(2, 1, 128, 32)

    with torch.no_grad():
        torch.testing.assert_close(net(x), literal(x))


def test_resizing_after_the_head_equals_resizing_before_it():
    net = ReconstructionNet(base_channels=4, out_size=(70, 50)).eval()
    x = noise(1, 1, 64, 64)

    with torch.no_grad():
        maps = net.dec[:-1](net.enc(x))
        before = net.dec[-1](nn.functional.interpolate(maps, (70, 50), mode="bilinear"))

        torch.testing.assert_close(net(x), before)


def test_the_scale_changes_the_width_of_the_bottleneck():
    half = ReconstructionNet(base_channels=2, scale_factor=0.5)

    assert half.enc[5].kernel_size == (8, 4)
    assert shape_of(half, 1, 1, 64, 64) == (1, 1, 64, 64)
    assert shape_of(ReconstructionNet(1, 2, 0.5, literal=True), 1, 1, 113, 13) == (1, 1, 40, 40)


def test_gradients_reach_every_parameter():
    net = ReconstructionNet(base_channels=2)

    net(noise(2, 1, 64, 64)).square().sum().backward()

    assert all(parameter.grad is not None for parameter in net.parameters())


def test_no_layer_overwrites_its_input():
    assert not any(getattr(module, "inplace", False) for module in ReconstructionNet().modules())


def test_symbolic_tracing_gives_the_same_network():
    net = ReconstructionNet(base_channels=2).eval()
    traced = torch.fx.symbolic_trace(net)
    x = noise(1, 1, 80, 40)

    with torch.no_grad():
        torch.testing.assert_close(traced(x), net(x))


def test_blocks_keep_the_size_at_stride_one_whatever_their_kernel():
    for kernel in (1, 3, 5, (3, 1), (7, 1)):
        assert shape_of(ConvBlock(2, 3, kernel), 1, 2, 9, 8) == (1, 3, 9, 8)
    assert shape_of(ConvBlock(2, 3, padding=0), 1, 2, 9, 8) == (1, 3, 7, 6)
    assert shape_of(DeconvBlock(2, 3, 5), 1, 2, 1, 1) == (1, 3, 5, 5)


def test_blocks_let_a_fifth_of_negative_values_through():
    block = ConvBlock(1, 1, kernel_size=1).eval()
    nn.init.constant_(block.conv.weight, 1.0)
    nn.init.zeros_(block.conv.bias)

    with torch.no_grad():
        out = block(torch.tensor([[[[-1.0, 2.0]]]]))

    torch.testing.assert_close(out, torch.tensor([[[[-0.2, 2.0]]]]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 64, 64), r"must have 4 dimensions \(N, C, H, W\), got shape \(1, 64, 64\); add"),
        ((1, 5, 64, 64), r"must have 1 channels, got 5 .*; build the network with as many in_ch"),
        ((1, 1, 15, 64), "must be at least 16 x 4, got 15 x 64; pad or enlarge it"),
        ((1, 1, 64, 3), "must be at least 16 x 4, got 64 x 3; pad or enlarge it"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        ReconstructionNet(base_channels=2)(torch.zeros(shape))


@pytest.mark.parametrize("size", [(112, 29), (113, 28), (70, 70)])
def test_the_literal_network_refuses_what_its_bottleneck_cannot_cover(size):
    with pytest.raises(ValueError, match="must be at least 113 x 29, got"):
        ReconstructionNet(base_channels=2, literal=True)(torch.zeros(1, 1, *size))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"base_channels": 0}, "base_channels must be at least 1, got 0"),
        ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
        ({"out_size": (70, 0)}, "each of out_size must be at least 1, got 0"),
        ({"out_size": (70,)}, r"out_size must be \(height, width\), got \(70,\)"),
        ({"scale_factor": 0.1}, "scale_factor must be at least 8/70, got 0.1"),
        ({"literal": True, "out_size": (70, 70)}, "must be None with literal=True, got None and"),
        ({"literal": True, "out_channels": 1}, "must be None with literal=True, got 1 and None"),
    ],
)
def test_an_argument_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReconstructionNet(**arguments)
