import re

import numpy as np
import pytest

from stratascope.errors import StoreError
from stratascope.store import ArraySpec, StepClaim, StepSpec, UnitWriter, open_store

ROWS = np.arange(1000 * 3, dtype="float32").reshape(1000, 3)


def make_spec(samples=1000, provenance=""):
    array = ArraySpec("a/activation", "a", "", (3,), "float32", "float32", ("channel",))
    return StepSpec(0, samples, 64, (array,), provenance={"command": provenance})


@pytest.fixture
def claim(tmp_path):
    """Claim a step or a part of it; what is claimed is let go at the end."""
    made = []

    def take(part=None, spec=None):
        made.append(StepClaim(tmp_path / "s", spec or make_spec(), part=part))
        return made[-1]

    yield take
    for each in made:
        each.release()


def fill(root, claimed):
    writer = UnitWriter(root, claimed.spec, claimed.missing)
    for start in range(0, 1000, 50):
        writer.write(start, {"a/activation": ROWS[start : start + 50]})
    writer.finish()
    claimed.finish()
    return writer


def test_parts_are_claimed_side_by_side_and_the_last_completes_the_step(claim, tmp_path):
    claims = [claim((number, 3)) for number in range(3)]
    done = []
    for each in reversed(claims):
        fill(tmp_path / "s", each)
        done.append(open_store(tmp_path / "s").complete)

    assert done == [False, False, True]
    np.testing.assert_array_equal(open_store(tmp_path / "s")["a"][:], ROWS)
    assert list((tmp_path / "s" / "commits" / "0").glob("lock*")) == []


def test_a_part_writes_its_own_units_only(claim, tmp_path):
    part = claim((1, 3))
    writer = fill(tmp_path / "s", part)

    assert part.missing == writer.committed == set(range(5, 10))
    assert part.samples_committed == 320
    store = open_store(tmp_path / "s")
    assert store.committed_ranges() == [range(320, 640)]
    assert writer.bytes_written == store.nbytes


def test_a_part_is_one_runs_alone(claim):
    claim((0, 3))
    with pytest.raises(
        StoreError, match=r"another run is writing shard 0/3 of step 0 .*: give each"
    ):
        claim((0, 3))
    claim((1, 3))


def test_the_whole_step_is_no_other_runs_while_a_part_is_written(claim):
    part = claim((0, 3))
    with pytest.raises(StoreError, match=r"another run is writing step 0 of .*/s: wait for its"):
        claim()
    part.release()
    whole = claim()
    with pytest.raises(StoreError, match=r"a run that is no shard is writing step 0 of .*/s: wait"):
        claim((0, 3))
    whole.release()
    claim((0, 3))


@pytest.mark.parametrize("others", [(0, 4), (1, 2), (9, 10)])
def test_all_parts_must_be_of_as_many(claim, others):
    first = claim((0, 3))
    with pytest.raises(
        StoreError, match=rf"in another number of shards than {others[1]}: give all the same"
    ):
        claim(others)
    first.release()
    claim(others)


def test_parts_of_another_number_that_were_killed_are_no_hindrance(claim, tmp_path):
    stale = tmp_path / "s" / "commits" / "0" / "lock.0-of-7"
    stale.parent.mkdir(parents=True)
    stale.touch()
    claim((0, 3))

    assert not stale.exists()


def test_a_part_keeps_what_whoever_came_first_wrote_of_the_origin(claim, tmp_path):
    claim((0, 3), make_spec(provenance="--shard 0/3"))
    second = claim((1, 3), make_spec(provenance="--shard 1/3"))

    assert second.spec.provenance == {"command": "--shard 0/3"}
    assert open_store(tmp_path / "s").provenance == {"command": "--shard 0/3"}


def test_a_part_of_something_else_is_refused(claim):
    claim((0, 3))
    with pytest.raises(StoreError, match=r"step 0 of .*/s is another run's, begun in the meantime"):
        claim((1, 3), make_spec(999))


def test_a_part_sweeps_away_what_a_killed_run_left_of_its_own_units(claim, tmp_path):
    group, commits = tmp_path / "s" / "data.zarr" / "0", tmp_path / "s" / "commits" / "0"
    own = [
        group / "a" / "activation" / "c" / "5" / "0.tmp-1",
        group / "a" / "activation" / "c" / "9.tmp-1",
        commits / "u00000007.json.tmp-1",
    ]
    # These may be another part's.
    others = [
        group / "a" / "activation" / "c" / "4" / "0.tmp-1",
        group / "a" / "activation" / "c" / "10.tmp-1",
        group / "a" / "zarr.json.tmp-1",
        group / "sample" / "c" / "5.tmp-1",
        commits / "u00000011.json.tmp-1",
        commits / "complete.json.tmp-1",
    ]
    claim((1, 3)).release()
    for path in (*own, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    claim((1, 3)).release()

    assert [path for path in own if path.exists()] == []
    assert [path for path in others if not path.exists()] == []
    claim()
    assert [path for path in others if path.exists()] == []


def test_a_damaged_manifest_is_given_back_by_the_part_that_it_belongs_to(claim, tmp_path):
    fill(tmp_path / "s", claim())
    for unit in (2, 7):
        (tmp_path / "s" / "commits" / "0" / f"u{unit:08d}.json").write_text("{")

    assert claim((1, 3)).missing == {7}
    assert claim((0, 3)).missing == {2}
    assert claim((2, 3)).missing == set()


@pytest.mark.parametrize("samples", [None, 1000])
def test_what_is_missing_is_what_no_run_did(claim, tmp_path, samples):
    first = claim(spec=make_spec(samples))
    writer = UnitWriter(tmp_path / "s", first.spec, first.missing)
    writer.write(0, {"a/activation": ROWS[:200]})
    writer.abort()
    first.release()
    second = claim(spec=make_spec(samples))

    assert writer.committed == second.committed == {0, 1, 2}
    assert second.samples_committed == 192
    assert [unit in second.missing for unit in (2, 3, 15)] == [False, True, True]
    assert (samples is None) == (10**9 in second.missing)


def test_a_writer_passes_over_what_is_not_its_own(claim, tmp_path):
    held = claim()
    writer = UnitWriter(tmp_path / "s", held.spec, {3, 15})
    for start in range(0, 1000, 90):
        writer.write(start, {"a/activation": ROWS[start : start + 90]})
    writer.finish()

    assert writer.committed == {3, 15}
    assert re.sub(r"\s", "", str(open_store(tmp_path / "s").committed_ranges())) == (
        "[range(192,256),range(960,1000)]"
    )
