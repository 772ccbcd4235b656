"""Training diagnostics: landscapes, curvature, learning rates and optimizers.

Results are plain arrays with their axes and settings, saved as Zarr, and drawn with matplotlib.
"""

from stratascope.diagnose._between import connect, line_between
from stratascope.diagnose._compare_optimizers import (
    OptimizerComparison,
    Verdict,
    compare_optimizers,
)
from stratascope.diagnose._curvature import curvature, hessian_directions
from stratascope.diagnose._curvature_result import Curvature
from stratascope.diagnose._directions import Directions, random_directions
from stratascope.diagnose._lamb import Lamb
from stratascope.diagnose._landscape import landscape
from stratascope.diagnose._landscape_result import Landscape
from stratascope.diagnose._lr import lr_sweep
from stratascope.diagnose._muon import Muon
from stratascope.diagnose._optimizers import (
    OptimizerKind,
    describe_optimizer,
    optimizer,
    take_step,
)
from stratascope.diagnose._range_test import RangeTest, lr_range_test
from stratascope.diagnose._sweep import Sweep
from stratascope.diagnose._tradeoffs import Tradeoffs, tradeoffs
from stratascope.diagnose._trajectory import trajectory_directions

__all__ = [
    "Curvature",
    "Directions",
    "Lamb",
    "Landscape",
    "Muon",
    "OptimizerComparison",
    "OptimizerKind",
    "RangeTest",
    "Sweep",
    "Tradeoffs",
    "Verdict",
    "compare_optimizers",
    "connect",
    "curvature",
    "describe_optimizer",
    "hessian_directions",
    "landscape",
    "line_between",
    "lr_range_test",
    "lr_sweep",
    "optimizer",
    "random_directions",
    "take_step",
    "tradeoffs",
    "trajectory_directions",
]
