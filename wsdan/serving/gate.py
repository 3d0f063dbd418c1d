"""What every request passes first: who may ask, how much, how long."""

import asyncio
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wsdan.serving.answers import refusal
from wsdan.serving.service import Service
from wsdan.serving.settings import BODIES, MEGABYTE, RefusedError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Gate:
    """An ASGI application around another: refuses what it should not see, and counts the rest.

    A web page elsewhere that rebinds its name to this machine's address sends its own name as Host,
    and one that sends a form here its own as Origin: both are refused. No CORS header is ever sent.
    """

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service
        self._held = 0  # bytes of bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = _secured(send)
        scope["deadline"] = asyncio.get_running_loop().time() + self.service.settings.timeout
        try:
            self._check(scope)
        except RefusedError as refused:
            await refusal(refused)(scope, receive, send)
            return
        body = _Body(self, scope["deadline"], receive)
        self.service.in_flight += 1
        try:
            await self.app(scope, body.receive, send)
        except asyncio.CancelledError:  # by the server, when its grace is over
            self.service.cut_off += 1
            stopping = RefusedError(503, "the server stopped before its answer", retry=5)
            await refusal(stopping)(scope, receive, send)
        finally:
            self.service.in_flight -= 1
            self._held -= body.received

    def _check(self, scope: Scope) -> None:
        """Raise RefusedError for a request that is refused by its headers."""
        headers, settings = Headers(scope=scope), self.service.settings
        host = headers.get("host", "")
        name = host_name(host)
        if settings.hosts is not None and name not in settings.hosts:
            raise RefusedError(
                403, "this Host is not served; --allow-host NAME of `wsdan serve` adds it"
            )
        if self.service.draining and scope["path"] != "/healthz":
            raise RefusedError(503, "the server is stopping", retry=5)
        if scope["method"] in ("GET", "HEAD"):
            return
        self._check_origin(headers, host)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > settings.max_upload:
            raise too_large(settings.max_upload)

    def _check_origin(self, headers: Headers, host: str) -> None:
        """A browser sends its page's address; other programs send none."""
        origin = headers.get("origin")
        if origin is None and headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            return
        own = origin is not None and origin.partition("://")[2].lower() == host.lower()
        hosts = self.service.settings.hosts or frozenset()
        if not own and host_name((origin or "").partition("://")[2]) not in hosts - LOOPBACK:
            raise RefusedError(403, "requests of other web pages are not answered")

    def hold(self, count: int) -> None:
        """Count the bytes of a body. Raises RefusedError where all bodies are too large."""
        if self._held + count > BODIES * self.service.settings.max_upload:
            raise RefusedError(429, "too many large requests at once; try again", retry=1)
        self._held += count


class _Body:
    """The body of one request, which must be small enough and arrive in time."""

    def __init__(self, gate: Gate, deadline: float, receive: Receive):
        self._gate, self._deadline, self._receive = gate, deadline, receive
        self.received, self._whole = 0, False

    async def receive(self) -> Message:
        """Raises RefusedError."""
        if self._whole:
            return await self._receive()  # http.disconnect, when it comes
        settings = self._gate.service.settings
        left = self._deadline - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0))
        except asyncio.TimeoutError:
            raise RefusedError(408, f"the upload took over {settings.timeout:g} s") from None
        count = len(message.get("body", b""))
        if self.received + count > settings.max_upload:
            raise too_large(settings.max_upload)
        self._gate.hold(count)
        self.received += count
        self._whole = not message.get("more_body", False)
        return message


def too_large(limit: int) -> RefusedError:
    return RefusedError(413, f"a request has at most {limit / MEGABYTE:g} MB")


def host_name(host: str) -> str:
    """The name of a Host header, without its port, in lower case; "" for one that is malformed."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _secured(send: Send) -> Send:
    """Adds the security headers to an answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
