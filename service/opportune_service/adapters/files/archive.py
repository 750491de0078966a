"""What was pruned, as files: gzipped JSON lines, some megabytes of one day each, with a manifest.

`KIND-DAY-HASH.jsonl.gz` has a line for each thing that went as a whole: its `rows` by table, columns as in
the ledger, what is binary there decoded. `KIND-DAY-HASH.json`, the manifest, names it, what it holds, its
size and SHA-256; it appears after the file is complete and on the disk, so **whoever reads takes files that
have a manifest**, and no others. The hash is that of the lines: the same content has the same name.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from opportune_service.app.log import events_of, items_of
from opportune_service.app.records import Aged, Kept, LogKind, LogRow
from opportune_service.core.calendars import date_of
from opportune_service.core.events import Encoding, Event

FORMAT = "opportune-archive/1"
"""Says how a manifest and its file are to be read."""

_encode = msgspec.json.Encoder().encode
_from_msgpack = msgspec.msgpack.Decoder().decode
_from_json = msgspec.json.Decoder().decode


class FileArchive:
    """`Archive` in a directory, which is made if need be. One process at a time writes to it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, kind: Kept, day: int, aged: Sequence[Aged]) -> None:
        """See `Archive.put`."""
        lines = b"".join(_encode(archived(each)) + b"\n" for each in aged)
        date = date_of(day).isoformat()
        path = self._directory / f"{kind}-{date}-{hashlib.sha256(lines).hexdigest()[:16]}.jsonl.gz"
        manifest = path.with_name(path.name.replace(".jsonl.gz", ".json"))
        if manifest.exists():
            return  # a crash kept it from being deleted from the ledger
        self._directory.mkdir(parents=True, exist_ok=True)
        data = gzip.compress(lines, compresslevel=6, mtime=0)
        about = {
            "format": FORMAT,
            "file": path.name,
            "kind": kind,
            "day": date,
            "lines": len(aged),
            "rows": Counter(table for each in aged for table, _ in each.rows),
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        _put(path, data)
        _put(manifest, json.dumps(about, indent=1).encode() + b"\n")


def archived(aged: Aged) -> dict[str, object]:
    """What stands in its line."""
    rows: dict[str, list[dict[str, object]]] = {}
    for table, row in aged.rows:
        rows.setdefault(table, []).append(_decoded(table, row))
    return {"at_us": aged.at_us, "rows": rows}


def _decoded(table: str, row: dict[str, object]) -> dict[str, object]:
    if table == "log":
        return _log_row(row)
    return {name: _value(value) if isinstance(value, bytes) else value for name, value in row.items()}


def _value(value: bytes) -> object:
    """What is damaged is kept as it is: JSON has it in base64."""
    try:
        return _from_msgpack(value)
    except msgspec.MsgspecError:
        return value


def _log_row(row: dict[str, object]) -> dict[str, object]:
    """With its items in place of the payload: events with their fields named, all else as it is logged."""
    try:
        whole = msgspec.convert(row, LogRow, builtin_types=(bytes,))
        items = map(_event, events_of(whole)) if whole.kind is LogKind.EVENTS else items_of(whole)
        about = {name: value for name, value in row.items() if name != "payload"}
        return about | {"items": list(items)}
    except (msgspec.MsgspecError, zlib.error):
        return row


def _event(event: Event) -> dict[str, object]:
    decode = _from_json if event.encoding is Encoding.JSON else _from_msgpack
    return {
        "id": event.id,
        "subscriber_id": event.subscriber_id,
        "type": event.type,
        "occurred_at_us": event.occurred_at_us,
        "attributes": decode(event.attributes) if event.attributes else {},
        "cell_id": event.cell_id,
        "imei": event.imei,
    }


def _put(path: Path, data: bytes) -> None:
    """All of it under its name and on the disk, or nothing."""
    partial = path.with_name(f".{path.name}.part")
    try:
        # It holds people's numbers: for nobody else to read.
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
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
