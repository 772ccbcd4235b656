"""A store in a bucket is the store that a disk has, byte for byte, whatever happens meanwhile."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorstore
import zarr

import buckets
import jobs
import stratascope as ss
from buckets import BUCKET
from stratascope.cli import main
from stratascope.errors import DataError, StoreError
from stratascope.pipeline import Processes
from stratascope.store import (
    ArraySpec,
    Damage,
    Paths,
    StepSpec,
    StepWriter,
    UnitWriter,
    open_folder,
)
from stratascope.store._bucket import BucketFolder

SIGNALS = np.random.default_rng(0).normal(size=(300, 1, 40)).astype("float32")
SETTINGS = {"batch_size": 50, "unit_size": 64, "progress": False}
# Two parts of an upload, and a rest.
WIDE = ArraySpec("a/activation", "a", "", (80, 1000), "float32", "float32", ("channel", "time"))
on_each_server = pytest.mark.parametrize("url", buckets.SERVERS, indirect=True)


def run(to, data=SIGNALS, model=None, **settings):
    return ss.extract(model or jobs.Convnet(), data, "**", to=to, **{**SETTINGS, **settings})


def tree(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def key_of(url):
    """Give what names an object of the store for Amazon's client."""
    prefix = url.removeprefix(f"s3://{BUCKET}/")
    return lambda key: f"{prefix}/{key}"


@pytest.fixture
def local(tmp_path):
    return run(tmp_path / "s")


@on_each_server
@pytest.mark.parametrize(
    "settings",
    [{}, {"dtype": "uint8", "codec": "compact"}, {"data": None, "unit_size": 128}],
    ids=["plain", "codes", "iterable"],
)
def test_every_object_is_the_file_that_a_disk_has(tmp_path, url, client, settings):
    def make():
        again = {"data": iter(SIGNALS.reshape(6, 50, 1, 40))} if "data" in settings else {}
        return {**settings, **again}

    whole = run(tmp_path / "s", **make())
    store = run(url, **make())

    assert buckets.tree(client, url) == tree(whole.path)
    assert store.complete
    assert store.verify(deep=True) == []


def test_all_is_read_as_from_a_disk(url, local):
    store = run(url)
    assert (store.path, str(store.folder)) == (url, url)
    for name in ("steps", "settings", "provenance", "samples", "nbytes", "codec", "unit"):
        assert getattr(store, name) == getattr(local, name)
    assert repr(store) == repr(local).replace(repr(str(local.path)), repr(url))
    assert abs(store.written_at - local.written_at).total_seconds() < 60
    np.testing.assert_array_equal(store.sample_index, local.sample_index)
    rng = np.random.default_rng(0)
    for site in local:
        assert store[site].nbytes_stored == local[site].nbytes_stored
        for index in (17, (299, 2), slice(60, 70), rng.permutation(300)[:20], ..., (-1, 0, 5)):
            np.testing.assert_array_equal(store[site][index], local[site][index], strict=True)
    batch = store.to_torch("conv")[[3, 200]]
    np.testing.assert_array_equal(batch["conv"].numpy(), local["conv"][[3, 200]])


@on_each_server
def test_others_read_the_arrays_by_their_own_means(url, local):
    store = run(url)
    tree = store.to_xarray()
    import obstore.store

    source = obstore.store.from_url(f"{url}/data.zarr", client_options={"allow_http": True})
    group = zarr.open_group(zarr.storage.ObjectStore(source, read_only=True), mode="r")
    place = {
        "driver": "s3",
        "bucket": BUCKET,
        "path": f"{url.removeprefix(f's3://{BUCKET}/')}/data.zarr/0/relu/activation/",
        "endpoint": os.environ["AWS_ENDPOINT_URL"],
        "aws_region": "us-east-1",
        "aws_credentials": {"type": "environment"},
    }
    array = tensorstore.open({"driver": "zarr3", "kvstore": place}, read=True).result()

    expected = local["relu"][:]
    np.testing.assert_array_equal(tree["relu"]["activation"].values, expected)
    np.testing.assert_array_equal(tree["relu"]["activation"].sel(sample=299), expected[299])
    np.testing.assert_array_equal(group["0/relu/activation"][:], expected)
    np.testing.assert_array_equal(np.asarray(array), expected)


