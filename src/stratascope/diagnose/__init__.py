"""Training diagnostics: what a network's metrics do around where training has led it.

Results are plain arrays with their axes and settings, saved as Zarr, and drawn with matplotlib.
"""

from stratascope.diagnose._between import connect, line_between
from stratascope.diagnose._curvature import curvature, hessian_directions
from stratascope.diagnose._curvature_result import Curvature
from stratascope.diagnose._directions import Directions, random_directions
from stratascope.diagnose._landscape import landscape
from stratascope.diagnose._landscape_result import Landscape
from stratascope.diagnose._tradeoffs import Tradeoffs, tradeoffs
from stratascope.diagnose._trajectory import trajectory_directions

__all__ = [
    "Curvature",
    "Directions",
    "Landscape",
    "Tradeoffs",
    "connect",
    "curvature",
    "hessian_directions",
    "landscape",
    "line_between",
    "random_directions",
    "tradeoffs",
    "trajectory_directions",
]
