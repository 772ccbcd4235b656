"""Networks for seismic data, and the data of OpenFWI on which they are trained."""

from stratascope.seismic._inversion_net import InversionBlock, InversionNet
from stratascope.seismic._metrics import Scores, measure_ssim, score
from stratascope.seismic._networks import ConvBlock, DeconvBlock, ReconstructionNet
from stratascope.seismic._openfwi import FAMILIES, Family, OpenFWI

__all__ = [
    "FAMILIES",
    "ConvBlock",
    "DeconvBlock",
    "Family",
    "InversionBlock",
    "InversionNet",
    "OpenFWI",
    "ReconstructionNet",
    "Scores",
    "measure_ssim",
    "score",
]
