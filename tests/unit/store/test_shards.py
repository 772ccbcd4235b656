import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratascope.store import ArraySpec, open_folder
from stratascope.store._shards import ShardWriter

ARRAY = ArraySpec("a/activation", "a", "", (5, 300), "float32", "float32", ("channel", "time"))
ROWS = np.random.default_rng(0).normal(size=(64, 5, 300)).astype("float32")


def write(folder, rows, cuts, array=ARRAY):
    writer = ShardWriter(open_folder(folder).append("c/0"), array, 64, "fast")
    for part in np.split(rows, cuts):
        writer.append(part)
    told = writer.finish()
    return told, writer.sink.temporary.read_bytes()


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 64), max_size=20).map(sorted), kept=st.integers(1, 64))
def test_a_shard_depends_on_its_rows_only(tmp_path_factory, cuts, kept):
    folder = tmp_path_factory.mktemp("shards")

    assert write(folder, ROWS[:kept], [cut for cut in cuts if cut <= kept]) == write(
        folder, ROWS[:kept], []
    )


def test_rows_of_any_layout_in_memory_give_the_same_shard(tmp_path):
    _, plain = write(tmp_path, ROWS, [])
    layouts = [np.asfortranarray(ROWS), ROWS[::-1].copy()[::-1], ROWS.astype(">f4")]

    assert [write(tmp_path, rows, [9])[1] == plain for rows in layouts] == [True] * 3


def test_a_shard_has_no_name_before_it_is_given_one(tmp_path):
    writer = ShardWriter(open_folder(tmp_path).append("c/0"), ARRAY, 64, "fast")
    writer.append(ROWS)
    writer.finish()

    assert not (tmp_path / "c" / "0").exists()
    assert writer.sink.temporary.parent == tmp_path / "c"


@pytest.mark.parametrize("finished", [False, True])
def test_a_discarded_shard_is_gone(tmp_path, finished):
    writer = ShardWriter(open_folder(tmp_path).append("c/0"), ARRAY, 64, "fast")
    writer.append(ROWS)
    if finished:
        writer.finish()
    writer.sink.discard()
    writer.sink.discard()

    assert list((tmp_path / "c").iterdir()) == []


def test_the_rows_that_were_given_may_be_written_over(tmp_path):
    rows = ROWS[:3].copy()
    writer = ShardWriter(open_folder(tmp_path).append("c/0"), ARRAY, 64, "fast")
    writer.append(rows)
    rows[:] = 0
    writer.append(ROWS[3:])
    writer.finish()

    assert writer.sink.temporary.read_bytes() == write(tmp_path, ROWS, [])[1]
