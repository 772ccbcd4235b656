import json
import pickle
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratascope.errors import StoreError
from stratascope.store import ArraySpec, Damage, StepSpec, StepWriter, open_store, verify
from stratascope.store._disk import DiskFolder
from stratascope.store._lock import Lock

SAMPLES = 150
VALUES = {
    "enc.3": np.random.default_rng(0).normal(size=(SAMPLES, 3, 5)).astype("float32"),
    "loss": np.arange(SAMPLES),
    "none": np.zeros((SAMPLES, 0), "float32"),
}
LAST = range(128, 150)


def make_spec(step=0, samples: int | None = SAMPLES):
    arrays = [
        ArraySpec(f"{site}/activation", site, "", rows.shape[1:], rows.dtype.name, "x", dims)
        for (site, rows), dims in zip(
            VALUES.items(), [("channel", "time"), (), ("channel",)], strict=True
        )
    ]
    arrays.append(ArraySpec("lstm/activation.1", "lstm", "1", (), "int64", "int64", ()))
    return StepSpec(step, samples, 64, tuple(arrays))


def fill(root, step=0, samples: int | None = SAMPLES, there=SAMPLES):
    writer = StepWriter(root, make_spec(step, samples))
    rows = {f"{site}/activation": part[:there] for site, part in VALUES.items()}
    writer.write(0, {**rows, "lstm/activation.1": VALUES["loss"][:there]})
    writer.finish() if there == SAMPLES else writer.abort()
    return root


@pytest.fixture
def root(tmp_path):
    return fill(tmp_path / "s")


def shard(root, unit, name="enc.3/activation", inner="0/0"):
    return root / "data.zarr" / "0" / name / "c" / str(unit) / inner


def change(path, place, content=b"\0\1\2\3"):
    whole = bytearray(path.read_bytes())
    place %= len(whole)
    whole[place : place + len(content)] = content
    path.write_bytes(whole)


def files_of(root):
    return sorted(path for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("samples", [SAMPLES, None], ids=["known", "unknown length"])
@pytest.mark.parametrize("there", [0, 64, 140, SAMPLES])
def test_what_is_whole_has_no_damage_finished_or_not(tmp_path, deep, samples, there):
    root = fill(tmp_path / "s", samples=samples, there=there)
    before = {path: path.read_bytes() for path in files_of(root)}

    assert verify(root, deep=deep) == []
    assert {path: path.read_bytes() for path in files_of(root)} == before


@pytest.mark.parametrize("harm", ["lost", "empty", "cut", "longer", "a folder"])
def test_whatever_happens_to_any_file_is_found(tmp_path, harm):
    names = [path.relative_to(tmp_path / "s") for path in files_of(fill(tmp_path / "s"))]
    assert len(names) == 30
    for name in names:
        path = tmp_path / "s" / name
        content = path.read_bytes()
        path.unlink()
        if harm == "a folder":
            path.mkdir()
        elif harm != "lost":
            path.write_bytes({"empty": b"", "cut": content[:-3], "longer": content + b"}"}[harm])
        if name.name == "run.json":
            with pytest.raises(StoreError, match=r"is not a stratascope|run\.json is damaged"):
                verify(tmp_path / "s")
        else:
            known = {damage.path for damage in verify(tmp_path / "s")}
            # Without a description it is no step, and without its end no finished one.
            unknown = harm == "lost" and name.name in ("spec.json", "complete.json")
            assert known == (set() if unknown else {path}), (harm, name)
        path.rmdir() if harm == "a folder" else path.unlink(missing_ok=True)
        path.write_bytes(content)
    assert verify(tmp_path / "s", deep=True) == []


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_other_byte_of_the_values_is_found_and_read_as_damage(whole, data):
    paths = [path for path in files_of(whole) if path.parts[-2] == "c" or "c" in path.parts[-4:-1]]
    path = data.draw(st.sampled_from(paths))
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    try:
        change(path, place, bytes([content[place] ^ data.draw(st.integers(1, 255))]))
        found = verify(whole, deep=True)
        store = open_store(whole)
        lost = {sample for damage in found for sample in damage.samples}

        assert [damage.path for damage in found] == [path] * len(found)
        assert found
        if "sample" not in path.parts:
            site = found[0].site
            for sample in range(SAMPLES):
                if sample not in lost:
                    array = store[site]["1"] if site == "lstm" else store[site]
                    expected = VALUES["loss" if site == "lstm" else site][sample]
                    np.testing.assert_array_equal(array[sample], expected)
    finally:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("stores") / "s")


