"""Plain HTTP for whoever watches the service: `/metrics`, `/healthz` and `/readyz`.

It answers from a thread of its own, so that it can say that the service does not. What it says is read in
the service's event loop, where everything it reads lives.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, GCCollector, Metric, ProcessCollector, make_wsgi_app
from prometheus_client.registry import Collector

from opportune_service.adapters.metrics.catalogue import families
from opportune_service.adapters.metrics.watched import LEDGER_SECONDS, Watched, look
from opportune_service.app.calls import Calls

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

T = TypeVar("T")

_ALIVE_SECONDS = 5.0
"""How long the event loop may be busy before the process counts as stuck."""
_REQUEST_SECONDS = 10.0
"""How long a caller may take to send its request."""


class CannotListenError(Exception):
    """The address will not do; the message says what to change."""


class Monitor:
    """What is known of the service so far: nothing before `watch`. `port` is where it listens."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: tuple[Watched, Calls, Callable[[], str]] | None = None
        self.port = 0

    def watch(self, app: Watched, calls: Calls, not_ready: Callable[[], str]) -> None:
        """From now on show this one. `not_ready` says why it wants no calls, "" if it does."""
        self._watched = app, calls, not_ready

    def forget(self) -> None:
        """The service ends: it is not ready, and there is nothing to be read of it."""
        self._watched = None

    def answer(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """A request for a probe."""
        path = environ.get("PATH_INFO", "")
        if path == "/healthz":
            fault = self._ask(_nothing_wrong(), _ALIVE_SECONDS, "the event loop does not answer")
        elif path == "/readyz":
            fault = self._ask(self._not_ready(), _ALIVE_SECONDS, "the event loop does not answer")
        else:
            return _text(start, "404 Not Found", "try /metrics, /healthz or /readyz")
        return _text(start, "503 Service Unavailable" if fault else "200 OK", fault or "ok")

    def families(self) -> list[Metric]:
        """All metrics; none before there is a service."""
        return self._ask(self._families(), LEDGER_SECONDS + _ALIVE_SECONDS, [])

    async def _families(self) -> list[Metric]:
        return families(await look(*self._watched)) if self._watched else []

    async def _not_ready(self) -> str:
        return self._watched[2]() if self._watched else "the service is starting or has ended"

    def _ask(self, question: Coroutine[Any, Any, T], seconds: float, otherwise: T) -> T:
        """The answer of the service's event loop; `otherwise` if it gives none in time."""
        if self._loop.is_closed():
            question.close()
            return otherwise
        asked = asyncio.run_coroutine_threadsafe(question, self._loop)
        try:
            return asked.result(seconds)
        except (TimeoutError, CancelledError):
            asked.cancel()
            return otherwise


@asynccontextmanager
async def monitoring(address: str) -> AsyncIterator[Monitor]:
    """Answer at `address` (HOST:PORT; port 0 takes any free one) while the block runs; "": nowhere.

    Raises `CannotListenError`.
    """
    monitor = Monitor(asyncio.get_running_loop())
    if not address:
        yield monitor
        return
    server = _listen(address, _application(monitor))
    monitor.port = server.server_port
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True)
    thread.start()
    try:
        yield monitor
    finally:
        # Off the loop: a request that is being answered may be waiting for the loop.
        await asyncio.to_thread(server.shutdown)
        server.server_close()


async def _nothing_wrong() -> str:
    return ""


def _application(monitor: Monitor) -> WSGIApplication:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_Collector(monitor))
    metrics = make_wsgi_app(registry)

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") == "/metrics":
            page: Iterable[bytes] = metrics(environ, start)
            return page
        return monitor.answer(environ, start)

    return application


class _Collector(Collector):
    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterable[Metric]:
        return self._monitor.families()

    def describe(self) -> Iterable[Metric]:
        return ()  # or the registry would collect to find out


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        """As the base does it, but without asking the network what this machine is called."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class _ServerIPv6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """A line for each probe would hide all others."""

    def address_string(self) -> str:
        return str(self.client_address[0])


def _listen(address: str, application: WSGIApplication) -> WSGIServer:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    kind = _ServerIPv6 if ":" in host else _Server
    try:
        return make_server(host, int(port), application, kind, _Handler)
    except (OSError, ValueError, OverflowError) as error:
        raise CannotListenError(
            f"cannot listen for metrics on {address}: metrics_listen must be HOST:PORT of this machine, "
            "and free"
        ) from error


def _text(start: StartResponse, status: str, text: str) -> list[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")])
    return [f"{text}\n".encode()]
