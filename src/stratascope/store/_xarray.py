"""Quantized arrays as xarray shows them: lazily, and as the values that they stand for."""

from typing import Any

from stratascope._optional import require
from stratascope.store._array import StoredArray


def show_values(codes: Any, array: StoredArray) -> Any:
    """Make a lazy `xarray.Variable` of the values of a quantized array.

    Args:
        codes: The variable that xarray opened, whose axes and attributes are kept.
        array: The array, opened for reading.
    """
    xarray = require("xarray", extra="xarray")
    indexing = xarray.core.indexing

    class Lazy(xarray.backends.BackendArray):
        shape, dtype = array.shape, array.dtype

        def __getitem__(self, key: Any) -> Any:
            most = indexing.IndexingSupport.OUTER_1VECTOR
            return indexing.explicit_indexing_adapter(key, self.shape, most, array.__getitem__)

    lazy = indexing.LazilyIndexedArray(Lazy())
    return xarray.Variable(codes.dims, lazy, {**codes.attrs, "stored_dtype": "uint8"})
