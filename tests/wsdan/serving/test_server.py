"""A real server: many requests at once, slow clients, and how it ends."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from paths import ROOT
from served import photograph
from server_process import server

FILES = {"file": ("a.jpg", photograph((300, 200)))}


@pytest.fixture(scope="module")
def running(trained):
    with server(trained, "--max-upload", 1) as found:
        yield found


def test_200_requests_at_once_are_all_answered(running):
    _, address = running
    with httpx.Client(limits=httpx.Limits(max_connections=200), timeout=60) as client:

        def ask(number: int) -> tuple[int, str]:
            files = {"file": (f"{number}.jpg", FILES["file"][1])}
            answer = client.post(f"{address}predict", files=files)
            return answer.status_code, answer.json()["results"][0]["image"]

        with ThreadPoolExecutor(200) as threads:
            answers = list(threads.map(ask, range(200)))
    assert answers == [(200, f"{number}.jpg") for number in range(200)]
    assert httpx.get(f"{address}healthz").json()["queue"]["images"] == 0


def test_a_large_upload_is_refused_before_it_is_sent(running):
    where = urlsplit(running[1])
    with socket.create_connection((where.hostname, where.port), timeout=10) as client:
        client.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 2000000\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_commands_of_the_documentation_run(running, tmp_path):
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"^```sh\n(curl .*?)^```", text, re.DOTALL | re.MULTILINE)
    for name in ("photo.jpg", "other.png"):
        (tmp_path / name).write_bytes(FILES["file"][1])
    commands = commands.replace("http://127.0.0.1:8000/", running[1]).replace("curl ", "curl -sS ")
    done = subprocess.run(
        ["bash", "-ec", commands.replace("\ncurl", "\necho; curl").replace("\n(", "\necho; (")],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two, by_json, health = (json.loads(line) for line in done.stdout.splitlines())
    assert [len(answer["results"]) for answer in (one, two, by_json)] == [1, 2, 1]
    assert by_json["results"][0]["top"] == one["results"][0]["top"]
    assert health["ready"]


def slowly(address: str) -> socket.socket:
    """A request whose body has begun to arrive."""
    where = urlsplit(address)
    client = socket.create_connection((where.hostname, where.port), timeout=20)
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: 12\r\n\r\n".encode() + b'{"image"')
    while httpx.get(f"{address}healthz").json()["queue"]["images"] == 0:
        time.sleep(0.02)
    return client


def wait_for_the_end(address: str) -> None:
    """Until the server refuses new requests."""
    deadline = time.monotonic() + 10
    while httpx.get(f"{address}healthz").status_code != 503:
        assert time.monotonic() < deadline


def test_it_ends_after_what_is_in_flight_and_refuses_what_is_new(running):
    """The last of those that share a server."""
    process, address = running
    with slowly(address) as client:
        os.kill(process.pid, signal.SIGTERM)
        wait_for_the_end(address)
        refused = httpx.post(f"{address}predict", files=FILES)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        client.sendall(b":0 }")
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ")  # answered: 0 is no base64
        done = process.finish(timeout=20)
    assert done.returncode == 0
    assert done.stdout.endswith("wsdan: stopped\n") and done.stderr == ""


def headers_without_end(address: str) -> float:
    """Seconds until the connection of a client that never ends its headers is cut."""
    where = urlsplit(address)
    start = time.monotonic()
    with socket.create_connection((where.hostname, where.port), timeout=10) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\n")
        while time.monotonic() - start < 15:
            time.sleep(0.2)
            try:
                slow.sendall(b"X-More: x\r\n")
            except OSError:
                break
    return time.monotonic() - start


def test_slow_clients_are_cut_off_and_it_ends_within_its_grace(trained):
    with server(trained, "--grace", 0.1, "--timeout", 2.5) as (process, address):
        assert headers_without_end(address) < 10
        with slowly(address) as slow:
            assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")
        with slowly(address) as slow:
            os.kill(process.pid, signal.SIGINT)
            assert slow.recv(1000).startswith(b"HTTP/1.1 503 ")
            done = process.finish(timeout=20)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "1 requests unanswered" in done.stderr


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(trained):
    """Long before its grace is over."""
    with server(trained, "--grace", 300) as (process, address), slowly(address):
        os.kill(process.pid, signal.SIGTERM)
        wait_for_the_end(address)
        os.kill(process.pid, signal.SIGTERM)
        done = process.finish(timeout=30)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_the_pages_files_are_installed():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"wsdan.serving" = ["page/*"]' in text
    names = {path.name for path in Path(ROOT / "wsdan/serving/page").iterdir()}
    assert names == {"index.html", "docs.html", "style.css", "page.js", "docs.js", "icon.svg"}
