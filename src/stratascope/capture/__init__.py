"""Capture: what the sites of a network hold in a forward pass."""

from stratascope.capture._activations import Activations
from stratascope.capture._allocator import tune_allocator
from stratascope.capture._modes import evaluating
from stratascope.capture._receptive import receptive_field
from stratascope.capture._records import Difference, ModuleCall, Operation, Summary, TensorInfo
from stratascope.capture._snapshot import copies_on_write
from stratascope.capture._staging import Staged, stage
from stratascope.capture._structure import map_tensors, named_tensors
from stratascope.capture._submodel import Submodel, split, submodel
from stratascope.capture._survey import SiteInfo, match_forward_sites, select, survey
from stratascope.capture._tap import Tap, tap
from stratascope.capture._trace import Trace, debug, trace

__all__ = [
    "Activations",
    "Difference",
    "ModuleCall",
    "Operation",
    "SiteInfo",
    "Staged",
    "Submodel",
    "Summary",
    "Tap",
    "TensorInfo",
    "Trace",
    "copies_on_write",
    "debug",
    "evaluating",
    "map_tensors",
    "match_forward_sites",
    "named_tensors",
    "receptive_field",
    "select",
    "split",
    "stage",
    "submodel",
    "survey",
    "tap",
    "trace",
    "tune_allocator",
]
