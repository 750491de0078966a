"""A TCP proxy on the loopback that breaks connections as networks do.

    with proxy(server.port) as wire:
        wire.cut()

It runs in a thread of its own, so that it goes on while a test waits. A command has taken effect when it
returns.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Any, TypeVar

LOOPBACK = "127.0.0.1"
PATIENCE_SECONDS = 30
CHUNK = 65_536

T = TypeVar("T")


class Way(Enum):
    """A direction in which bytes go."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


class Proxy:
    """Forwards what comes to `port` to `target_port`, and back, until told otherwise."""

    def __init__(self, target_port: int, loop: asyncio.AbstractEventLoop) -> None:
        self._target_port = target_port
        self._loop = loop
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._delay_seconds = 0.0
        self._halve: Way | None = None
        self.port = 0
        self.accepted = 0
        """How many connections were accepted so far."""

    # -- commands -----------------------------------------------------------------------------------

    def cut(self) -> None:
        """Reset every connection; new ones are taken as before."""
        self._run(self._cut())

    def refuse(self) -> None:
        """Reset every connection and take no new ones, as if no server ran."""

        async def refuse() -> None:
            await self._stop_listening()
            await self._cut()

        self._run(refuse())

    def freeze(self) -> None:
        """Take connections and bytes, and forward nothing, as a machine that hangs."""

        async def freeze() -> None:
            self._flowing.clear()

        self._run(freeze())

    def delay(self, seconds: float) -> None:
        """Forward everything so much later, each way."""

        async def delay() -> None:
            self._delay_seconds = seconds

        self._run(delay())

    def halve(self, way: Way) -> None:
        """Of the next bytes that go this way forward the first half, then reset their connection. Once."""

        async def halve() -> None:
            self._halve = way

        self._run(halve())

    def heal(self) -> None:
        """Forward everything at once; also what was held back, on connections that still are."""
        self._run(self._heal())

    # -- inside the loop ----------------------------------------------------------------------------

    def _run(self, doing: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(PATIENCE_SECONDS)

    async def _heal(self) -> None:
        self._delay_seconds = 0.0
        self._halve = None
        self._flowing.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._serve, LOOPBACK, self.port, reuse_address=True, limit=CHUNK
            )
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _cut(self) -> None:
        for writer in self._writers:
            _reset(writer)

    async def _end(self) -> None:
        await self._stop_listening()
        await self._cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.accepted += 1
        try:
            their_reader, their_writer = await asyncio.open_connection(LOOPBACK, self._target_port)
            self._writers.add(their_writer)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(reader, their_writer, writer, Way.TO_SERVER))
                    both.create_task(self._pump(their_reader, writer, their_writer, Way.TO_CLIENT))
            finally:
                self._writers.discard(their_writer)
                their_writer.close()
        except* OSError:
            _reset(writer)
        except* asyncio.CancelledError:
            pass  # the proxy ends
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
        way: Way,
    ) -> None:
        while chunk := await reader.read(CHUNK):
            if self._delay_seconds:
                await asyncio.sleep(self._delay_seconds)
            await self._flowing.wait()
            if self._halve is way and len(chunk) > 1:
                self._halve = None
                writer.write(chunk[: len(chunk) // 2])
                await writer.drain()
                writer.close()
                _reset(back)
                return
            writer.write(chunk)
            await writer.drain()
        await self._flowing.wait()
        with suppress(OSError):
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """So that the other side sees an error and not the end of what was to be said."""
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()


@contextmanager
def proxy(target_port: int) -> Iterator[Proxy]:
    """A proxy before a server of this machine, which need not run yet."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="proxy")
    thread.start()
    try:
        made = asyncio.run_coroutine_threadsafe(_made(target_port, loop), loop).result(PATIENCE_SECONDS)
        made.heal()
        try:
            yield made
        finally:
            asyncio.run_coroutine_threadsafe(made._end(), loop).result(PATIENCE_SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_SECONDS)
        loop.close()


async def _made(target_port: int, loop: asyncio.AbstractEventLoop) -> Proxy:
    return Proxy(target_port, loop)
