"""Who may ask, how much, and how long it may take."""

import asyncio
import json

import pytest
from served import photograph, posted, served, service_of

from wsdan.serving.app import build_app
from wsdan.serving.gate import LOOPBACK, host_name
from wsdan.serving.settings import BODIES

FILES = {"file": photograph()}


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1:1", 200), ("[::1]:8000", 200),
     ("localhost.", 200), ("evil.example", 403), ("localhost.evil.example", 403), ("", 403),
     ("[", 403), ("localhost@evil.example", 403), ("birds.example", 403)],
)  # fmt: skip
def test_a_loopback_service_answers_to_its_own_names_only(classifier, host, status):
    service = service_of(classifier, hosts=LOOPBACK)
    answer = posted(service, files=FILES, headers={"Host": host})
    assert answer.status_code == status
    if status == 403:
        assert "--allow-host" in answer.json()["error"]


def test_other_names_are_answered_where_they_are_allowed(classifier):
    headers = {"Host": "birds.example", "Origin": "https://birds.example"}
    service = service_of(classifier, hosts=LOOPBACK | {"birds.example"})
    assert posted(service, files=FILES, headers=headers).status_code == 200
    assert posted(service_of(classifier), files=FILES, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_web_pages_elsewhere_are_refused(classifier, headers, status):
    service = service_of(classifier, hosts=LOOPBACK)
    answer = posted(service, files=FILES, headers=headers)
    assert answer.status_code == status
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_no_preflight_is_granted(classifier):
    async def ask(client):
        headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        return await client.options("/predict", headers=headers)

    assert served(service_of(classifier), ask).status_code == 403


@pytest.mark.parametrize("path", ["/", "/docs", "/healthz", "/nothing", "/style.css"])
def test_every_answer_has_the_security_headers(classifier, path):
    async def ask(client):
        return await client.get(path)

    answer = served(service_of(classifier), ask)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def asked(service, messages, headers=(), seconds: float = 5):
    """The status and the JSON of an answer to a raw POST, and how many messages were received.

    messages: of the body; after the last one nothing comes.
    """
    sent, taken = [], 0
    scope = {
        "type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict",
        "query_string": b"", "headers": [(b"host", b"localhost"), *headers], "http_version": "1.1",
        "scheme": "http", "server": ("localhost", 80), "client": ("localhost", 1), "root_path": "",
        "asgi": {"version": "3.0"},
    }  # fmt: skip

    async def receive():
        nonlocal taken
        taken += 1
        if taken > len(messages):
            await asyncio.sleep(60)
        return {"type": "http.request", "body": messages[taken - 1], "more_body": True}

    async def send(message):
        sent.append(message)

    async def main():
        app = build_app(service)
        async with app.router.lifespan_context(app):
            await asyncio.wait_for(app(scope, receive, send), seconds)

    asyncio.run(main())
    return sent[0]["status"], json.loads(sent[1]["body"]), taken


JSON = (b"content-type", b"application/json")


def test_a_length_that_is_too_large_is_refused_before_the_body_is_read(classifier):
    service = service_of(classifier, max_upload=1000)
    status, answer, taken = asked(service, [], [JSON, (b"content-length", b"1001")])
    assert (status, taken) == (413, 0)
    assert answer == {"error": "a request has at most 0.000953674 MB"}
    assert asked(service, [], [JSON, (b"content-length", b"9" * 5000)])[0] == 413


def test_a_body_without_a_length_is_read_up_to_the_limit(classifier):
    service = service_of(classifier, max_upload=1000)
    status, _, taken = asked(service, [b"x" * 300] * 9, [JSON])
    assert (status, taken) == (413, 4)
    assert service.slots.taken == 0


def test_a_slow_upload_is_408(classifier):
    service = service_of(classifier, timeout=0.1)
    status, answer, _ = asked(service, [b"{"], [JSON])
    assert (status, answer) == (408, {"error": "the upload took over 0.1 s"})
    assert service.slots.taken == 0


def test_bodies_together_are_bounded(classifier):
    service = service_of(classifier, max_upload=1000)
    part = b"x" * 1000

    async def main():
        app = build_app(service)
        gate_answers = []

        async def one():
            first = True

            async def receive():
                nonlocal first
                if first:
                    first = False
                    return {"type": "http.request", "body": part, "more_body": True}
                await asyncio.sleep(0.2)
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(message):
                if message["type"] == "http.response.start":
                    gate_answers.append(message["status"])

            scope = {
                "type": "http", "method": "POST", "path": "/predict", "query_string": b"",
                "headers": [(b"host", b"localhost"), JSON], "http_version": "1.1", "root_path": "",
                "raw_path": b"/predict", "scheme": "http", "server": ("localhost", 80),
                "client": ("localhost", 1), "asgi": {"version": "3.0"},
            }  # fmt: skip
            await app(scope, receive, send)

        async with app.router.lifespan_context(app):
            await asyncio.gather(*(one() for _ in range(BODIES + 2)))
            await asyncio.gather(one())
        return gate_answers

    answers = asyncio.run(main())
    assert sorted(answers) == [400] * (BODIES + 1) + [429] * 2  # 400: it is no JSON


def test_while_it_stops_new_requests_are_503(classifier):
    service = service_of(classifier)
    service.draining = True
    answer = posted(service, files=FILES)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"

    async def ask(client):
        return await client.get("/healthz"), await client.get("/")

    health, page = served(service, ask)
    assert (health.status_code, health.json()["ready"], page.status_code) == (503, False, 503)


def test_host_names():
    assert host_name("A.example:80") == "a.example"
    assert host_name("[::1]:80") == "::1"
    assert host_name("") == host_name("[") == ""
