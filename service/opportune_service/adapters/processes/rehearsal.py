"""A rehearsal in a process of its own.

What it is told goes to its standard input, what it finds comes from its standard output: messages with
their length in four bytes before each. It ends when its input is cut off, so that none outlives the
service, and is killed when nobody wants to know any more. Its files are in a directory of their own, which
is removed with it.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress

import msgspec

from opportune_service.app.errors import NotReadyError
from opportune_service.app.rehearsal import End, Input, Opening, Output, Progress
from opportune_service.app.rehearse import decode_output, encode_input

log = logging.getLogger(__name__)

_LENGTH = struct.Struct(">I")
_SAY_EVERY_SECONDS = 1.0
_LIMIT = 4 << 20


async def rehearse_in_process(
    opening: Opening, inputs: AsyncIterator[Input]
) -> AsyncGenerator[Output, None]:
    """What the rehearsal says, and progress at least every second. Close it to kill the process.

    Raises what `inputs` raises, and `NotReadyError` if the process dies.
    """
    with tempfile.TemporaryDirectory(prefix="opportune-rehearsal-") as directory:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "opportune_service.rehearsing", directory),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LIMIT,
        )
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - pipes
        log.info("rehearsing in process %d", process.pid)
        said: asyncio.Queue[Output | None] = asyncio.Queue()
        tasks = [
            asyncio.create_task(_tell(process.stdin, opening, inputs)),
            asyncio.create_task(_listen(process.stdout, said)),
        ]
        try:
            async for output in _outputs(tasks[0], said, opening.total):
                yield output
        finally:
            for task in tasks:
                task.cancel()
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
            await asyncio.gather(*tasks, return_exceptions=True)
            await process.wait()


async def _outputs(
    telling: asyncio.Task[None], said: asyncio.Queue[Output | None], total: int
) -> AsyncIterator[Output]:
    began, progress = time.monotonic(), Progress(0, total, 0, 0)
    while True:
        try:
            async with asyncio.timeout(_SAY_EVERY_SECONDS):
                output = await said.get()
        except TimeoutError:
            output = progress
        if telling.done() and telling.exception() is not None:
            await telling  # the record cannot be read any more
        if output is None:
            raise NotReadyError("its process has ended before its time; the service's log may say why")
        if isinstance(output, Progress):
            progress = msgspec.structs.replace(output, elapsed_us=int((time.monotonic() - began) * 1e6))
            yield progress
            continue
        yield output
        return


async def _tell(writer: asyncio.StreamWriter, opening: Opening, inputs: AsyncIterator[Input]) -> None:
    try:
        _write(writer, opening)
        async for each in inputs:
            _write(writer, each)
            await writer.drain()
        _write(writer, End())
        await writer.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has ended, and has said why


def _write(writer: asyncio.StreamWriter, message: Input) -> None:
    data = encode_input(message)
    writer.write(_LENGTH.pack(len(data)) + data)


async def _listen(reader: asyncio.StreamReader, said: asyncio.Queue[Output | None]) -> None:
    with suppress(asyncio.IncompleteReadError):
        while True:
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            said.put_nowait(decode_output(await reader.readexactly(length)))
    said.put_nowait(None)
