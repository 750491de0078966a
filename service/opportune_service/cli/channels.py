"""`opportune smpp` and `opportune interface-files`: channel clients that are ready to run."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer
from opportune_client import (
    AsyncChannelClient,
    ChannelClient,
    Event,
    EventCollector,
    OutcomeKind,
    connect_async,
)
from opportune_client.interface_files import InterfaceFiles

from opportune_service.cli.connection import connected
from opportune_service.cli.options import DEFAULT_TARGET, TargetOption
from opportune_service.cli.terminal import ExitCode, out, stop

_PASSWORD_VARIABLE = "OPPORTUNE_SMPP_PASSWORD"  # noqa: S105 - where it is, not what it is

_REPLY_SECONDS = 5.0
"""How long the SMS centre waits for the service to take in a reply."""

ChannelArgument = Annotated[str, typer.Argument(metavar="CHANNEL", help="A channel of the rulebase.")]


def smpp_command(
    channel: ChannelArgument,
    host: Annotated[str, typer.Option(help="The SMS centre.")],
    system_id: Annotated[str, typer.Option(help="The name that the SMS centre knows us by.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Its port.")] = 2775,
    sender: Annotated[str, typer.Option(metavar="NUMBER", help="Number or name that customers see.")] = "",
    replies: Annotated[
        str,
        typer.Option(metavar="EVENT", help="Publish what customers write back as events of this type."),
    ] = "",
    credit: Annotated[int, typer.Option(min=1, max=1000, help="The most messages at once.")] = 64,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Send what is decided for a channel through an SMS centre, over SMPP 3.4. Runs until Ctrl-C.

    The password is read from the variable OPPORTUNE_SMPP_PASSWORD. Delivery receipts are reported as
    outcomes. With --replies, what customers write back becomes events with the attributes `text` and
    `channel`, which the rulebase's `replies` understand. Needs: pip install 'opportune[smpp]'.

    Example: opportune smpp sms --host smsc.example --system-id opportune --sender 10086
    """
    password = os.environ.get(_PASSWORD_VARIABLE)
    if password is None:
        stop(ExitCode.USAGE, f"Set {_PASSWORD_VARIABLE} to the password of {system_id!r}.")
    try:
        # Imported here: it is an extra of its own.
        from opportune_client.smpp import SmppGateway  # noqa: PLC0415
    except ImportError:
        stop(ExitCode.NO, "SMPP is not installed; install it with: pip install 'opportune[smpp]'")
    told = _told()
    with ExitStack() as stack:
        service = stack.enter_context(connected(target))
        on_reply = None
        if replies:
            collector = stack.enter_context(EventCollector(service, f"smpp-{channel}"))
            on_reply = _publisher(collector, replies, channel)
        # Given at once: a centre sends the replies that it has kept as soon as it is bound.
        gateway = stack.enter_context(
            SmppGateway(host, port, system_id, password, source=sender, on_reply=on_reply)
        )
        out().print(f"{channel}: connecting to {host}:{port}. Ctrl-C ends it.", markup=False)
        while not gateway.wait_bound(0.5):  # until then, taking messages would only use up their attempts
            if told.is_set():
                return
        client = stack.enter_context(
            ChannelClient(service, channel, gateway, client_name=f"smpp-{os.getpid()}", credit=credit)
        )
        gateway.on_delivered = lambda decision_id: client.receipt(decision_id, OutcomeKind.DELIVERED)
        out().print(f"{channel}: sending through {host}:{port}.", markup=False)
        while not told.wait(0.5):
            client.wait(0)  # raises if it cannot go on
        out().print(_counted(client.counters), markup=False)


def _publisher(collector: EventCollector, event_type: str, channel: str) -> Callable[[str, str], None]:
    def publish(sender: str, text: str) -> None:
        # Some centres write numbers with a plus sign.
        event = Event(
            id=uuid4().hex,
            subscriber_id=sender.removeprefix("+"),
            type=event_type,
            occurred_at=datetime.now(UTC),
            attributes={"text": text, "channel": channel},
        )
        # Taken from the centre only when it is durable: it may be an opt-out. Else the centre sends it
        # again, and twice the same answer does no harm.
        collector.send(event, timeout=0)
        if not collector.flush(_REPLY_SECONDS):
            raise TimeoutError("the service has not taken the reply in yet")

    return publish


def _told() -> threading.Event:
    """Set when somebody wants the command to end."""
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
    return told


def interface_files_command(
    channel: ChannelArgument,
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", file_okay=False, help="Where files are put.")
    ],
    most: Annotated[int, typer.Option(min=1, max=1000, help="The most contacts in one file.")] = 1000,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, max=3600, help="The longest that one waits.")
    ] = 10.0,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Write what is decided for a bulk channel to interface files. Runs until Ctrl-C.

    Each CSV file has a manifest of the same name with its rows, size and SHA-256. Whoever takes the files
    in takes those that have a manifest: it appears when the file is complete. A contact counts as sent
    from then on. --every must be shorter than the service's lease (30 s unless configured).

    Example: opportune interface-files outbound /var/spool/outbound
    """
    try:
        files = InterfaceFiles(directory, channel, most=most, wait_seconds=every)
    except OSError as error:
        stop(ExitCode.NO, f"{directory} cannot be used: {error.strerror}")
    out().print(f"{channel}: writing to {directory}. Ctrl-C ends it.", markup=False)
    counters = asyncio.run(_write_files(target, channel, files, most))
    out().print(_counted(counters), markup=False)


async def _write_files(target: str, channel: str, files: InterfaceFiles, credit: int) -> Any:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    name = f"files-{os.getpid()}"
    async with connect_async(target) as service:
        client = AsyncChannelClient(service, channel, files, client_name=name, credit=credit)
        async with client:
            ended = asyncio.create_task(client.wait())
            waiting = asyncio.create_task(told.wait())
            await asyncio.wait((ended, waiting), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if ended.done():
                ended.result()
            ended.cancel()
            await files.flush()
        return client.counters


def _counted(counters: Any) -> str:
    return (
        f"{counters.sent} sent, {counters.failed} failed, {counters.retried} to be tried again, "
        f"{counters.unknown} unknown"
    )