def test_codes_are_shown_as_values_by_xarray(url):
    store = run(url, dtype="uint8")
    np.testing.assert_array_equal(
        store.to_xarray()["conv"]["activation"].values, store["conv"][:], strict=True
    )


def test_other_processes_write_the_same(url, client, local):
    run(url, executor=Processes(2))

    assert buckets.tree(client, url) == tree(local.path)


@on_each_server
def test_shards_at_once_write_the_same(url, client, local):
    models = [jobs.Convnet() for _ in range(3)]  # they share the seed
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda n: run(url, model=models[n], shard=(n, 3)), range(3)))

    assert buckets.tree(client, url) == tree(local.path)


@pytest.mark.parametrize("url", ["Google"], indirect=True)
def test_a_store_lies_in_a_bucket_of_googles_too(url, local):
    store = run(url)

    assert store.path.startswith("gs://")
    assert store.verify(deep=True) == []
    np.testing.assert_array_equal(store["conv"][:], local["conv"][:])
    np.testing.assert_array_equal(store.to_xarray()["conv"]["activation"], local["conv"][:])


def test_a_training_is_recorded(url):
    model = jobs.Convnet()
    with ss.record(model, "conv", to=url, every=2, probe=SIGNALS[:8]) as record:
        for step in range(4):
            record.step(step)
    store = ss.open_store(url, step=2)

    assert record.path == url
    assert store.steps == (0, 2)
    assert store["conv"].shape == (8, 3, 38)
    with pytest.raises(StoreError, match=rf"{url} already holds step 0 \(complete\)"):
        ss.record(model, "conv", to=url, every=2, probe=SIGNALS[:8]).step(0)


def make_rows(unit):
    return np.random.default_rng(unit).normal(size=(64, *WIDE.shape)).astype("float32")


CHILD = """
import sys, time
import numpy as np
from stratascope.store import ArraySpec, StepSpec, StepWriter
array = ArraySpec(
    "a/activation", "a", "", (80, 1000), "float32", "float32", ("channel", "time")
)
writer = StepWriter(sys.argv[1], StepSpec(0, 150, 64, (array,)))
for unit, samples in enumerate((64, 60)):
    rows = np.random.default_rng(unit).normal(size=(64, 80, 1000)).astype("float32")
    writer.write(64 * unit, {array.key: rows[:samples]})
while 0 not in writer._writer.committed:
    time.sleep(0.01)
print("half way", flush=True)
time.sleep(600)
"""


def list_uploads(client, url):
    found = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    prefix = url.removeprefix(f"s3://{BUCKET}/")
    return [item["Key"].removeprefix(f"{prefix}/") for item in found if prefix in item["Key"]]


def write_rest(to):
    writer = StepWriter(to, StepSpec(0, 150, 64, (WIDE,)))
    missing = sorted(writer._claim.missing)
    for unit in missing:
        rows = make_rows(unit)[: 150 - 64 * unit]
        writer.write(64 * unit, {WIDE.key: rows})
    writer.finish()
    return missing


