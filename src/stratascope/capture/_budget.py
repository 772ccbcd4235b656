"""What captured values take of the memory."""

import heapq
from collections.abc import Mapping

from stratascope.capture._activations import Key, name_key


def describe_excess(sizes: Mapping[Key, int], max_bytes: int) -> str:
    """Say by how much a forward goes beyond its budget, through which sites, and what to do.

    >>> describe_excess({("0", "out", 1): 8_000_000}, 1_000_000)[:78]
    'the values kept of one forward must take at most max_bytes=1,000,000 bytes, go'
    """
    biggest = heapq.nlargest(3, sizes, key=lambda key: sizes[key])
    listed = ", ".join(f"'{name_key(key)}' {sizes[key]:,}" for key in biggest)
    return (
        f"the values kept of one forward must take at most max_bytes={max_bytes:,} bytes, got "
        f"{sum(sizes.values()):,} at {len(sizes)} sites, so none of them are kept. The biggest: "
        f"{listed}. Choose fewer sites, pool or slice with transform=, halve with "
        "dtype=torch.float16, take the host's memory with device='cpu' and more max_bytes, or "
        "write to disk with stratascope.extract"
    )
