"""Places for stores in buckets, for whichever test asks for one."""

import contextlib
import json
import multiprocessing
import os
import uuid

import pytest

import buckets


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    """Give what starts a server of a name with a bucket, or recalls it, and tells its address."""
    started = {}
    with contextlib.ExitStack() as stack:

        def find(name):
            if name not in started:
                folder = tmp_path_factory.mktemp(name)
                started[name] = stack.enter_context(buckets.ALL[name](folder))
                client = buckets.connect(started[name])
                client.create_bucket(Bucket=buckets.BUCKET)
                # The first object makes room, which takes its time.
                client.put_object(Bucket=buckets.BUCKET, Key="first", Body=b"first")
            return started[name]

        yield find


@pytest.fixture
def make_url(servers, monkeypatch):
    """Give what finds a place of its own on a server, and has the environment lead there."""

    def make(server):
        if server == "Google":
            account = {"gcs_base_url": servers(server), "disable_oauth": True}
            rest = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
            monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps({**account, **rest}))
            unencrypted = "stratascope.store._bucket._client_options"
            monkeypatch.setattr(unencrypted, lambda: {"allow_http": True})
            return f"gs://{buckets.BUCKET}/{uuid.uuid4().hex[:12]}/acts.zarr"
        known = {**buckets.KEYS, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": servers(server)}
        for variable, value in known.items():
            monkeypatch.setenv(variable, value)
        return f"s3://{buckets.BUCKET}/{uuid.uuid4().hex[:12]}/acts.zarr"

    return make


@pytest.fixture
def url(request, make_url):
    """Give a place for a store on the server of a test's parameters, or on SeaweedFS."""
    return make_url(getattr(request, "param", "SeaweedFS"))


@pytest.fixture
def client(url):
    """Look into the bucket with Amazon's own client."""
    return buckets.connect(os.environ["AWS_ENDPOINT_URL"])


@pytest.fixture
def quick_workers(monkeypatch):
    """Have new processes forked from one that has loaded PyTorch and nothing else begun there."""
    quick = multiprocessing.get_context("forkserver")
    packages = ["torch", "deepwave", "stratascope.pipeline", "stratascope.diagnose"]
    quick.set_forkserver_preload(packages)
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: quick)
