"""The process of a rehearsal, and what it is put together of: `python -m opportune_service.rehearsing DIR`.

It reads messages from standard input and writes messages to standard output, each with its length in four
bytes before it, and ends at once when its input is cut off. Its files are in DIR, which it removes. Nothing
of the service that started it is open to it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from opportune_rulebase.errors import RulebaseError
from opportune_rulebase.model import Rulebase

from opportune_service.adapters.memory.live_state import MemoryLiveState
from opportune_service.adapters.sql.scratch import ScratchLedger
from opportune_service.app.errors import OpportuneError
from opportune_service.app.ingest import Ingest
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.records import Pause
from opportune_service.app.recover import Recovered
from opportune_service.app.rehearsal import End, Failure, Input, Opening, Output
from opportune_service.app.rehearsal_stage import Stage
from opportune_service.app.rehearse import decode_input, encode_output, rehearse
from opportune_service.app.revisions import LiveRevision
from opportune_service.app.schedule import Schedule
from opportune_service.bootstrap import engine_factory, run_process
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Due
from opportune_service.core.observe import forget
from opportune_service.core.watermarks import Watermarks
from opportune_service.settings import EngineName

_NICE = 15
"""What serves comes first."""

_READY_SUBSCRIBERS = 50_000
_LIMIT = 4 << 20
"""Bytes that wait to be worked on: whoever sends more waits."""

_LENGTH = struct.Struct(">I")


@asynccontextmanager
async def make_stage(
    rulebase: Rulebase, opening: Opening, name: str, directory: Path | None = None
) -> AsyncIterator[Stage]:
    """A pipeline with everything of its own: state in memory, a ledger in `directory` (None: in memory)."""
    make_engine = engine_factory(EngineName(opening.engine))
    clock, live = ManualClock(opening.covered_us), LiveRevision()
    states = MemoryLiveState(
        _READY_SUBSCRIBERS, tidy=lambda state: forget(state, live.current) if live.id else None
    )
    thread = LedgerThread()
    try:
        url = f"sqlite:///{directory / name}.db" if directory else "sqlite://"
        ledger = await thread.run(ScratchLedger.open, url)
        await thread.run(ledger.keep_to_this_thread)
        await thread.run(_pause, ledger, opening)
        try:
            ingest = Ingest(
                *(live, states, ledger, thread, clock, make_engine, Recovered(Watermarks(0))),
                on_verdicts=lambda verdicts: stage.hear(verdicts),  # noqa: PLW0108 - made below
            )

            async def settle(dues: Sequence[Due]) -> object:
                return await ingest.settle_due(dues, at_due_time=opening.own_time)

            stage = Stage(
                *(rulebase, make_engine, live, states, thread, ledger.remember, ingest),
                Schedule(live, states, ledger, thread, clock, settle),
                clock,
                own_time=opening.own_time,
            )
            pipeline = asyncio.create_task(ingest.run())
            try:
                yield stage
            finally:
                pipeline.cancel()  # nothing is to be kept
                await asyncio.gather(pipeline, return_exceptions=True)
                if live.id:
                    live.current.close()
        finally:
            await thread.run(ledger.close)
    finally:
        thread.close()


def _pause(ledger: ScratchLedger, opening: Opening) -> None:
    with ledger.transaction() as tx:
        for campaign in opening.paused:
            tx.pause(Pause(campaign, opening.covered_us, "", ""))


async def rehearse_in(
    opening: Opening, inputs: AsyncIterator[Input], directory: Path | None = None
) -> AsyncGenerator[Output, None]:
    """Rehearse in this process; see `rehearse`."""
    outputs = rehearse(opening, inputs, partial(make_stage, directory=directory))
    async with aclosing(outputs):
        async for output in outputs:
            yield output


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[Input]:
    """Up to the end that is told. Raises `IncompleteReadError` where the input is cut off."""
    while True:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        message = decode_input(await reader.readexactly(length))
        if isinstance(message, End):
            return
        yield message


async def _main(directory: Path) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(_LIMIT)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    inputs = _messages(reader)
    opening = await anext(inputs, None)
    if not isinstance(opening, Opening):
        return
    try:
        async for output in rehearse_in(opening, inputs, directory):
            _say(output)
    except RulebaseError as error:
        _say(Failure(f"this version no longer takes one of the rulebases: {error.problems[0].message}"))
    except OpportuneError as error:
        _say(Failure(str(error)))


def _say(output: Output) -> None:
    message = encode_output(output)
    sys.stdout.buffer.write(_LENGTH.pack(len(message)) + message)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    os.nice(_NICE)
    private = Path(sys.argv[1])
    try:
        # Whoever started it has gone, or does not want to know any more.
        with suppress(asyncio.IncompleteReadError, BrokenPipeError):
            run_process(_main(private))
    finally:
        shutil.rmtree(private, ignore_errors=True)
