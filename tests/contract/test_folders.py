"""What a store asks of the place where its files lie, on a disk as in a bucket."""

import contextlib
import errno
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

import buckets
from stratascope.errors import StoreError
from stratascope.store import open_folder
from stratascope.store._folder import ReplacedError

PART = 8 * 1024 * 1024


@pytest.fixture(params=["disk", *buckets.ALL])
def place(request, make_url, tmp_path):
    """Give what opens a folder of which nothing is there yet."""
    if request.param == "disk":
        return tmp_path / "acts.zarr"
    return make_url(request.param)


@pytest.fixture
def folder(place):
    return open_folder(place)


@pytest.fixture
def other(place):
    """Another one for the same files, as another process has it."""
    return open_folder(place)


def pour(folder, key, *parts):
    sink = folder.append(key)
    for part in parts:
        sink.write(part)
    sink.finish()
    return sink


def test_a_folder_is_known_by_what_opens_it_again(folder, place):
    folder.write("a/b", b"here")

    assert folder.path == place
    assert str(folder) == str(place)
    assert str(folder.locate("a/b")) == f"{place}/a/b"
    assert pickle.loads(pickle.dumps(folder)).read("a/b") == b"here"
    assert open_folder(folder) is folder


def test_a_folder_is_vacant_until_a_file_has_its_name(folder):
    assert folder.is_vacant()
    assert not folder.exists("")
    assert folder.names("") == []
    sink = pour(folder, "c/0", b"unfinished")
    assert list(folder.stat(["c/0"])) == []
    folder.publish([sink])

    assert not folder.is_vacant()
    assert folder.exists("")


def test_what_is_written_is_read(folder, other):
    folder.write("a/b/c", b"first")
    assert other.read("a/b/c") == b"first"
    folder.write("a/b/c", b"second, and longer")
    folder.write("a/b/empty", b"")

    assert other.read("a/b/c") == b"second, and longer"
    assert other.read("a/b/empty") == b""


def test_what_is_not_there_is_a_missing_file_that_has_a_name(folder):
    folder.write("a/b", b"")
    for read in (folder.read, lambda key: open_and_read(folder, key)):
        with pytest.raises(FileNotFoundError, match="a/missing") as caught:
            read("a/missing")
        assert caught.value.errno == errno.ENOENT
        assert str(caught.value.filename) == str(folder.locate("a/missing"))
    assert not folder.exists("a/missing")


def open_and_read(folder, key):
    with folder.open(key) as content:
        return content.read(0, 1)


def test_names_are_those_right_below(folder):
    for key in ("c/0/spec.json", "c/0/u1.json", "c/12/spec.json", "c/top", "cc/1"):
        folder.write(key, b"x")

    assert sorted(folder.names("c")) == ["0", "12", "top"]
    assert sorted(folder.names("c/0")) == ["spec.json", "u1.json"]
    assert folder.names("nowhere") == []


def test_a_look_at_files_tells_size_and_time_of_those_that_are_there(folder):
    keys = ["c/0/a", "c/0/b", "c/1/0/0", "c/2"]
    for key in keys[:3]:
        folder.write(key, b"x" * len(key))
    found = folder.stat(keys)

    assert {key: stat.bytes for key, stat in found.items()} == {
        "c/0/a": 5,
        "c/0/b": 5,
        "c/1/0/0": 7,
    }
    assert folder.stat(["c/0/a"]) == {"c/0/a": found["c/0/a"]}
    assert folder.stat(["c/2"]) == folder.stat([]) == {}
    written = [stat.modified for stat in found.values()]
    # Whole seconds, and a clock of its own, at some places.
    assert max(written) - min(written) < 60
    folder.write("c/0/a", b"")
    assert folder.stat(["c/0/a"])["c/0/a"].bytes == 0


def test_a_shared_file_is_the_first_ones(folder, other):
    folder.write_once("run.json", b"first")
    other.write_once("run.json", b"second")
    open_folder(folder.path).write_once("run.json", b"third")

    assert folder.read("run.json") == b"first"


def test_of_many_that_share_a_file_none_fails(place):
    folders = [open_folder(place) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: folders[n].write_once("run.json", b"%d" % n), range(8)))

    assert len(folders[0].read("run.json")) == 1


