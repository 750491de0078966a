"""The ceiling that ingest is held against: what any durable ingest must do, and no more.

It decodes every batch, reads every field of every event, decodes the attributes, appends one compressed
row to SQLite (WAL, synchronous=FULL) and acknowledges after the commit. No rules, no state, no decisions.
Like the service, it commits in a thread what has come meanwhile, together.
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
import zlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import msgspec
from opportune.v1 import event_service_pb2 as pb

WINDOW = 32


def open_store(path: str) -> sqlite3.Connection:
    store = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    store.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE log (payload BLOB)")
    return store


class Ceiling:
    """`EventService.StreamEvents` without a service behind it."""

    def __init__(self, store: sqlite3.Connection) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.json.Decoder(dict[str, Any]).decode

    async def stream(self, requests: AsyncIterator[pb.StreamEventsRequest], context: Any) -> None:
        await anext(requests)
        welcome = pb.EventStreamWelcome(max_batches_in_flight=WINDOW, max_batch_size=1_000)
        await context.write(pb.StreamEventsResponse(welcome=welcome))
        waiting: asyncio.Queue[tuple[int, list[tuple[object, ...]]] | None] = asyncio.Queue(WINDOW)
        committing = asyncio.create_task(self._commit_all(waiting, context))
        async for request in requests:
            batch = request.batch
            await waiting.put((batch.number, [self._read(event) for event in batch.events]))
        await waiting.put(None)
        await committing

    def _read(self, event: pb.Event) -> tuple[object, ...]:
        at = event.occurred_at
        attributes = event.attributes
        self._decode(attributes)
        at_us = at.seconds * 1_000_000 + at.nanos // 1_000
        return event.id, event.subscriber_id, event.type, at_us, attributes, event.cell_id, event.imei

    async def _commit_all(self, waiting: asyncio.Queue[Any], context: Any) -> None:
        loop = asyncio.get_running_loop()
        while (first := await waiting.get()) is not None:
            group = [first]
            while not waiting.empty() and len(group) < 4:
                following = waiting.get_nowait()
                if following is None:
                    waiting.put_nowait(None)
                    break
                group.append(following)
            await loop.run_in_executor(self._thread, self._commit, [events for _, events in group])
            ack = pb.EventStreamAck(acked_number=group[-1][0], max_batches_in_flight=WINDOW)
            await context.write(pb.StreamEventsResponse(ack=ack))

    def _commit(self, batches: list[list[tuple[object, ...]]]) -> None:
        rows = [(zlib.compress(self._encode(events), 1),) for events in batches]
        self._store.execute("BEGIN IMMEDIATE")
        self._store.executemany("INSERT INTO log VALUES (?)", rows)
        self._store.execute("COMMIT")


async def main(path: str) -> None:
    ceiling = Ceiling(open_store(path))
    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(
        ceiling.stream, pb.StreamEventsRequest.FromString, pb.StreamEventsResponse.SerializeToString
    )
    handlers = grpc.method_handlers_generic_handler("opportune.v1.EventService", {"StreamEvents": handler})
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await stopping.wait()
    await server.stop(None)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1]))
