"""An S3 API on loopback, behind a proxy that makes faults: one of each for all tests."""

import logging

import pytest
from stores import Proxy, serving


@pytest.fixture(scope="session")
def bucket():
    """A proxy before moto's server. `s3` is the one to use."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    proxy = Proxy(server.get_host_and_port()[1])
    with serving(proxy):
        yield proxy
    server.stop()


@pytest.fixture
def s3(bucket, monkeypatch, tmp_path):
    """The proxy, through which s3:// goes; an empty bucket; short pauses.

    File systems are kept from test to test: a client takes long to make.
    """
    from wsdan.remote import retries

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.url)
    monkeypatch.setenv("WSDAN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(retries, "RETRIES", retries.Retries(attempts=5, first=0.01, seconds=60))
    bucket.ask("POST", "/moto-api/reset")
    bucket.ask("PUT", "/bucket")
    bucket.faults, bucket.down, bucket.requests = [], None, []
    return bucket


@pytest.fixture
def upload(s3):
    """Uploads a folder of this machine to an address of the bucket, which it returns."""

    def put(folder, name="data"):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                s3.put(f"{name}/{path.relative_to(folder)}", path.read_bytes())
        return f"s3://bucket/{name}"

    return put
