"""Servers that speak S3, on this machine and for as long as something needs them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret"}
BUCKET = "activations"
_PORTS = [
    f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")
]
_WEED = Path(sys.executable).parent / "weed"


@contextlib.contextmanager
def moto(folder: Path) -> Generator[str]:
    """Run moto's server in this process; give its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextlib.contextmanager
def seaweedfs(folder: Path) -> Generator[str]:
    """Run SeaweedFS, with all that it keeps in a folder; give the address of its S3 gateway."""
    ports = dict(zip(_PORTS, _find_ports(len(_PORTS)), strict=True))
    command = [
        *(_WEED, "-alsologtostderr=false", f"-logdir={folder}", "server", f"-dir={folder}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-s3.autoCreateBucket=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
        *("-master.volumeSizeLimitMB=64", "-volume.max=64"),
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    said = (folder / "said").open("wb")
    process = subprocess.Popen(
        command, env={**os.environ, **KEYS}, stdout=said, stderr=subprocess.STDOUT
    )
    try:
        address = f"http://127.0.0.1:{ports['s3.port']}"
        _await(f"{address}/healthz", process)
        yield address
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        said.close()


@contextlib.contextmanager
def google(folder: Path) -> Generator[str]:
    """Run moto's server behind a translation of what Google's interface for XML names otherwise."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    amazon = DomainDispatcherApplication(create_backend_app)

    def translate(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        if environ.pop("HTTP_X_GOOG_IF_GENERATION_MATCH", None) == "0":
            environ["HTTP_IF_NONE_MATCH"] = "*"
        for name in [name for name in environ if name.startswith("HTTP_X_GOOG_META_")]:
            environ[name.replace("X_GOOG", "X_AMZ")] = environ.pop(name)
        environ["HTTP_AUTHORIZATION"] = (
            "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, "
            "SignedHeaders=host, Signature=none"
        )

        def answer(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            named = [(name.lower().replace("x-amz-meta", "x-goog-meta"), v) for name, v in headers]
            return start(status, named, *more)

        return amazon(environ, answer)

    server = make_server("127.0.0.1", 0, translate, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


SERVERS = {"moto": moto, "SeaweedFS": seaweedfs}
ALL = {**SERVERS, "Google": google}


def connect(address: str) -> Any:
    """Give a client that makes buckets and looks into them."""
    import boto3

    keys = {name.lower(): value for name, value in KEYS.items()}
    return boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys)


def _find_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _await(address: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(address, timeout=5).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"the server ended with {process.returncode}")


def tree(client: Any, url: str) -> dict[str, bytes]:
    """Read every object of a store with Amazon's own client, by its place in the store."""
    prefix = url.removeprefix(f"s3://{BUCKET}/") + "/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
    return {key.removeprefix(prefix): read(client, key) for key in keys}


def read(client: Any, key: str) -> bytes:
    """Read an object."""
    return client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
