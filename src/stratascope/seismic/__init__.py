"""Networks for seismic data."""

from stratascope.seismic._networks import ConvBlock, DeconvBlock, ReconstructionNet

__all__ = ["ConvBlock", "DeconvBlock", "ReconstructionNet"]
