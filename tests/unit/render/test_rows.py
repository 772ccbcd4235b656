import numpy as np
import pytest

from stratascope.errors import DataError
from stratascope.render import _rows
from stratascope.render._rows import gather


@pytest.fixture
def maps():
    return np.random.default_rng(0).normal(size=(12, 5, 6, 7)).astype(np.float32)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(_rows, "_MOST_VALUES", 5 * 100)


def same(one, other):
    assert (one.values == other.values).all()
    assert (one.keys == other.keys).all()
    assert (one.seen, one.dropped) == (other.seen, other.dropped)


def test_a_row_has_the_channels_of_one_position(maps):
    rows = gather(maps)
    positions = np.moveaxis(maps, 1, -1).reshape(-1, 5)
    assert rows.values.shape == positions.shape
    assert {tuple(row) for row in rows.values} == {tuple(row) for row in positions}


def test_neither_the_order_of_samples_nor_the_blocks_matter(maps, few):
    whole = gather(maps)
    assert len(whole.values) == 100
    same(whole, gather(maps[::-1], samples=range(11, -1, -1)))
    same(whole, gather([maps[:5], maps[5:]]))
    same(whole, gather([(7, maps[7:]), (0, maps[:7])]))
    same(whole, gather((k, maps[k : k + 1]) for k in range(12)))
    same(whole, gather([([3, 4], maps[3:5]), (5, maps[5:]), (0, maps[:3])]))


def test_a_small_pass_at_a_time_gives_the_same(maps, few, monkeypatch):
    whole = gather(maps)
    monkeypatch.setattr(_rows, "_AT_ONCE", 1)
    same(whole, gather(maps))


def test_the_chosen_come_from_everywhere(maps, few):
    rows = gather(maps).values
    samples = [np.flatnonzero((maps == row[:, None, None]).all(1).any((1, 2)))[0] for row in rows]
    assert len(set(samples)) > 8


def test_another_seed_chooses_others(maps, few):
    assert (gather(maps).values != gather(maps, seed=1).values).any()


def test_what_is_not_finite_is_left_out_and_counted(maps):
    damaged = maps.copy()
    damaged[0, 2, 1, 1], damaged[3, 0, 0, 0], damaged[3, 1, 0, 0] = np.nan, np.inf, -np.inf
    rows = gather(damaged)
    assert rows.dropped == 2
    assert rows.seen == len(rows.values) + 2
    assert np.isfinite(rows.values).all()


@pytest.mark.parametrize("place", ["", "_0"])  # one tensor of a site, and one of several
def test_a_stored_array_says_where_its_channels_are(maps, place):
    class Tokens:
        dims = ("sample", f"token{place}", f"channel{place}")

        def blocks(self):
            yield 0, np.moveaxis(maps.reshape(12, 5, 42), 1, -1)

    same(gather(Tokens()), gather(maps))


def test_samples_may_have_no_positions():
    assert gather(np.ones((9, 4))).values.shape == (9, 4)
    assert gather(np.ones((9, 4, 0))).values.shape == (0, 4)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ([], "the source must hold at least one sample"),
        (np.ones((0, 4, 3)), "the source must hold at least one sample"),
        (np.ones(3), "each block must have shape"),
        ([np.ones((2, 3)), np.ones((2, 4))], "all blocks must have 3 channels, got one of 4"),
        ([([1.5, 2.5], np.ones((2, 3)))], "samples must be 2 whole numbers"),
        ([([1], np.ones((2, 3)))], "samples must be 2 whole numbers"),
    ],
)
def test_a_source_that_is_none_is_refused(source, match):
    with pytest.raises(DataError, match=match):
        gather(source)
