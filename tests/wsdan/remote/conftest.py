"""An S3 API on loopback, behind a proxy that makes faults."""

import logging

import pytest
from stores import Proxy, serving


@pytest.fixture(scope="session")
def api():
    """The port of moto's server, with a bucket."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def s3(api, monkeypatch, tmp_path):
    """The proxy, through which s3:// goes; short pauses."""
    from s3fs import S3FileSystem

    from wsdan.remote import retries

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("WSDAN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(retries, "RETRIES", retries.Retries(attempts=5, first=0.01, seconds=60))
    proxy = Proxy(api)
    with serving(proxy) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        S3FileSystem.clear_instance_cache()
        system = S3FileSystem(skip_instance_cache=True)
        system.makedirs("bucket", exist_ok=True)
        for name in system.find("bucket"):
            system.rm_file(name)
        proxy.requests.clear()
        yield proxy
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def upload(s3):
    """Uploads a folder of this machine to an address of the bucket, which it returns."""

    def put(folder, name="data"):
        from s3fs import S3FileSystem

        system = S3FileSystem(skip_instance_cache=True)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                system.pipe_file(f"bucket/{name}/{path.relative_to(folder)}", path.read_bytes())
        s3.requests.clear()
        return f"s3://bucket/{name}"

    return put
