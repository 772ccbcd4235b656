"""Ways to run samples through a network and keep what three of its layers give, ours and others'.

The network does as much work beside as is wanted, so that what is kept comes at any pace.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from formats import BATCH, SHAPES, UNIT
from torch import Tensor, nn
from torch.nn import functional

import stratascope as ss

Extraction = Callable[["Layers", Tensor, Path], None]


class Layers(nn.Module):
    """Three random layers, each of which is kept.

    Attributes:
        ballast: What each forward multiplies by itself, only to take time: ``(1024, n)``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv2d = _rectify(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64))
        self.conv1d = _rectify(nn.Conv1d(12, 128, 5, padding=2), nn.BatchNorm1d(128))
        self.fc = _rectify(nn.Linear(64, 512), nn.BatchNorm1d(512))
        self.head = nn.Linear(512, 10)
        self.ballast = torch.empty(1024, 0)

    def forward(self, images: Tensor) -> Tensor:
        """Run images ``(N, 3, 32, 32)``; the second layer takes them as signals."""
        torch.mm(self.ballast, self.ballast.T)
        maps = self.conv2d(images)
        self.conv1d(images.reshape(-1, 12, 256)[..., :250])
        return self.head(self.fc(maps.mean((2, 3))))


def _rectify(layer: nn.Module, norm: nn.modules.batchnorm._BatchNorm) -> nn.Sequential:
    norm.momentum = None  # keeps the mean of all that it has seen
    return nn.Sequential(layer, norm, nn.ReLU())


def make_layers(ballast: int = 0) -> Layers:
    """Make the layers, normed so that half of what they give is zero."""
    torch.manual_seed(0)
    layers = Layers()
    layers(make_images(UNIT))
    layers.ballast = torch.randn(1024, ballast)
    return layers.eval()


def make_images(samples: int) -> Tensor:
    """Make smooth noise, ``(samples, 3, 32, 32)``."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(samples, 3, 8, 8, generator=generator)
    return functional.interpolate(coarse, (32, 32), mode="bilinear")


def make_batches() -> list[dict[str, np.ndarray]]:
    """Make what the layers give of a unit of samples, in batches."""
    layers = make_layers()
    with torch.no_grad(), ss.tap(layers, list(SHAPES)) as acts:
        layers(make_images(UNIT))
    values = {str(site): value.numpy() for site, value in acts.items()}
    return [
        {key: rows[start : start + BATCH] for key, rows in values.items()}
        for start in range(0, UNIT, BATCH)
    ]


def _loop(layers: Layers, images: Tensor, folder: Path) -> None:
    for batch in images.split(BATCH):
        layers(batch)


def _extract(layers: Layers, images: Tensor, folder: Path) -> None:
    to = folder / "store"
    ss.extract(layers, images, list(SHAPES), to=to, batch_size=BATCH, progress=False)


def _hook(layers: Layers, key: str, keep: Callable[[Tensor], Any]) -> None:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        keep(output)

    layers.get_submodule(key).register_forward_hook(hook)


def _append(layers: Layers, images: Tensor, folder: Path) -> None:
    with ExitStack() as stack:
        for key in SHAPES:
            file = stack.enter_context((folder / key).open("wb", buffering=0))
            _hook(layers, key, lambda y, file=file: file.write(y.numpy().data))
        _loop(layers, images, folder)


def _keep(layers: Layers, images: Tensor, folder: Path) -> None:
    kept: dict[str, list[Tensor]] = {key: [] for key in SHAPES}
    for key, values in kept.items():
        _hook(layers, key, lambda y, values=values: values.append(y.clone()))
    _loop(layers, images, folder)
    for key, values in kept.items():
        np.save(folder / key, torch.cat(values).numpy())


def _extract_by_torchlens(layers: Layers, images: Tensor, folder: Path) -> None:
    import torchlens

    to = folder / "shards"
    torchlens.extract_dataset(layers, images, list(SHAPES), BATCH, output_dir=to, progress=False)


LOOP, OURS = "the forwards alone", "stratascope extract"
# The package that each is a part of comes second.
EXTRACTIONS: dict[str, tuple[Extraction, str]] = {
    LOOP: (_loop, ""),
    OURS: (_extract, ""),
    "append in hooks, no checksum, no sync": (_append, ""),
    "keep, concatenate, np.save, as thingsvision": (_keep, ""),
    "TorchLens extract_dataset": (_extract_by_torchlens, "torchlens"),
}
