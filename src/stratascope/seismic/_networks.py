"""ReconstructionNet, an encoder-decoder for seismic images, and the blocks it is made of."""

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional

_SLOPE = 0.2
_SHRINK = (16, 4)  # by how much the strides of the encoder divide height and width


class ConvBlock(nn.Module):
    """A convolution, batch normalisation and LeakyReLU(0.2), as in InversionNet.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        kernel_size: Height and width of the kernel.
        stride: Step of the kernel.
        padding: Zeros on each side; half the kernel unless given, so that stride 1 keeps the size.

    >>> ConvBlock(3, 8, kernel_size=(3, 1), stride=(2, 1))(torch.zeros(2, 3, 10, 7)).shape
    torch.Size([2, 8, 5, 7])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | None = None,
    ):
        super().__init__()
        if padding is None:
            height, width = _pair(kernel_size)
            padding = (height // 2, width // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = nn.LeakyReLU(_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return self.act(self.norm(self.conv(x)))


class DeconvBlock(nn.Module):
    """A transposed convolution, batch normalisation and LeakyReLU(0.2), to enlarge a map.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        kernel_size: Height and width of the kernel.
        stride: Step of the kernel in the output.
        padding: Rows and columns taken off each side of the output.

    >>> DeconvBlock(8, 4, kernel_size=4, stride=2, padding=1)(torch.zeros(2, 8, 5, 7)).shape
    torch.Size([2, 4, 10, 14])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 2,
        stride: int | tuple[int, int] = 2,
        padding: int | tuple[int, int] = 0,
    ):
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, kernel_size, stride, padding)
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = nn.LeakyReLU(_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return self.act(self.norm(self.conv(x)))


class ReconstructionNet(nn.Module):
    """An encoder-decoder with a 1 x 1 latent: ``(N, C, H, W)`` to ``(N, out_channels, *out_size)``.

    Without the last three arguments it reconstructs an image of any size from 16 x 4 upwards. With
    ``in_channels=5, out_channels=1, out_size=(70, 70)`` it maps the five shots of an OpenFWI
    sample, ``(N, 5, 1000, 70)``, to a velocity map, ``(N, 1, 70, 70)``.

    Args:
        in_channels: Channels of the input.
        base_channels: Channels of the first layer, on which all others depend.
        scale_factor: Scales the width of the bottleneck's kernel, ``int(70 * scale_factor / 8)``.
        out_channels: Channels of the output; as many as of the input unless given.
        out_size: Height and width of the output; those of the input unless given.
        literal: Leave out the pooling before the bottleneck and the resizing after the head. Then
            the input must be at least 113 x 29 at scale 1, and the size of the output follows from
            the layers: 40 x 40 for the smallest input, 920 x 200 for 1000 x 70.

    Raises:
        ValueError: An argument is out of its range, or the input of a call has not 4 dimensions,
            not ``in_channels`` channels, or too few rows or columns.

    >>> net = ReconstructionNet(base_channels=4)
    >>> net(torch.zeros(2, 1, 64, 64)).shape
    torch.Size([2, 1, 64, 64])
    >>> net = ReconstructionNet(5, base_channels=4, out_channels=1, out_size=(70, 70))
    >>> net(torch.zeros(2, 5, 1000, 70)).shape
    torch.Size([2, 1, 70, 70])
    """

    def __init__(
        self,
        in_channels: int = 1,
        base_channels: int = 32,
        scale_factor: float = 1.0,
        *,
        out_channels: int | None = None,
        out_size: tuple[int, int] | None = None,
        literal: bool = False,
    ):
        super().__init__()
        if literal and (out_channels is not None or out_size is not None):
            raise ValueError(
                "out_channels and out_size must be None with literal=True, "
                f"got {out_channels} and {out_size}; leave out literal=True to choose them"
            )
        if out_size is not None and len(out_size) != 2:
            raise ValueError(
                f"out_size must be (height, width), got {out_size}; or None for the input's size"
            )
        kernel = (8, int(70 * scale_factor / 8))
        if kernel[1] < 1:
            raise ValueError(
                f"scale_factor must be at least 8/70, got {scale_factor}; "
                "with less the bottleneck's kernel has no width"
            )
        out_channels = in_channels if out_channels is None else out_channels
        for name, count in [
            ("in_channels", in_channels),
            ("base_channels", base_channels),
            ("out_channels", out_channels),
            *[("each of out_size", size) for size in out_size or ()],
        ]:
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}; use a positive number")
        self.in_channels = in_channels
        self.out_size = None if out_size is None else (int(out_size[0]), int(out_size[1]))
        self.literal = literal
        self.smallest = _smallest_for(kernel) if literal else _SHRINK
        self.enc = _encoder(in_channels, base_channels, kernel, pooled=not literal)
        self.dec = _decoder(base_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Encode the images, decode them, and bring the result to its size."""
        check_images(x, self.in_channels, self.smallest)
        y = self.dec(self.enc(x))
        if self.literal:
            return y
        # A 1 x 1 convolution and an interpolation, whose weights add up to 1, commute, so resizing
        # after the head gives what resizing before it would, on far fewer channels.
        size = x.shape[-2:] if self.out_size is None else self.out_size
        return functional.interpolate(y, size=size, mode="bilinear", align_corners=False)

    def extra_repr(self) -> str:
        """Show what the layers do not."""
        return f"out_size={self.out_size}, literal={self.literal}"


class PooledConv2d(nn.Conv2d):
    """A convolution over a map averaged to the size of the kernel, so that 1 x 1 comes out."""

    def forward(self, input: Tensor) -> Tensor:
        height, width = self.kernel_size
        return super().forward(functional.adaptive_avg_pool2d(input, (height, width)))


def _encoder(in_channels: int, b: int, kernel: tuple[int, int], *, pooled: bool) -> nn.Sequential:
    bottleneck = PooledConv2d if pooled else nn.Conv2d
    return nn.Sequential(
        nn.Conv2d(in_channels, b, kernel_size=(7, 1), stride=(2, 1), padding=(3, 0)),
        ConvBlock(b, b * 2, kernel_size=(3, 1), stride=(2, 1)),
        ConvBlock(b * 2, b * 2, kernel_size=(3, 1)),
        ConvBlock(b * 2, b * 4, stride=2),
        ConvBlock(b * 4, b * 8, stride=2),
        bottleneck(b * 8, b * 16, kernel_size=kernel, padding=0),
    )


def _decoder(b: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        DeconvBlock(b * 16, b * 8, kernel_size=5),
        ConvBlock(b * 8, b * 8),
        DeconvBlock(b * 8, b * 4, kernel_size=4, stride=2, padding=1),
        ConvBlock(b * 4, b * 4),
        DeconvBlock(b * 4, b * 2, kernel_size=4, stride=2, padding=1),
        ConvBlock(b * 2, b * 2),
        DeconvBlock(b * 2, b, kernel_size=4, stride=2, padding=1),
        ConvBlock(b, b),
        nn.Conv2d(b, out_channels, kernel_size=1),
    )


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _smallest_for(kernel: tuple[int, int]) -> tuple[int, int]:
    # Each stride rounds up, so one row more than a whole number of steps makes one more row.
    height, width = (shrink * (size - 1) + 1 for shrink, size in zip(_SHRINK, kernel, strict=True))
    return height, width


@torch.fx.wrap  # symbolic tracing keeps this as one call, since it asks for shapes
def check_images(
    x: Tensor,
    channels: int,
    smallest: tuple[int, int],
    remedy: str = "build the network with as many in_channels",
) -> None:
    """Refuse an input that the layers could not take, before they fail at it."""
    shape = tuple(x.shape)
    if len(shape) != 4:
        raise ValueError(
            f"the input must have 4 dimensions (N, C, H, W), got shape {shape}; "
            "add the missing ones with x[None] or reshape it"
        )
    if shape[1] != channels:
        raise ValueError(
            f"the input must have {channels} channels, got {shape[1]} in shape {shape}; {remedy}"
        )
    if shape[2] < smallest[0] or shape[3] < smallest[1]:
        raise ValueError(
            f"the input must be at least {smallest[0]} x {smallest[1]}, "
            f"got {shape[2]} x {shape[3]}; pad or enlarge it"
        )