@on_each_server
def test_a_run_that_is_killed_while_it_uploads_leaves_no_half_object(tmp_path, url, client):
    child = subprocess.Popen([sys.executable, "-c", CHILD, url], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "half way\n"
    shard = "data.zarr/0/a/activation/c/1/0/0"
    deadline = time.monotonic() + 30
    while shard not in list_uploads(client, url) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.communicate()

    assert list_uploads(client, url) == [shard]  # which a rule of the bucket has to delete
    there = buckets.tree(client, url)
    assert shard not in there
    assert "commits/0/u00000000.json" in there
    assert "commits/0/u00000001.json" not in there
    assert write_rest(url) == [1, 2]
    assert write_rest(tmp_path / "s") == [0, 1, 2]
    assert buckets.tree(client, url) == tree(tmp_path / "s")
    assert ss.open_store(url).verify(deep=True) == []


def test_an_interrupted_run_leaves_no_upload(url, client):
    writer = StepWriter(url, StepSpec(0, 150, 64, (WIDE,)))
    writer.write(0, {WIDE.key: make_rows(0)[:60]})
    writer.abort()

    assert list_uploads(client, url) == []
    assert write_rest(url) == [0, 1, 2]


def test_a_run_that_was_stopped_goes_on(tmp_path, url, client, local):
    def stopping():
        yield from SIGNALS.reshape(6, 50, 1, 40)[:3]
        raise jobs.Stop

    whole = run(tmp_path / "whole", iter(SIGNALS.reshape(6, 50, 1, 40)))
    with pytest.raises(jobs.Stop):
        run(url, stopping())
    with pytest.warns(UserWarning, match=f"step 0 of {url} is unfinished: 128 samples are there"):
        store = ss.open_store(url)
    with pytest.raises(StoreError, match=r"is incomplete: of step 0 samples 0 to 127 are there"):
        store.to_xarray()
    assert store["relu"][100:128].shape == (28, 3, 38)
    run(url, iter(SIGNALS.reshape(6, 50, 1, 40)), resume=True)

    assert buckets.tree(client, url) == tree(whole.path)


HARM = {
    "flipped": lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    "cut off": lambda content: content[:-30],
    "empty": lambda content: b"",
    "gone": None,
}


SHARD = "data.zarr/0/conv/activation/c/2/0/0"


@pytest.mark.parametrize(
    ("harm", "key"),
    [
        *((harm, SHARD) for harm in HARM),
        *((harm, "commits/0/u00000002.json") for harm in HARM),
        ("gone", "data.zarr/0/conv/activation/zarr.json"),
        ("flipped", "data.zarr/0/sample/c/0"),
        ("gone", "data.zarr/0/sample/c/0"),
    ],
)
def test_damage_is_what_it_is_on_a_disk(url, client, key_of, local, key, harm):
    store = run(url)
    change = HARM[harm]
    if change is None:
        client.delete_object(Bucket=BUCKET, Key=key_of(key))
        (local.path / key).unlink()
    else:
        content = change((local.path / key).read_bytes())
        client.put_object(Bucket=BUCKET, Key=key_of(key), Body=content)
        (local.path / key).write_bytes(content)
    found, expected = ss.open_store(url).verify(deep=True), local.verify(deep=True)

    assert found
    assert [(*place(damage, url), damage.samples) for damage in found] == [
        (*place(damage, str(local.path)), damage.samples) for damage in expected
    ]
    np.testing.assert_array_equal(store["relu"][:], local["relu"][:])
    store.uncommit(found)
    assert run(url, resume=True).verify(deep=True) == []


def place(damage: Damage, root):
    # What a place says of a file that it has not got is its own affair.
    problem = "gone" if "no such" in damage.problem.lower() else damage.problem
    return str(damage.path).removeprefix(root), problem


def test_damage_is_no_value(url, client, key_of):
    store = run(url)
    content = HARM["flipped"](buckets.read(client, key_of(SHARD)))
    client.put_object(Bucket=BUCKET, Key=key_of(SHARD), Body=content)

    with pytest.raises(
        StoreError,
        match=rf"step 0, site 'conv', samples 128 to 1\d+ cannot be read: {url}/{SHARD} is damaged",
    ):
        store["conv"][128]
    assert store["conv"][0:128].shape == (128, 3, 38)
    client.delete_object(Bucket=BUCKET, Key=key_of(SHARD))
    with pytest.raises(StoreError, match=rf"samples 128 to 191 cannot be read: {url}/{SHARD} is"):
        store["conv"][128]
    with pytest.raises(StoreError, match=r"is not there, or empty"):
        store.to_xarray()


def test_a_shard_that_took_the_place_of_another_is_read_by_its_own_index(url, client, key_of):
    store = run(url)
    store["conv"][128]
    # Its chunks are of other lengths.
    other = run(f"{url}-other", SIGNALS.round())
    content = buckets.read(client, key_of(SHARD).replace("acts.zarr", "acts.zarr-other"))
    client.put_object(Bucket=BUCKET, Key=key_of(SHARD), Body=content)

    np.testing.assert_array_equal(store["conv"][128:192], other["conv"][128:192])
    assert (store["conv"][128] != run(f"{url}-again")["conv"][128]).any()


def test_a_slice_is_one_request_once_the_index_is_known(url, monkeypatch):
    store = run(url)
    array = store["conv"]
    array[3, 1]
    asked = []
    request = BucketFolder.asking

    def asking(folder, key=""):
        asked.append(key)
        return request(folder, key)

    monkeypatch.setattr(BucketFolder, "asking", asking)
    array[5, 2]
    assert len(asked) == 1
    array[100, 2]
    assert len(asked) == 3  # another shard, with its own index


def test_of_two_runs_the_later_is_refused(url):
    spec = StepSpec(0, 150, 64, (WIDE,))
    early, late = (UnitWriter(url, spec, range(3)) for _ in range(2))
    for writer in (early, late):
        writer.write(0, {WIDE.key: make_rows(0)})
        if writer is early:
            writer._queue.join()
            writer._settle_commits(leave=0)
    with pytest.raises(
        StoreError, match=r"samples 0 to 63 of step 0 of .* were committed by another run at the"
    ):
        late.finish()
    late.abort()
    early.write(64, {WIDE.key: np.concatenate([make_rows(1), make_rows(2)[:22]])})
    early.finish()
    StepWriter(url, spec).finish()

    assert ss.open_store(url).verify(deep=True) == []


@on_each_server
def test_two_runs_at_once_end_with_one_whole_store(url, client, local):
    def attempt(model):
        try:
            return run(url, model=model, resume=True).complete
        except StoreError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(attempt, [jobs.Convnet(), jobs.Convnet()]))

    assert True in ended
    assert all(end is True or "by another run at the same time" in end for end in ended)
    assert buckets.tree(client, url) == tree(local.path)


