import pytest
import torch
from torch import nn

from stratascope.capture import receptive_field
from stratascope.errors import CaptureError, SiteNotFoundError
from stratascope.seismic import ReconstructionNet


class Branched(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.wide = nn.Conv2d(4, 4, (1, 3), padding=(0, 2), dilation=2)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(8, 2, 4, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.act(self.norm(self.first(x)))
        y = y + self.wide(y) * 2
        return self.up(torch.cat([self.pool(y), self.pool(y + 1)], 1))


def measure(model, site, x, position):
    """Which positions of the input change the position of the layer, one after the other."""
    held = {}
    handle = model.get_submodule(site).register_forward_hook(lambda *a: held.update(y=a[-1]))

    def look(given):
        with torch.no_grad():
            model(given)
        return held["y"][(0, slice(None), *position)].clone()

    before = look(x)
    places = [
        place
        for place in torch.cartesian_prod(*(torch.arange(n) for n in x.shape[2:])).reshape(
            -1, x.ndim - 2
        )
        if any((look(_moved(x, place, by)) != before).any() for by in (9.0, -9.0))
    ]
    handle.remove()
    found = torch.stack(places)
    return tuple(
        range(low, high + 1)
        for low, high in zip(found.amin(0).tolist(), found.amax(0).tolist(), strict=True)
    )


def _moved(x, place, by):
    changed = x.clone()
    changed[(0, slice(None), *place.tolist())] += by
    return changed


CHAIN = nn.Sequential(
    nn.Conv1d(1, 3, 4, stride=2, padding=1),
    nn.Tanh(),
    nn.AvgPool1d(3, stride=2),
    nn.Conv1d(3, 3, 5, padding="same", dilation=2),
    nn.ConvTranspose1d(3, 2, 3, stride=3, dilation=2, padding=1),
    nn.AdaptiveAvgPool1d(7),
)


@pytest.mark.parametrize("site", ["0", "2", "3", "4", "5"])
@pytest.mark.parametrize("position", [(1,), (3,), (6,)])
def test_it_is_what_changes_the_position_in_a_chain(site, position):
    torch.manual_seed(0)
    x = torch.randn(1, 1, 41, dtype=torch.float64)
    model = CHAIN.double().eval()
    found = receptive_field(model, site, example=(x,), position=position)
    assert found == measure(model, site, x, position)


@pytest.mark.parametrize("site", ["first", "norm", "up"])
@pytest.mark.parametrize("position", [(0, 0), (2, 3)])
def test_it_is_what_changes_the_position_through_branches(site, position):
    torch.manual_seed(1)
    x = torch.randn(1, 2, 9, 10, dtype=torch.float64)
    model = Branched().double().eval()
    # Of positive weights, so that large steps open every ReLU and reach every maximum.
    for parameter in model.parameters():
        parameter.data.abs_()
    found = receptive_field(model, site, example=(x,), position=position)
    assert found == measure(model, site, x, position)


def test_of_a_module_that_runs_twice_one_call_is_named():
    example = (torch.zeros(1, 2, 9, 10),)
    with pytest.raises(CaptureError, match="must be the output of one layer, got pool@1, pool@2"):
        receptive_field(Branched(), "pool", example=example, position=(0, 0))
    found = receptive_field(Branched(), "pool@2", example=example, position=(2, 1))
    assert found == receptive_field(Branched(), "cat", example=example, position=(2, 1))


def test_a_position_between_the_strides_depends_on_nothing():
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.ConvTranspose1d(1, 1, 1, stride=3))
    example = (torch.zeros(1, 1, 5),)
    assert receptive_field(model, "1", example=example, position=(3,)) == (range(1, 2),)
    with pytest.raises(CaptureError, match=r"'1' does not depend on the input at \(4,\)"):
        receptive_field(model, "1", example=example, position=(4,))


def test_a_network_is_followed_as_far_as_it_can_be_known():
    model = ReconstructionNet(base_channels=2)
    example = (torch.zeros(1, 1, 64, 64),)
    rows, columns = receptive_field(model, "ConvBlock[3]", example=example, position=(3, 10))
    assert (rows, columns) == (range(11, 38), range(19, 22))
    assert model.training
    with pytest.raises(CaptureError, match=r"known through interpolate .* pass a box of your own"):
        receptive_field(model, "interpolate", example=example, position=(3, 10))


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.InstanceNorm2d(2), "instance_norm"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "conv2d"),
        (nn.Softmax(-1), "softmax"),
        (nn.Upsample(scale_factor=2), "interpolate"),
        (nn.Flatten(2), "flatten"),
    ],
)
def test_what_looks_further_is_refused(layer, said):
    model = nn.Sequential(nn.Conv2d(1, 2, 1), layer, nn.ReLU())
    position = (0,) if said == "flatten" else (0, 0)
    with pytest.raises(CaptureError, match=f"cannot be known through 1.{said}"):
        receptive_field(model, "2", example=(torch.ones(1, 1, 8, 8),), position=position)


def test_wrong_arguments_are_refused():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Identity(), nn.Flatten())
    example = (torch.ones(1, 1, 8, 8),)
    with pytest.raises(CaptureError, match=r"one of 6x6 positions of '0', got \(6, 0\)"):
        receptive_field(model, "0", example=example, position=(6, 0))
    with pytest.raises(CaptureError, match=r"one of 6x6 positions of '0', got \(1,\)"):
        receptive_field(model, "0", example=example, position=(1,))
    with pytest.raises(CaptureError, match="no positions of '2'"):
        receptive_field(model, "2", example=example, position=())
    with pytest.raises(CaptureError, match="'1' holds is not known"):
        receptive_field(model, "1", example=example, position=(0, 0))
    with pytest.raises(CaptureError, match="must be the output of one layer, got 0, 1, 2"):
        receptive_field(model, "*", example=example, position=(0, 0))
    with pytest.raises(SiteNotFoundError, match="'5'"):
        receptive_field(model, "5", example=example, position=(0, 0))
