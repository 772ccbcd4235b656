"""What of a step is still to do."""

import sys
from collections.abc import Iterable

from stratascope.store import StepPart, part_units


def plan(
    samples: int | None, unit: int, committed: set[int], *, part: StepPart | None = None
) -> list[range]:
    """List the units that are not done yet, each as the range of its samples.

    Args:
        samples: Number of samples, or None where only the end shows it: there is one range then,
            an open one, with ``sys.maxsize`` as its end.
        unit: Samples in one unit.
        committed: Units that are done.
        part: Which part of how many; None plans the whole.

    >>> plan(100, 32, {1})
    [range(0, 32), range(64, 96), range(96, 100)]
    >>> plan(100, 32, {1}, part=(0, 2))
    [range(0, 32)]
    """
    if samples is None:
        # In order from an iterable: what is committed is its beginning.
        first = 0
        while first in committed:
            first += 1
        return [range(first * unit, sys.maxsize)]
    return [
        range(number * unit, min(samples, (number + 1) * unit))
        for number in part_units(samples, unit, part)
        if number not in committed
    ]


def join(ranges: Iterable[range], *, within: int = sys.maxsize) -> list[range]:
    """Join ranges where they touch, unless a multiple of ``within`` lies between them.

    >>> join([range(0, 32), range(32, 64), range(64, 96)])
    [range(0, 96)]
    >>> join([range(0, 32), range(32, 64), range(64, 96)], within=64)
    [range(0, 64), range(64, 96)]
    """
    joined: list[range] = []
    for span in ranges:
        if joined and joined[-1].stop == span.start and span.start % within:
            span = range(joined.pop().start, span.stop)
        joined.append(span)
    return joined