def test_a_file_that_is_removed_is_gone(folder, other):
    for key in ("c/a", "c/b", "c/c"):
        folder.write(key, b"x")
        assert folder.exists(key)
    folder.remove(["c/a", "c/b", "c/never-there"])
    folder.remove([])

    assert folder.names("c") == other.names("c") == ["c"]
    assert not folder.exists("c/a")


def test_a_stream_has_its_name_once_it_is_published(folder, other):
    # More than one part of an upload, and no whole number of them.
    parts = [os.urandom(3_000_000) for _ in range(6)]
    sinks = [pour(folder, "c/0/0", *parts), pour(folder, "c/1/0", b"short"), pour(folder, "c/2/0")]
    assert other.stat(["c/0/0", "c/1/0", "c/2/0"]) == {}
    folder.publish(sinks)

    assert other.read("c/0/0") == b"".join(parts)
    assert other.read("c/1/0") == b"short"
    assert other.read("c/2/0") == b""


def test_a_stream_takes_the_place_of_an_earlier_one(folder, other):
    folder.publish([pour(folder, "c/0", b"early")])
    folder.publish([pour(folder, "c/0", b"late")])

    assert other.read("c/0") == b"late"


@pytest.mark.parametrize("size", [0, 100, PART + 100])
@pytest.mark.parametrize("finished", [False, True])
def test_a_discarded_stream_leaves_nothing(folder, size, finished):
    sink = folder.append("c/0")
    sink.write(bytes(size))
    if finished:
        sink.finish()
    sink.discard()

    assert folder.stat(["c/0"]) == {}
    assert list(folder.find_stale("c")) == []


def test_pieces_are_read_from_either_end(folder):
    content = os.urandom(300_000)
    folder.write("c/0", content)
    with folder.open("c/0") as file:
        assert file.read(0, 10) == content[:10]
        assert file.read(299_990, 100) == content[-10:]
        assert file.read_end(20) == content[-20:]
        assert file.read_end(400_000) == content
        assert b"".join(file.blocks()) == content
        assert file.read(5, 7) == content[5:12]


def test_an_empty_file_has_an_empty_end(folder):
    folder.write("c/0", b"")
    with folder.open("c/0") as file:
        assert file.read_end(20) == b""
    with folder.open("c/0") as file:
        assert b"".join(file.blocks()) == b""


def test_a_long_file_is_read_block_by_block(folder):
    content = os.urandom(2 * PART + 12_345)
    folder.publish([pour(folder, "c/0", content)])
    with folder.open("c/0") as file:
        blocks = list(file.blocks())

    assert b"".join(blocks) == content
    assert len(blocks) > 1


def test_a_stamp_tells_a_file_from_what_took_its_place(folder, other):
    folder.write("c/0", b"early" * 10)
    with other.open("c/0") as file:
        file.read_end(10)
        stamp = file.stamp
    with other.open("c/0") as file:
        assert file.is_still(stamp)
        assert file.read(0, 5) == b"early"
    folder.write("c/0", b"later" * 10)
    # A disk knows it at once, a bucket when it is asked for a part.
    with contextlib.suppress(ReplacedError), other.open("c/0") as file:
        assert not (file.is_still(stamp) and file.read(0, 5))
    with other.open("c/0") as file:
        assert file.read_end(10) == b"laterlater"
        assert file.stamp != stamp


def test_streams_are_written_side_by_side(folder):
    contents = [os.urandom(PART + 1000) for _ in range(3)]
    sinks = [folder.append(f"c/{n}") for n in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda pair: fill(*pair), zip(sinks, contents, strict=True)))
    folder.publish(sinks)

    assert [folder.read(f"c/{n}") for n in range(3)] == contents


def fill(sink, content):
    for start in range(0, len(content), 100_000):
        sink.write(content[start : start + 100_000])
    sink.finish()


def test_a_file_is_committed_again_by_who_committed_it(folder):
    # An answer may be lost on its way, and the file be sent again.
    assert folder.commit("commits/0/u1.json", b"mine")
    assert folder.commit("commits/0/u1.json", b"mine")
    assert folder.read("commits/0/u1.json") == b"mine"


def test_of_two_runs_one_wins(folder, other):
    held = []

    def win(ours):
        try:
            held.extend(ours.hold(0, None))
        except StoreError:
            return False
        return ours.commit("commits/0/u1.json", b"same")

    assert [win(folder), win(other)] == [True, False]
    while held:
        held.pop()()
    for release in other.hold(0, None):
        release()
