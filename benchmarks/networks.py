"""Networks that the benchmarks run, the same networks cut by hand, and what is wanted of them."""

import copy
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

# What a way to capture may be asked for.
CONVOLUTIONS, EVERYTHING, MIDDLE = "all convolutions", "everything", "as far as the middle"

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


class FiveConvs(nn.Sequential):
    """Five convolutions of 16 to 256 filters over a signal, each before a ReLU."""

    def __init__(self) -> None:
        channels = (1, 16, 32, 64, 128, 256)
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv1d(before, after, 3, padding=1), nn.ReLU()]
        super().__init__(*layers)

    def run_half(self, x: Tensor) -> Tensor:
        """Run a signal ``(N, 1, L)`` as far as the fourth ReLU: the network cut by hand."""
        for layer in list(self)[:8]:
            x = layer(x)
        return x


class InversionNet(nn.Module):
    """InversionNet (Wu and Lin 2019) for OpenFWI, of which only the shape matters here.

    Its 24,409,123 parameters map five shots ``(N, 5, 1000, 70)`` to a velocity map of 70 × 70.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            _block(5, 32, (7, 1), (2, 1), (3, 0)),
            _block(32, 64, (3, 1), (2, 1), (1, 0)),
            _block(64, 64, (3, 1), 1, (1, 0)),
            _block(64, 64, (3, 1), (2, 1), (1, 0)),
            _block(64, 64, (3, 1), 1, (1, 0)),
            _block(64, 128, (3, 1), (2, 1), (1, 0)),
            _block(128, 128, (3, 1), 1, (1, 0)),
            _block(128, 128, stride=2),
            _block(128, 128),
            _block(128, 256, stride=2),
            _block(256, 256),
            _block(256, 256, stride=2),
            _block(256, 256),
            _block(256, 512, (8, 9), 1, 0),
        )
        self.decoder = nn.Sequential(
            _enlarge(512, 512, 5),
            _block(512, 512),
            _enlarge(512, 256, 4, padding=1),
            _block(256, 256),
            _enlarge(256, 128, 4, padding=1),
            _block(128, 128),
            _enlarge(128, 64, 4, padding=1),
            _block(64, 64),
            _enlarge(64, 32, 4, padding=1),
            _block(32, 32),
        )
        self.head = nn.Sequential(nn.Conv2d(32, 1, 3, padding=1), nn.BatchNorm2d(1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        """Invert shots."""
        return self.head(functional.pad(self.decoder(self.encoder(x)), (-5, -5, -5, -5)))

    def run_half(self, x: Tensor) -> Tensor:
        """Run shots as far as the latent: the network cut by hand."""
        return self.encoder(x)


def _block(
    before: int,
    after: int,
    kernel_size: int | tuple[int, int] = 3,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 1,
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size, stride, padding),
        nn.BatchNorm2d(after),
        nn.LeakyReLU(0.2, inplace=True),
    )


def _enlarge(before: int, after: int, kernel_size: int, padding: int = 0) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(before, after, kernel_size, 2, padding),
        nn.BatchNorm2d(after),
        nn.LeakyReLU(0.2, inplace=True),
    )


class Residual(nn.Module):
    """Two convolutions and a shortcut, as in ResNet-18."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = (
            nn.Identity()
            if stride == 1 and before == after
            else nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the shortcut to what two convolutions make of an image ``(N, C, H, W)``."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.downsample(x)
        return self.relu(y)


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2016), of which only the shape matters here."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Residual(64, 64, 1), Residual(64, 64, 1))
        self.layer2 = nn.Sequential(Residual(64, 128, 2), Residual(128, 128, 1))
        self.layer3 = nn.Sequential(Residual(128, 256, 2), Residual(256, 256, 1))
        self.layer4 = nn.Sequential(Residual(256, 512, 2), Residual(512, 512, 1))
        self.fc = nn.Linear(512, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images ``(N, 3, H, W)``."""
        x = self.layer4(self.layer3(self.run_half(x)))
        return self.fc(torch.flatten(x.mean((2, 3)), 1))

    def run_half(self, x: Tensor) -> Tensor:
        """Run as far as ``layer2``: the network cut by hand."""
        return self.layer2(self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x))))))


@dataclass(frozen=True, slots=True)
class Case:
    """A network with an input, and the module in its middle; made by `make_cases`."""

    name: str
    model: FiveConvs | InversionNet | ResNet18
    x: Tensor
    middle: str

    def find_modules(self, task: str) -> dict[str, nn.Module]:
        """Find the modules whose outputs a task is to give, by name."""
        named = dict(self.model.named_modules())
        if task == MIDDLE:
            return {self.middle: named[self.middle]}
        if task == CONVOLUTIONS:
            return {name: one for name, one in named.items() if isinstance(one, _CONVOLUTIONS)}
        return {name: one for name, one in named.items() if not list(one.children())}

    def copy(self) -> "Case":
        """Give a case whose modules are its own, hooks and all, and share their weights."""
        shared = [*self.model.parameters(), *self.model.buffers()]
        return replace(self, model=copy.deepcopy(self.model, {id(one): one for one in shared}))


def make_cases(*, small: bool = False) -> list[Case]:
    """Make the networks, in evaluation mode, with inputs of full size or of the smallest."""
    cases = [
        ("five Conv1d", FiveConvs(), (2, 1, 50) if small else (32, 1, 1000), "7"),
        ("InversionNet", InversionNet(), (1 if small else 4, 5, 1000, 70), "encoder"),
        ("ResNet-18", ResNet18(), (1, 3, 32, 32) if small else (8, 3, 224, 224), "layer2"),
    ]
    return [Case(name, model.eval(), torch.randn(s), middle) for name, model, s, middle in cases]
