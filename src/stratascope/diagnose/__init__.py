"""Training diagnostics: what a network's metrics do around where training has led it.

Results are plain arrays with their axes and settings, saved as Zarr, and drawn with matplotlib.
"""

from stratascope.diagnose._directions import Directions, random_directions
from stratascope.diagnose._landscape import landscape
from stratascope.diagnose._landscape_result import Landscape

__all__ = ["Directions", "Landscape", "landscape", "random_directions"]
