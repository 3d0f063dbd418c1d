"""A web server on a socket of its own, which ends when it is told to, after what is in flight."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from wsdan.errors import UserError
from wsdan.output import print_if_possible
from wsdan.serving.service import Service

KEEP_ALIVE = 5  # seconds that a connection without a request stays open
STOPS = (signal.SIGINT, signal.SIGTERM)


def bound_socket(host: str, port: int, timeout: float) -> socket.socket:
    """A socket that is bound and does not listen yet; port 0 is a free one.

    timeout: seconds after which a connection whose client does not read is cut, where the system
    can do so. Raises UserError for an address that cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--host {host}: no such address: {reason}") from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = int(min(timeout * 1000, 2**31 - 1))
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        found.bind(address)
    except OSError as error:
        found.close()
        raise UserError(
            f"--port {port}: cannot listen on {host}: {error.strerror}; --port 0 takes a free port"
        ) from None
    return found


def address_of(bound: socket.socket) -> str:
    """The address of a bound socket as a browser takes it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class _Protocol(H11Protocol):
    """Cuts a connection whose headers do not arrive in time, or that goes on sending after its
    answer; a body in between is bounded by the Gate."""

    seconds = 60.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._disarm()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(self.seconds, self.transport.abort)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Server(uvicorn.Server):
    """Says its address when it listens. After SIGTERM or SIGINT new requests are refused, those in
    flight end, then the server does; after a second signal, or `grace` seconds, at once."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self._service = service
        self._draining: asyncio.Task | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for bound in sockets or []:
            print_if_possible(f"serving on {address_of(bound)} (Ctrl+C stops it)")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in STOPS:
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in STOPS:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        if self._service.draining:
            self.should_exit = True  # its tasks are cancelled after a second
            return
        self._service.draining = True
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._service.settings.grace
        while self._service.in_flight and loop.time() < end:
            await asyncio.sleep(0.02)
        self.should_exit = True


def serve(app: FastAPI, service: Service, bound: socket.socket, *, access_log: bool) -> int:
    """Serve until a signal. Returns the exit status: 1 if requests were cut off, else 0."""
    if access_log:
        log = logging.getLogger("uvicorn.access")
        log.addHandler(logging.StreamHandler(sys.stderr))
        log.setLevel(logging.INFO)
    timeout = service.settings.timeout
    config = uvicorn.Config(
        app,
        http=type("_Protocol", (_Protocol,), {"seconds": timeout}),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=access_log,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=1,
    )
    _Server(config, service).run(sockets=[bound])
    left = service.cut_off + service.in_flight
    if left:
        print_if_possible(f"wsdan: stopped with {left} requests unanswered", error=True)
        os._exit(1)  # threads that still compute for them would be waited for
    print_if_possible("wsdan: stopped")
    return 0