def test_damage_in_a_chunk_costs_its_samples_only(root):
    change(shard(root, 1), 0)
    change(shard(root, 1), -16 * 8 - 8)  # in the last of eight chunks
    found = verify(root, deep=True)

    assert verify(root) == []
    assert [(d.site, d.samples, d.path) for d in found] == [
        ("enc.3", range(64, 72), shard(root, 1)),
        ("enc.3", range(120, 128), shard(root, 1)),
    ]
    assert str(found[0]) == (
        f"step 0, site 'enc.3', samples 64 to 71: {shard(root, 1)} is damaged: it has another "
        "checksum"
    )


def test_chunks_side_by_side_are_one_damage(root):
    content = shard(root, 1).read_bytes()
    shard(root, 1).write_bytes(bytes(len(content) - 132) + content[-132:])

    assert [damage.samples for damage in verify(root, deep=True)] == [range(64, 128)]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: path.unlink(), "is not there"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), r"must have [\d,]+ bytes, got "),
        (lambda path: change(path, -20), "is damaged: its index has another checksum"),
    ],
)
def test_damage_to_a_file_names_the_samples_of_its_unit(root, harm, words):
    path = shard(root, 2, "lstm/activation.1", "")
    harm(path)
    (found,) = verify(root)

    assert (found.step, found.site, found.place, found.samples) == (0, "lstm", "1", LAST)
    assert found.path == path
    with pytest.raises(
        StoreError, match=rf"^step 0, site 'lstm' \[1\], samples 128 to 149: .*{words}"
    ):
        raise StoreError(str(found))


def test_a_whole_shard_of_another_run_is_found(root, tmp_path):
    other = fill(tmp_path / "other")
    shard(other, 0).replace(shard(root, 1))
    (found,) = verify(root, deep=True)

    # Its values are good ones, so that only the manifest tells that they are others.
    assert found.samples == range(64, 128)
    assert found.problem == "is whole, but not the file that its manifest means"


def test_a_shard_of_an_early_release_is_checked_without_what_that_did_not_note(root):
    path = root / "commits" / "0" / "u00000001.json"
    manifest = json.loads(path.read_text())
    for file in manifest["files"].values():
        del file["chunks_crc32c"]
    path.write_text(json.dumps(manifest))
    assert verify(root, deep=True) == []
    change(shard(root, 1), 0)

    assert [damage.samples for damage in verify(root, deep=True)] == [range(64, 72)]


def test_a_shard_that_was_swapped_for_one_of_the_same_size_is_found_by_its_index(root):
    path = shard(root, 1)
    content = path.read_bytes()
    index = bytearray(content[-132:-4])
    # Two chunks change places: an index that is right in itself.
    index[:16], index[16:32] = index[16:32], index[:16]
    path.write_bytes(
        content[:-132] + index + google_crc32c.value(bytes(index)).to_bytes(4, "little")
    )
    (found,) = verify(root)

    assert found.problem == "is whole, but not the file that its manifest means"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("u00000001.json", None, "is not there"),
        ("u00000001.json", "{", "is damaged: it must be JSON"),
        ("u00000001.json", "{}", "is damaged: it must describe a unit"),
        ("u00000002.json", {"stop": 140}, "must end with sample 149, got 139"),
        ("u00000001.json", {"start": 0}, "is damaged: it must describe samples from 64 on"),
    ],
)
def test_a_damaged_manifest_costs_its_unit(root, name, text, words):
    path = root / "commits" / "0" / name
    if isinstance(text, dict):
        path.write_text(json.dumps({**json.loads(path.read_text()), **text}))
    else:
        path.unlink() if text is None else path.write_text(text)
    (found,) = verify(root)

    assert found.problem.startswith(words)
    assert (found.site, found.path) == ("", path)
    assert found.samples == (range(64, 128) if "1" in name else LAST)


def test_a_unit_that_is_owed_is_no_damage(root):
    for name in ("complete.json", "u00000001.json"):
        (root / "commits" / "0" / name).unlink()

    assert verify(root, deep=True) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "is damaged: it must be JSON"), ('{"samples": 3}', "must end the step")],
)
def test_a_damaged_end_is_no_lost_sample(root, text, words):
    path = root / "commits" / "0" / "complete.json"
    path.write_text(text)
    (found,) = verify(root)

    assert found.problem.startswith(words)
    assert (found.path, found.samples) == (path, range(0))
    assert str(found).startswith(f"step 0: {path} ")


def test_a_damaged_description_is_no_lost_sample(root):
    path = root / "data.zarr" / "0" / "enc.3" / "activation" / "zarr.json"
    plain = json.loads(path.read_text())
    path.write_text(json.dumps({**plain, "shape": [7, 3, 5]}))
    (found,) = verify(root)

    assert found == Damage(path, "must have the shape [150, 3, 5], got [7, 3, 5]", 0, site="enc.3")


