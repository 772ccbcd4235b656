import itertools
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratascope.pipeline._plan import join, plan

units = st.integers(1, 300)
committed = st.sets(st.integers(0, 40))


@given(samples=st.integers(1, 2000), unit=units, committed=committed, count=st.integers(1, 50))
def test_the_parts_of_a_plan_cover_exactly_the_missing_units(samples, unit, committed, count):
    parts = [plan(samples, unit, committed, part=(number, count)) for number in range(count)]
    planned = [*itertools.chain(*itertools.chain(*parts))]

    assert planned == [n for n in range(samples) if n // unit not in committed]
    assert all(0 < len(span) <= unit for span in itertools.chain(*parts))
    assert [*itertools.chain(*parts)] == plan(samples, unit, committed)


@given(unit=units, committed=st.integers(0, 40))
def test_without_a_length_the_plan_goes_on_from_what_is_committed(unit, committed):
    assert plan(None, unit, set(range(committed))) == [range(committed * unit, sys.maxsize)]


@given(samples=st.integers(1, 2000), unit=units, committed=committed)
def test_joined_ranges_are_the_same_samples_and_touch_no_more(samples, unit, committed):
    ranges = plan(samples, unit, committed)
    joined = join(ranges)

    assert [*itertools.chain(*joined)] == [*itertools.chain(*ranges)]
    assert all(a.stop < b.start for a, b in itertools.pairwise(joined))


@given(samples=st.integers(1, 2000), committed=committed, batch=st.integers(1, 400))
def test_ranges_joined_within_a_length_are_cut_at_its_multiples(samples, committed, batch):
    within = 64 * -(-batch // 64)
    joined = join(plan(samples, 64, committed), within=within)

    assert all(span.start // within == (span.stop - 1) // within for span in joined)
    assert join(joined) == join(plan(samples, 64, committed))


@pytest.mark.parametrize("count", [1, 2, 3, 10, 16])
def test_parts_are_blocks_of_nearly_the_same_size(count):
    parts = [plan(640, 64, set(), part=(number, count)) for number in range(count)]

    assert all(len(join(part)) <= 1 for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
