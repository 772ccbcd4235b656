"""What of a step is still to do."""

import sys
from collections.abc import Iterator


def plan(samples: int | None, unit: int, committed: set[int]) -> list[range]:
    """List the ranges of samples that no unit holds yet, joined where they touch.

    Args:
        samples: Number of samples, or None where only the end shows it: the last range is then
            open, with ``sys.maxsize`` as its end.
        unit: Samples in one unit.
        committed: Units that are done.

    >>> plan(100, 32, {1})
    [range(0, 32), range(64, 100)]
    >>> plan(100, 32, {0, 1, 2, 3})
    []
    """
    ranges: list[range] = []
    for span in _missing_units(samples, unit, committed):
        if ranges and ranges[-1].stop == span.start:
            span = range(ranges.pop().start, span.stop)
        ranges.append(span)
    return ranges


def _missing_units(samples: int | None, unit: int, committed: set[int]) -> Iterator[range]:
    if samples is None:
        # In order from an iterable: what is committed is its beginning.
        first = 0
        while first in committed:
            first += 1
        yield range(first * unit, sys.maxsize)
        return
    for number in range(-(-samples // unit)):
        if number not in committed:
            yield range(number * unit, min(samples, (number + 1) * unit))
