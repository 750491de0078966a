"""Interface files for bulk channels: what an outbound call centre or an SMS centre takes in many at a time.

A file has two parts. `CHANNEL-TIME-NUMBER.csv` holds a header and a row for each contact, in UTF-8 with
comma-separated values (RFC 4180). `CHANNEL-TIME-NUMBER.json`, the manifest, names it, its rows, size and
SHA-256; it appears after the file is complete and on the disk, so **whoever reads takes files that have
a manifest**, and no others.
"""

from __future__ import annotations

import asyncio
import csv
import errno
import fcntl
import hashlib
import io
import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from opportune_client.channel import expired
from opportune_client.leases import Handled, Message, Sent

COLUMNS: Final = (
    "idempotency_key",
    "decision_id",
    "subscriber_id",
    "campaign",
    "campaign_label",
    "product",
    "content",
    "attempt",
    "expires_at",
)
"""Of an interface file, in this order. `expires_at` in RFC 3339, UTC; empty for none."""

REMEMBERED: Final = 1_000_000
"""So many messages are known to be written, the newest; a message that comes again comes soon."""

FORMAT: Final = "opportune-interface-file/1"
"""Says how a manifest and its file are to be read."""


_CLAIMED: Final[dict[Path, int]] = {}
"""Descriptors of this process's lock files, open until it ends: closing one would give the lock back."""


@dataclass(slots=True)
class _Row:
    message: Message
    handled: asyncio.Future[Handled]


class InterfaceFiles:
    """A handler for `AsyncChannelClient` that writes messages to interface files instead of sending them.

    A file is written when `most` messages wait or `wait_seconds` have passed since the first of them;
    `wait_seconds` must be less than the service's lease. A message counts as sent when the manifest of its
    file is on the disk, and its `channel_message_id` is then the file's name.

    Guarantees: a manifest is never seen before its whole file; a message is in one file only, across
    restarts too, as long as the files that hold it are still in `directory`. A message whose time is over
    when its file is written is left out. Not guaranteed: that a message is not written again after its file
    was moved away and its ack was lost; readers can tell by `idempotency_key`.

    One process writes to a directory for a channel, until it ends; a second one gets an OSError at once.
    OSError later: the directory cannot be written; nothing is then acknowledged, and the messages come
    again.
    """

    def __init__(
        self, directory: Path | str, channel: str, *, most: int = 1_000, wait_seconds: float = 10.0
    ) -> None:
        if most < 1 or wait_seconds <= 0:
            raise ValueError("most must be at least 1, and wait_seconds more than 0")
        self._directory = Path(directory)
        self._channel = channel
        self._most = most
        self._wait_seconds = wait_seconds
        self._waiting: list[_Row] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._number = 0
        self._directory.mkdir(parents=True, exist_ok=True)
        _claim(self._directory / f".{channel}.lock")
        self._known = OrderedDict(_written(self._directory, channel))
        self._coming: dict[str, asyncio.Future[Handled]] = {}

    async def __call__(self, message: Message) -> Handled:
        """Takes a message in, and answers when its file is complete. Raises what writing raised."""
        key = message.idempotency_key
        name = self._known.get(key)
        if name is not None:
            return Sent(channel_message_id=name)
        handled = self._coming.get(key)
        if handled is None:  # else it came again while its file was being written
            handled = self._coming[key] = asyncio.get_running_loop().create_future()
            handled.add_done_callback(lambda _: self._coming.pop(key))
            self._waiting.append(_Row(message, handled))
            if len(self._waiting) >= self._most:
                self._write_soon()
            elif self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._wait_seconds, self._write_soon)
        return await asyncio.shield(handled)  # whoever gives up does not do so for the others

    async def flush(self) -> None:
        """Write what waits now. Call it before the client is closed, so that nobody waits for the timer."""
        self._write_soon()
        while self._writing is not None:
            await self._writing

    def _write_soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        try:
            while rows := self._waiting[: self._most]:
                del self._waiting[: len(rows)]
                await self._write_rows(rows)
        finally:
            self._writing = None

    async def _write_rows(self, rows: Sequence[_Row]) -> None:
        self._number += 1
        now = datetime.now(UTC)
        name = f"{self._channel}-{now:%Y%m%dT%H%M%S.%fZ}-{self._number:06d}"
        # It may have waited here for longer than it may be sent.
        lapsed = {id(row): expired(row.message) for row in rows}
        fit = [row for row in rows if lapsed[id(row)] is None]
        try:
            if fit:
                messages = [row.message for row in fit]
                await asyncio.to_thread(write_interface_file, self._directory, name, messages, now)
        except OSError as error:
            for row in rows:
                if not row.handled.done():
                    row.handled.set_exception(error)
            return
        for row in rows:
            handled = lapsed[id(row)] or Sent(channel_message_id=f"{name}.csv")
            if isinstance(handled, Sent):
                self._remember(row.message.idempotency_key, handled.channel_message_id)
            if not row.handled.done():  # the client may have been closed meanwhile
                row.handled.set_result(handled)

    def _remember(self, key: str, name: str) -> None:
        self._known[key] = name
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


def write_interface_file(directory: Path, name: str, messages: Sequence[Message], at: datetime) -> None:
    """Write `name`.csv, then its manifest, each complete and on the disk before it has its name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for message in messages:
        expires = "" if message.expires_at is None else _rfc3339(message.expires_at)
        values = {name: getattr(message, name) for name in COLUMNS}
        writer.writerow((values | {"expires_at": expires}).values())
    data = text.getvalue().encode()
    manifest = {
        "format": FORMAT,
        "file": f"{name}.csv",
        "created_at": _rfc3339(at),
        "rows": len(messages),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "columns": COLUMNS,
    }
    path = directory / f"{name}.csv"
    try:
        _put(path, data)
        _put(path.with_suffix(".json"), json.dumps(manifest, indent=1).encode() + b"\n")
    except OSError:
        # Nothing of it is acknowledged, and on a full disk each attempt would take what is left.
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise


def _put(path: Path, data: bytes) -> None:
    """All of it under its name, or nothing."""
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _claim(path: Path) -> None:
    """Keep other processes out: one that starts would take what is being written for left half done."""
    path = path.resolve()
    if path in _CLAIMED and path.exists():
        return
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise OSError(errno.EBUSY, "another process writes the files of this channel here") from error
    _CLAIMED[path] = file


def _written(directory: Path, channel: str) -> list[tuple[str, str]]:
    """What complete files hold already: idempotency key and file name. Removes what a crash left half done:
    files without a manifest, whose messages were not acknowledged."""
    found: list[tuple[str, str]] = []
    # Those of this channel: not of one whose name only begins like it.
    name = f"{channel}-{'[0-9]' * 8}T*"
    for path in sorted(directory.glob(f"{name}.csv")):
        if path.with_suffix(".json").exists():
            with path.open(encoding="utf-8", newline="") as file:
                found += [(row["idempotency_key"], path.name) for row in csv.DictReader(file)]
        else:
            path.unlink()
    for path in directory.glob(f".{name}.part"):
        path.unlink()
    return found


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
