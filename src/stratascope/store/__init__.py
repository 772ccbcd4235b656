"""The store: activations of a data set as plain Zarr v3, streamed to disk, read without torch."""

from stratascope.store._array import StoredArray, read_channels
from stratascope.store._claim import StepClaim
from stratascope.store._files import find_root, read_spec
from stratascope.store._folder import Folder, StepPart
from stratascope.store._histogram import StoredHistogram
from stratascope.store._layout import (
    COORDINATES,
    DTYPES,
    RUN_FILE,
    SPEC_FILE,
    TEXT,
    UNIT_MULTIPLE,
    VALUES,
    ArraySpec,
    Codec,
    Paths,
    SiteSpec,
    StepSpec,
    missing_value,
    name_file,
    name_samples,
    part_units,
)
from stratascope.store._names import SiteNames
from stratascope.store._previews import add_previews
from stratascope.store._quantized import (
    INFINITY_CODE,
    NAN_CODE,
    NEGATIVE_INFINITY_CODE,
    TOP_CODE,
    count_group_axes,
    quantized_dtype,
)
from stratascope.store._reader import Store, open_store
from stratascope.store._verify import Damage, verify
from stratascope.store._where import open_folder
from stratascope.store._writer import StepWriter, UnitWriter

__all__ = [
    "COORDINATES",
    "DTYPES",
    "INFINITY_CODE",
    "NAN_CODE",
    "NEGATIVE_INFINITY_CODE",
    "RUN_FILE",
    "SPEC_FILE",
    "TEXT",
    "TOP_CODE",
    "UNIT_MULTIPLE",
    "VALUES",
    "ArraySpec",
    "Codec",
    "Damage",
    "Folder",
    "Paths",
    "SiteNames",
    "SiteSpec",
    "StepClaim",
    "StepPart",
    "StepSpec",
    "StepWriter",
    "Store",
    "StoredArray",
    "StoredHistogram",
    "UnitWriter",
    "add_previews",
    "count_group_axes",
    "find_root",
    "missing_value",
    "name_file",
    "name_samples",
    "open_folder",
    "open_store",
    "part_units",
    "quantized_dtype",
    "read_channels",
    "read_spec",
    "verify",
]
