import os
import pickle
import socket
import sys
from pathlib import Path

import pytest

import stratascope as ss
from stratascope.errors import MissingExtraError, StoreError
from stratascope.store import open_folder
from stratascope.store._bucket import BucketFolder


@pytest.fixture
def alone(monkeypatch):
    """Let nothing of the environment lead anywhere."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///acts.zarr", "http://host/acts.zarr", "azure://b/acts.zarr", "gs://"]
)
def test_what_is_no_place_is_refused(url):
    with pytest.raises(StoreError, match=rf"as s3://bucket/name or gs://bucket/name, got '{url}'"):
        ss.open_store(url)


def test_a_path_that_was_a_url_is_refused():
    with pytest.raises(StoreError, match=r"must be named by text, got the path s3:/b/acts.zarr"):
        open_folder(Path("s3://b/acts.zarr"))


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_place_is_known_by_its_url(alone, scheme):
    folder = open_folder(f"{scheme}://bucket/some/acts.zarr/")

    assert isinstance(folder, BucketFolder)
    assert folder.path == str(folder) == f"{scheme}://bucket/some/acts.zarr"
    assert folder.locate("commits/0/spec.json") == f"{folder}/commits/0/spec.json"
    assert pickle.loads(pickle.dumps(folder)).path == folder.path


def test_without_obstore_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'stratascope\[objects\]'"):
        ss.open_store("s3://bucket/acts.zarr")


def test_a_bucket_that_is_not_there_is_named(make_url):
    make_url("moto")
    with pytest.raises(StoreError, match="the bucket s3://elsewhere does not exist: make it first"):
        ss.open_store("s3://elsewhere/acts.zarr")
    with pytest.raises(StoreError, match="the bucket s3://elsewhere does not exist: make it first"):
        open_folder("s3://elsewhere/acts.zarr").is_vacant()
    with pytest.raises(StoreError, match="the bucket s3://elsewhere does not exist: make it first"):
        open_folder("s3://elsewhere/acts.zarr").write("a", b"")


def test_a_place_without_a_store_is_named(make_url):
    url = make_url("moto")
    with pytest.raises(StoreError, match=rf"{url} does not exist: expected a folder that"):
        ss.open_store(url)
    open_folder(url).write("data.zarr/zarr.json", b"{}")
    with pytest.raises(StoreError, match=rf"{url} is not a stratascope store: expected"):
        ss.open_store(url)
    with pytest.raises(StoreError, match=rf"{url} exists and is not a stratascope store: nothing"):
        ss.record(make_model(), "", to=url)


def make_model():
    import torch

    return torch.nn.Linear(3, 2)


def test_a_key_that_opens_nothing_is_told(make_url, monkeypatch):
    url = make_url("SeaweedFS")
    open_folder(url).write("a", b"")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for ask in (lambda folder: folder.read("a"), lambda folder: folder.write("b", b"")):
        with pytest.raises(
            StoreError, match=r"activations refuses access \(.*\): set, .* AWS_ACCESS_KEY_ID"
        ):
            ask(open_folder(url))


def test_a_server_that_is_not_there_is_told(make_url, monkeypatch):
    url = make_url("moto")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(
            StoreError, match=r"activations cannot be asked \(.*127.0.0.1.*\): look at the network"
        ):
            ss.open_store(url)


def test_a_process_that_was_forked_is_told_to_be_another(make_url, monkeypatch):
    folder = open_folder(make_url("moto"))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(StoreError, match=r"opened before this process was forked.*spawn"):
        folder.read("a")