def test_an_array_of_another_unit_is_damage(root):
    path = root / "data.zarr" / "0" / "loss" / "activation" / "zarr.json"
    path.write_text(path.read_text().replace("64", "128", 1))
    (found,) = verify(root)

    assert found.problem in ("must have shards of 64 samples, got 128",)


def test_values_are_checked_also_where_their_description_is_damaged(root):
    (root / "data.zarr" / "0" / "enc.3" / "activation" / "zarr.json").write_text("{")
    change(shard(root, 1), 0)
    found = verify(root, deep=True)

    assert [damage.samples for damage in found] == [range(0), range(64, 128)]


def test_every_step_is_looked_at_or_one(tmp_path):
    root = fill(fill(tmp_path / "s"), step=7)
    change(root / "commits" / "0" / "spec.json", 0, b"?")
    (root / "data.zarr" / "7" / "sample" / "c" / "0").unlink()
    first, second = verify(root)

    assert (first.step, first.path.name, first.samples) == (0, "spec.json", range(0))
    assert (second.step, second.site, second.problem) == (
        7,
        "",
        "cannot be read (No such file or directory)",
    )
    assert verify(root, step=0) == [first]
    assert open_store(root).verify() == [second]
    with pytest.raises(StoreError, match=r"step must be one of those in .* \(0, 7\), got 3"):
        verify(root, step=3)


def test_a_disk_that_fails_is_damage(root, monkeypatch):
    lost = shard(root, 1)
    for name in ("stat", "open"):
        works = getattr(Path, name)

        def fail(path, *args, works=works, **kwargs):
            if path == lost:
                raise OSError(5, "Input/output error")
            return works(path, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Path, name, fail)
            (found,) = verify(root)

        assert (found.path, found.problem) == (lost, "cannot be read (Input/output error)")


def test_a_file_that_goes_while_it_is_read_is_damage(root, monkeypatch):
    stat = DiskFolder.stat
    change(shard(root, 1).parents[3] / "zarr.json", 0, b"no")

    def go_after(folder, keys):
        found = stat(folder, keys)
        if keys == [shard(root, 1).relative_to(root).as_posix()]:
            shard(root, 1).unlink()
        return found

    monkeypatch.setattr(DiskFolder, "stat", go_after)
    described, lost = verify(root, deep=True)

    assert described.problem.startswith("is damaged: it must be JSON")
    assert (lost.path, lost.problem) == (shard(root, 1), "is not there")


def test_what_is_done_is_told(root):
    parts = []
    verify(fill(root, step=1), watch=parts.append)

    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0, 1)
    assert len(parts) == 8


def test_damages_are_values(root):
    change(shard(root, 1), -20)
    (found,) = verify(root)

    assert {found, pickle.loads(pickle.dumps(found))} == {found}


def test_units_are_given_back_whole(root):
    store = open_store(root)
    before = {path: path.read_bytes() for path in files_of(root)}
    change(shard(root, 1), 0)
    store.uncommit(store.verify(deep=True))
    gone = {str(path.relative_to(root)) for path in before if not path.exists()}

    assert gone == {"commits/0/complete.json", "commits/0/u00000001.json"}
    assert store.committed_ranges() == [range(64), range(128, 150)]
    assert not store.complete


def test_nothing_is_given_back_where_nothing_is_damaged(root):
    store = open_store(root)
    (other,) = [Damage(root, "is not there", 3, range(150))]
    store.uncommit([])
    store.uncommit([other])

    assert store.complete


def test_damages_that_a_user_made_may_span_units(root):
    open_store(root).uncommit([Damage(root, "is strange", 0, range(60, 129))])

    assert open_store(root).committed_ranges() == []


def test_a_step_that_is_being_written_is_not_given_back(root):
    store = open_store(root)
    damage = Damage(root, "is strange", 0, range(64))
    lock = Lock(root / "commits" / "0" / "lock")

    with pytest.raises(StoreError, match=r"another run is writing step 0 of .*: wait for its end"):
        store.uncommit([damage])
    lock.release()
    assert store.complete


def test_a_step_of_unknown_length_keeps_what_lies_behind_the_gap(tmp_path):
    root = fill(tmp_path / "s", samples=None)
    store = open_store(root)
    store.uncommit([Damage(root, "is strange", 0, range(64, 66))])
    again = open_store(root)

    assert again.samples == SAMPLES
    assert again.committed_ranges() == [range(64), range(128, 150)]
    np.testing.assert_array_equal(again["loss"][130:], VALUES["loss"][130:])
