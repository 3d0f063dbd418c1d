"""wsdan serve: its options, and what stands in its way, in one line before the model is loaded."""

import importlib.util
import socket

import pytest
from runs import refused

from wsdan.cli import main
from wsdan.serving import server
from wsdan.serving.gate import LOOPBACK


@pytest.fixture
def taken():
    """A port that another program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found.getsockname()[1]


def test_a_port_in_use_is_told_before_the_checkpoint_is_read(taken, tmp_path, capsys):
    (tmp_path / "a.pt").write_bytes(b"no checkpoint")
    text = refused(capsys, "serve", "--checkpoint", tmp_path / "a.pt", "--port", taken)
    assert text == (
        f"wsdan: error: --port {taken}: cannot listen on 127.0.0.1: Address already in use; "
        "--port 0 takes a free port\n"
    )


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "python_multipart"])
def test_a_missing_extra_is_one_line(package, trained, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == package else find(name, *a)
    )
    text = refused(capsys, "serve", "--checkpoint", trained)
    assert text == f"wsdan: error: wsdan serve needs {package}; pip install 'wsdan[serve]'\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--port", "65536"], "--port must be in [0, 65535]; got 65536"),
        (["--max-batch", "0"], "--max-batch must be in [1, 1024]; got 0"),
        (["--max-wait", "nan"], "--max-wait must be in [0, 1000]; got nan"),
        (["--queue", "0"], "--queue must be in [1, 1e+06]; got 0"),
        (["--max-upload", "0"], "--max-upload must be in [0.001, 4096]; got 0.0"),
        (["--timeout", "inf"], "--timeout must be in [0.1, 86400]; got inf"),
        (["--grace", "-1"], "--grace must be in [0, 86400]; got -1.0"),
        (["--host", "no such host"], "--host no such host: no such address"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1"),
        (["--allow-host", "a.example:80"], "--allow-host a.example:80: a host name, without port"),
        (["--max-pixels", "0"], "--max-pixels must be at least 1; got 0"),
    ],
)
def test_mistakes_are_one_line(arguments, text, trained, capsys):
    assert text in refused(capsys, "serve", "--checkpoint", trained, "--port", "0", *arguments)


def started(monkeypatch, *arguments) -> list:
    """What `server.serve` was called with."""
    calls = []

    def serve(app, service, bound, *, access_log):
        calls.append((service, bound.getsockname(), access_log))
        return 0

    monkeypatch.setattr(server, "serve", serve)
    assert main(["serve", "--port", "0", *map(str, arguments)]) == 0
    return calls[0]


def test_it_listens_on_this_machine_alone_unless_told(trained, monkeypatch):
    service, address, log = started(monkeypatch, "--checkpoint", trained)
    assert address[0] == "127.0.0.1" and service.ready and not log
    assert service.settings.hosts == LOOPBACK


def test_options_become_settings(trained, monkeypatch):
    service, address, log = started(
        monkeypatch, "--checkpoint", trained, "--host", "0.0.0.0", "--max-batch", 3, "--max-wait",
        20, "--queue", 9, "--max-upload", 2, "--timeout", 7, "--grace", 4, "--access-log",
        "--refine-threshold", 0.3, "--max-pixels", 99,
    )  # fmt: skip
    assert address[0] == "0.0.0.0" and log
    settings = service.settings
    assert (settings.max_batch, settings.max_wait, settings.queue) == (3, 0.02, 9)
    assert (settings.max_upload, settings.timeout, settings.grace) == (2**21, 7, 4)
    assert settings.hosts is None
    config = service.classifier.config
    assert (config.refine_threshold, config.max_pixels) == (0.3, 99)


def test_a_host_that_is_allowed_bounds_a_public_service(trained, monkeypatch):
    arguments = ["--checkpoint", trained, "--allow-host", "Birds.example"]
    service, *_ = started(monkeypatch, *arguments, "--host", "0.0.0.0")
    assert service.settings.hosts == {"birds.example"}
    service, *_ = started(monkeypatch, *arguments)
    assert service.settings.hosts == LOOPBACK | {"birds.example"}
