"""Networks for seismic data, the data of OpenFWI that they learn, and a simulator of such."""

from stratascope.seismic._benchmark import Benchmark, BenchmarkRun, Interval, benchmark
from stratascope.seismic._inversion_net import InversionBlock, InversionNet
from stratascope.seismic._metrics import Scores, measure_ssim, score
from stratascope.seismic._networks import ConvBlock, DeconvBlock, ReconstructionNet
from stratascope.seismic._openfwi import FAMILIES, Family, OpenFWI
from stratascope.seismic._simulate import simulate
from stratascope.seismic._train import (
    Recipe,
    Training,
    evaluate,
    hold_out,
    take_evenly,
    train,
)
from stratascope.seismic._velocity import draw_velocity_map
from stratascope.seismic._waves import simulate_shots
from stratascope.seismic._weights import build_network, load_weights

__all__ = [
    "FAMILIES",
    "Benchmark",
    "BenchmarkRun",
    "ConvBlock",
    "DeconvBlock",
    "Family",
    "Interval",
    "InversionBlock",
    "InversionNet",
    "OpenFWI",
    "Recipe",
    "ReconstructionNet",
    "Scores",
    "Training",
    "benchmark",
    "build_network",
    "draw_velocity_map",
    "evaluate",
    "hold_out",
    "load_weights",
    "measure_ssim",
    "score",
    "simulate",
    "simulate_shots",
    "take_evenly",
    "train",
]
