"""InversionNet, the reference network of OpenFWI, under the names of its published checkpoints."""

import math
import re
from typing import Any

import torch.fx
from torch import Tensor, nn
from torch.nn import functional

from stratascope.seismic._networks import check_images

_SHOTS = 5
_DIMS = (32, 64, 128, 256, 512)
_WIDTH = 70
_SLOPE = 0.2
_TALL, _WIDE = (3, 1), (2, 1)
_CROP = 5  # cells taken off each side of the decoder's 80 x 80
# The blocks of the first checkpoints named their layers after themselves.
_LEGACY = re.compile(r"(?<=\.)(?:Resize|De)?[Cc]onv2DwithBN(?:_Tanh)?(?=\.)")

torch.fx.wrap("check_images")  # where it is called, too


class InversionBlock(nn.Module):
    """A convolution, batch normalisation and an activation, ``layers.0`` to ``layers.2``.

    Args:
        conv: The convolution, plain or transposed.
        act: The activation.

    >>> import torch
    >>> block = InversionBlock(torch.nn.Conv2d(5, 8, 3, padding=1), torch.nn.Tanh())
    >>> block(torch.zeros(2, 5, 9, 7)).shape
    torch.Size([2, 8, 9, 7])
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, act: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), act)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return self.layers(x)


class InversionNet(nn.Module):
    """InversionNet as OpenFWI publishes it: ``(N, 5, 1000, 70)`` to ``(N, 1, 70, 70)``.

    Five shots of 1000 time steps and 70 receivers, scaled to [-1, 1], become a velocity map in
    [-1, 1]. Names and shapes are those of OpenFWI's code, so the state of a published checkpoint
    loads unchanged, the old names of its blocks included. With the usual ``dims`` there are
    24,409,123 parameters.

    Wu & Lin, InversionNet, IEEE Trans. Comput. Imaging 6 (2020); Deng et al., OpenFWI,
    NeurIPS 2022, arXiv:2111.02926.

    Args:
        dims: Channels of the five levels.
        sample_spatial: Which part of the receivers the data have; the width of the bottleneck's
            kernel is ``ceil(70 * sample_spatial / 8)``.

    Raises:
        ValueError: An argument is out of its range, or the input of a call has not 4 dimensions,
            not 5 channels, or too few time steps or receivers.

    >>> net = InversionNet(dims=(4, 8, 8, 8, 16))
    >>> net(torch.zeros(2, 5, 1000, 70)).shape
    torch.Size([2, 1, 70, 70])
    >>> list(net.state_dict())[0]
    'convblock1.layers.0.weight'
    """

    def __init__(
        self,
        dims: tuple[int, int, int, int, int] = _DIMS,
        *,
        sample_spatial: float = 1.0,
    ):
        super().__init__()
        if len(dims) != 5 or min(dims) < 1:
            raise ValueError(
                f"dims must be five positive numbers, got {dims}; the published are {_DIMS}"
            )
        kernel = (8, math.ceil(_WIDTH * sample_spatial / 8))
        if kernel[1] < 1:
            raise ValueError(f"sample_spatial must be above 0, got {sample_spatial}; usual is 1")
        self.smallest = (128 * (kernel[0] - 1) + 1, 8 * (kernel[1] - 1) + 1)
        d1, d2, d3, d4, d5 = dims
        self.convblock1 = _conv(_SHOTS, d1, (7, 1), _WIDE, (3, 0))
        self.convblock2_1 = _conv(d1, d2, _TALL, _WIDE, (1, 0))
        self.convblock2_2 = _conv(d2, d2, _TALL, 1, (1, 0))
        self.convblock3_1 = _conv(d2, d2, _TALL, _WIDE, (1, 0))
        self.convblock3_2 = _conv(d2, d2, _TALL, 1, (1, 0))
        self.convblock4_1 = _conv(d2, d3, _TALL, _WIDE, (1, 0))
        self.convblock4_2 = _conv(d3, d3, _TALL, 1, (1, 0))
        self.convblock5_1 = _conv(d3, d3, stride=2)
        self.convblock5_2 = _conv(d3, d3)
        self.convblock6_1 = _conv(d3, d4, stride=2)
        self.convblock6_2 = _conv(d4, d4)
        self.convblock7_1 = _conv(d4, d4, stride=2)
        self.convblock7_2 = _conv(d4, d4)
        self.convblock8 = _conv(d4, d5, kernel, padding=0)
        self.deconv1_1 = _deconv(d5, d5, 5, padding=0)
        self.deconv1_2 = _conv(d5, d5)
        self.deconv2_1 = _deconv(d5, d4)
        self.deconv2_2 = _conv(d4, d4)
        self.deconv3_1 = _deconv(d4, d3)
        self.deconv3_2 = _conv(d3, d3)
        self.deconv4_1 = _deconv(d3, d2)
        self.deconv4_2 = _conv(d2, d2)
        self.deconv5_1 = _deconv(d2, d1)
        self.deconv5_2 = _conv(d1, d1)
        self.deconv6 = InversionBlock(nn.Conv2d(d1, 1, 3, padding=1), nn.Tanh())
        self.register_load_state_dict_pre_hook(_rename_all)

    def forward(self, x: Tensor) -> Tensor:
        """Encode the shots, decode them, and crop the map."""
        check_images(x, _SHOTS, self.smallest, "give the five shots of a sample")
        for name, block in self.named_children():
            if name == "deconv6":
                x = functional.pad(x, [-_CROP] * 4)
            x = block(x)
        return x


def _conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int] = 3,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 1,
) -> InversionBlock:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
    return InversionBlock(conv, nn.LeakyReLU(_SLOPE, inplace=True))


def _deconv(
    in_channels: int, out_channels: int, kernel_size: int = 4, padding: int = 1
) -> InversionBlock:
    conv = nn.ConvTranspose2d(in_channels, out_channels, kernel_size, stride=2, padding=padding)
    return InversionBlock(conv, nn.LeakyReLU(_SLOPE, inplace=True))


def rename_legacy(name: str) -> str:
    """Give an entry of an old checkpoint the name that it has now.

    >>> rename_legacy("deconv1_1.Deconv2DwithBN.0.bias")
    'deconv1_1.layers.0.bias'
    """
    return _LEGACY.sub("layers", name)


def _rename_all(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[rename_legacy(name)] = state.pop(name)
