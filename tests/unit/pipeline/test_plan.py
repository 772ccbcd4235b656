import itertools
import sys

from hypothesis import given
from hypothesis import strategies as st

from stratascope.pipeline._plan import plan


@given(
    samples=st.integers(1, 2000), unit=st.integers(1, 300), committed=st.sets(st.integers(0, 40))
)
def test_the_plan_covers_exactly_the_missing_units(samples, unit, committed):
    ranges = plan(samples, unit, committed)
    planned = set(itertools.chain(*ranges))

    assert planned == {sample for sample in range(samples) if sample // unit not in committed}
    assert sum(map(len, ranges)) == len(planned)
    assert all(len(part) > 0 for part in ranges)
    assert all(a.stop < b.start for a, b in itertools.pairwise(ranges))


@given(unit=st.integers(1, 300), committed=st.integers(0, 40))
def test_without_a_length_the_plan_goes_on_from_what_is_committed(unit, committed):
    assert plan(None, unit, set(range(committed))) == [range(committed * unit, sys.maxsize)]