def test_a_second_run_is_told_that_the_step_is_there(url):
    run(url, limit=100, shard=(0, 2))
    with pytest.raises(StoreError, match=rf"{url} already holds step 0 \(unfinished\): nothing"):
        run(url, limit=100)
    with pytest.raises(StoreError, match=rf"{url} cannot be continued: since .* \(was 100, is"):
        run(url, limit=200, resume=True)


@on_each_server
def test_files_of_another_run_under_a_manifest_are_found(url, monkeypatch):
    """As when a run that was taken for dead comes to itself between two of its requests."""
    write_rest(url)
    zombie = UnitWriter(url, StepSpec(0, 150, 64, (WIDE,)), range(3))
    zombie.write(0, {WIDE.key: make_rows(7)})
    with monkeypatch.context() as patch:
        patch.setattr(BucketFolder, "exists", lambda folder, key: False)
        with pytest.raises(StoreError, match=r"files of both may be mixed there: stratascope ver"):
            zombie.finish()
    zombie.abort()
    (damage,) = ss.open_store(url).verify(deep=True)

    assert damage.samples == range(64)
    assert "is whole, but not the file that its manifest means" in damage.problem


def test_the_command_line_takes_urls(url, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("signals.npy", SIGNALS)
    (tmp_path / "net.py").write_text("import jobs\n\n\ndef build():\n    return jobs.Convnet()\n")
    words = ["net.py:build", "signals.npy", "--sites", "**", "--to", url]
    monkeypatch.syspath_prepend(os.path.dirname(jobs.__file__))

    assert main(["extract", *words]) == 0
    assert main(["info", url]) == 0
    assert f"{url}, step 0\n300 of 300 samples, complete" in capsys.readouterr().out
    assert main(["render", url, "--site", "conv", "--to", "conv.png"]) == 0
    assert (tmp_path / "conv.png").stat().st_size > 1000
    assert main(["verify", url, "--deep"]) == 0
    assert main(["compare", url, url, "--fail-on", "diff>0"]) == 0
    folder = open_folder(url)
    folder.remove([Paths(folder, 0).shard(ss.open_store(url)._spec.arrays[0], 1)])
    assert main(["verify", url]) == 1
    assert f"{url}/data.zarr/0/conv/activation/c/1/0/0 is not there" in capsys.readouterr().out
    repair = ["--repair", "--model", "net.py:build", "--data", "signals.npy"]
    assert main(["verify", url, *repair]) == 0
    assert "repaired: 1" in capsys.readouterr().out


def test_the_profile_of_a_store_in_a_bucket_goes_to_a_folder(url, tmp_path):
    profile = ss.profile(run(url), progress=False)

    with pytest.raises(DataError, match=rf"the profile of {url} cannot lie beside it"):
        profile.save()
    assert profile.save(tmp_path / "profile").is_dir()
