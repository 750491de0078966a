"""`opportune serve --workers N`: equal processes of the service on one port of one machine, and who looks
after them.

The kernel shares out connections among those who listen on the port (SO_REUSEPORT). A worker is the same
command again with `--worker`: it has the settings from its environment, says on standard output when it is
ready, and ends when its standard input does: so no worker outlives a supervisor that was killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import typer

from opportune_service.adapters.grpc.server import CannotServeError
from opportune_service.app.errors import InvalidRequestError
from opportune_service.settings import PREFIX, Settings

log = logging.getLogger(__name__)

READY: Final = "listening on "
"""How the line begins that a service says when it is ready."""

_LEAST_PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 0.5, 30.0
_LONG_SECONDS = 60.0
"""A worker that has lived so long did not end because of how it is set up: it is started again at once."""

_CLOSING_SECONDS = 60.0
"""How long a worker may take to finish, besides the times that settings give it."""

_STDIN = 0
_KILLED = 128
"""What shells add to the number of a signal that ended a process."""


def supervise(settings: Settings, given: Mapping[str, object], options: list[str], count: int) -> int:
    """Run so many workers until SIGTERM or SIGINT, which is passed on; the worst of their exit codes then.
    `given`: the settings of the command line; `options`: its other options.

    Raises `InvalidRequestError` for settings that more than one process cannot share, `CannotServeError`
    when the address is not to be had.
    """
    if not settings.live_state or not settings.database.startswith("postgresql"):
        raise InvalidRequestError(
            "workers",
            "several workers share their stores: set database to PostgreSQL (postgresql://HOST/NAME) and "
            "live_state to Redis (redis://HOST:6379)",
        )
    with ExitStack() as stack:
        address = _reserve(settings.listen, stack)
        supervisor = _Supervisor(settings, {**given, "listen": address}, options, count)
        return asyncio.run(supervisor.run(lambda: typer.echo(f"{READY}{address}")))


def end_with_supervisor(settings: Settings) -> None:
    """In a worker: when the supervisor is gone, end as on SIGTERM; at once, if that takes too long."""

    def watch() -> None:
        # Not by sys.stdin: Python could not end while a thread waits in it.
        while os.read(_STDIN, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_patience_seconds(settings))
        os._exit(1)

    threading.Thread(target=watch, name="supervisor", daemon=True).start()


def metrics_address(address: str, worker: int) -> str:
    """Where a worker shows its metrics: each at a port of its own, one after the other."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + worker}" if port.isdecimal() and int(port) else address


def _patience_seconds(settings: Settings) -> float:
    return settings.leave_seconds + settings.drain_seconds + _CLOSING_SECONDS


def _reserve(address: str, stack: ExitStack) -> str:
    """The address, with a real port in place of 0, which is ours until the end."""
    host, _, port_text = address.rpartition(":")
    try:
        port = int(port_text)
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, place in found:
            with socket.socket(family, kind, protocol) as probe:
                # Fails if anybody listens there, a supervisor of another service included.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((place[0], port, *place[2:]))
                port = probe.getsockname()[1]
            held = stack.enter_context(socket.socket(family, kind, protocol))
            # Connections of a service that was here before may be closing still.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind((place[0], port, *place[2:]))
    except (OSError, ValueError, OverflowError) as error:
        raise CannotServeError(
            f"cannot listen on {address}: the address must be HOST:PORT of this machine, and free"
        ) from error
    return f"{host}:{port}"


class _Supervisor:
    def __init__(
        self, settings: Settings, given: Mapping[str, object], options: list[str], count: int
    ) -> None:
        self._settings = settings
        self._given = given
        self._options = options
        self._count = count
        self._stopping = asyncio.Event()
        self._running: dict[int, Process] = {}
        self._codes: list[int] = []

    async def run(self, ready: Callable[[], None]) -> int:
        """Calls `ready` once, when all are."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        # The first alone: it makes the tables and activates the rulebase, which the others then find.
        first, others = asyncio.Event(), [asyncio.Event() for _ in range(1, self._count)]
        keeping = [asyncio.create_task(self._keep(0, first))]
        if await self._come(first):
            keeping += [
                asyncio.create_task(self._keep(n, event)) for n, event in enumerate(others, start=1)
            ]
            if all([await self._come(event) for event in others]):
                ready()
        await self._stopping.wait()
        for process in self._running.values():
            _send(process, signal.SIGTERM)
        done, late = await asyncio.wait(keeping, timeout=_patience_seconds(self._settings))
        if late:
            log.error("%d workers do not end; killing them", len(late))
            for process in self._running.values():
                _send(process, signal.SIGKILL)
            await asyncio.wait(late)
        for task in done | late:
            task.result()
        return max(self._codes, default=0)

    async def _come(self, event: asyncio.Event) -> bool:
        """Wait for an event; False if the end came first."""
        waiting = {asyncio.create_task(event.wait()), asyncio.create_task(self._stopping.wait())}
        _, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        return event.is_set()

    async def _keep(self, worker: int, ready: asyncio.Event) -> None:
        """Have a worker running until the end. One that ends before it is ready for the first time ends
        everything: it cannot be started as it is set up, and has said why."""
        pause = _LEAST_PAUSE_SECONDS
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._run_once(worker, ready)
            if self._stopping.is_set() or not ready.is_set():
                self._codes.append(code)
                self._stopping.set()
                return
            pause = _LEAST_PAUSE_SECONDS if time.monotonic() - began > _LONG_SECONDS else pause
            log.error("worker %d ended with %d; starting it again in %g s", worker, code, pause)
            if await self._stopped_within(pause):
                return
            pause = min(2 * pause, _MOST_PAUSE_SECONDS)

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def _run_once(self, worker: int, ready: asyncio.Event) -> int:
        """Its exit code, as a shell would tell it."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "opportune_service.cli", "serve", "--worker", str(worker)),
            *self._options,
            stdin=PIPE,
            stdout=PIPE,
            env=self._environment(worker),
            process_group=0,  # Ctrl-C is for the supervisor, which passes it on
        )
        self._running[worker] = process
        if self._stopping.is_set():
            _send(process, signal.SIGTERM)
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        async for line in process.stdout:
            if line.startswith(READY.encode()):
                log.info("worker %d is ready: process %d", worker, process.pid)
                ready.set()
        code = await process.wait()
        del self._running[worker]
        return code if code >= 0 else _KILLED - code

    def _environment(self, worker: int) -> dict[str, str]:
        settings = dict(self._given)
        if self._settings.metrics_listen:
            settings["metrics_listen"] = metrics_address(self._settings.metrics_listen, worker)
        if worker:
            settings["watch"] = False  # one is enough
        named = {f"{PREFIX}{name.upper()}": _text(value) for name, value in settings.items()}
        return {**os.environ, **named}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value.absolute()) if isinstance(value, Path) else str(value)


def _send(process: Process, number: signal.Signals) -> None:
    if process.returncode is None:
        process.send_signal(number)
