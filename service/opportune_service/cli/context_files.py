"""Files of subscriber context: JSON lines, one subscriber a line, `subscriber_id` beside the attributes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from opportune_service.adapters.files.faults import Faults, TextLines

_ID = "subscriber_id"


def write_context(path: Path, people: Iterable[tuple[str, Mapping[str, object]]]) -> int:
    """Write (subscriber id, attributes) to a JSON lines file; how many there were."""
    written = 0
    with path.open("wb") as stream:
        for subscriber_id, attributes in people:
            stream.write(msgspec.json.encode({_ID: subscriber_id, **attributes}) + b"\n")
            written += 1
    return written


def read_context(path: Path, faults: Faults) -> Iterator[tuple[str, dict[str, object]]]:
    """(subscriber id, attributes) of each line; lines that cannot be read go to `faults`.

    Raises EventFileError when the file cannot be used at all.
    """
    decode = msgspec.json.Decoder(dict[str, object]).decode
    lines = TextLines(path, faults)
    read = 0
    for line in lines:
        if line.isspace():
            continue
        try:
            record = decode(line)
        except msgspec.DecodeError as error:
            faults.add(path, lines.number, f"not a JSON object: {error}")
            continue
        subscriber_id = record.pop(_ID, None)
        if isinstance(subscriber_id, str):
            read += 1
            yield subscriber_id, record
        else:
            faults.add(path, lines.number, f"{_ID} is missing or no text")
    faults.refuse_if_nothing_was_read(path, read)
