"""Files of events in Opportune's own layout."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import msgspec
import pytest
from opportune_service.adapters.files.event_files import parse_instant, read_events, write_events
from opportune_service.adapters.files.faults import MAX_LINE_BYTES, EventFileError, Faults
from opportune_service.core.events import Encoding, Event
from opportune_service.simulator import Province
from support.provinces import MONDAY_US, ZONE, made_up_cells, made_up_tacs

SUBSCRIBER = "8613800000001"
GOOD = {
    "id": "1",
    "subscriber_id": SUBSCRIBER,
    "type": "power_on",
    "occurred_at": "2026-11-16T20:00:00+08:00",
}
EIGHT_PM_US = MONDAY_US + 20 * 3_600_000_000
LAYOUTS = ("events.csv", "events.jsonl", "events.csv.gz", "events.jsonl.gz")


def plain(event: Event) -> tuple[object, ...]:
    """An event with its attributes decoded: CSV does not keep their order."""
    decoded = msgspec.json.decode(event.attributes)
    return (
        event.id,
        event.subscriber_id,
        event.type,
        event.occurred_at_us,
        event.cell_id,
        event.imei,
        decoded,
    )


def read(path: Path) -> tuple[list[Event], list[tuple[int, str]]]:
    faults = Faults()
    events = list(read_events(path, faults))
    assert faults.count == len(faults.first)
    return events, [(fault.line, fault.message) for fault in faults.first]


def jsonl(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return path


def record(**changes: object) -> str:
    return msgspec.json.encode(GOOD | changes).decode()


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    province = Province(7, 20, MONDAY_US, ZONE, made_up_cells(), made_up_tacs())
    events = list(province.events(MONDAY_US + 86_400_000_000))
    path = tmp_path / name
    assert write_events(path, events) == len(events)
    again, faults = read(path)
    assert not faults
    assert [plain(event) for event in again] == [plain(event) for event in events]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", LAYOUTS)
def test_equal_events_give_equal_bytes(tmp_path: Path, name: str) -> None:
    events = [Event("1", SUBSCRIBER, "mms_sent", EIGHT_PM_US, b'{"size_kb":80,"roaming":false}')]
    contents = set()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_events(tmp_path / folder / name, events)
        contents.add((tmp_path / folder / name).read_bytes())
    assert len(contents) == 1


def test_csv_columns_carry_their_types(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "events.csv",
        "\ufeffid,subscriber_id,type,occurred_at,size_kb:int,roaming:bool,share:double,note",
        f'1,{SUBSCRIBER},mms_sent,2026-11-16T20:00:00+08:00,80,true,0.5,"a, b"',
        f"2,{SUBSCRIBER},power_off,{EIGHT_PM_US // 1_000_000},,,,",
    )
    events, faults = read(path)
    assert not faults
    assert [msgspec.json.decode(event.attributes) for event in events] == [
        {"size_kb": 80, "roaming": True, "share": 0.5, "note": "a, b"},
        {},
    ]
    assert {event.occurred_at_us for event in events} == {EIGHT_PM_US}


def test_packed_attributes_are_written_too(tmp_path: Path) -> None:
    packed = msgspec.msgpack.encode({"size_kb": 80})
    event = Event("1", SUBSCRIBER, "mms_sent", EIGHT_PM_US, packed, encoding=Encoding.MSGPACK)
    write_events(tmp_path / "events.jsonl", [event])
    events, _ = read(tmp_path / "events.jsonl")
    assert msgspec.json.decode(events[0].attributes) == {"size_kb": 80}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        (b'{"id": "\xff"}', "not UTF-8"),
        ("[" * 100_000, "nested|not a JSON object"),
        (record(x="y" * MAX_LINE_BYTES), "longer than"),
        (record(id=""), "id is missing"),
        (record(id=None), "id is missing"),
        (record(id=7), "id must be a text"),
        (record(type=["power_on"]), "type must be a text"),
        (record(subscriber_id="+8613800000001"), "5 to 15 digits"),
        (record(subscriber_id="８６１３８０００"), "5 to 15 digits"),
        (record(occurred_at="2026-11-16T20:00:00"), "no offset"),
        (record(occurred_at="yesterday"), "RFC 3339"),
        (record(occurred_at=1_700_000_000_000), "milliseconds"),
        (record(occurred_at=True), "occurred_at"),
        (record(occurred_at={}), "occurred_at"),
    ],
)
def test_a_bad_line_is_told_with_its_place_and_left_out(
    tmp_path: Path, line: str | bytes, message: str
) -> None:
    path = jsonl(tmp_path / "events.jsonl", record(), line, record(id="3"))
    faults = Faults()
    assert [event.id for event in read_events(path, faults)] == ["1", "3"]
    assert [fault.line for fault in faults.first] == [2]
    assert str(faults.first[0]).startswith(f"{path}:2: ")
    assert re.search(message, faults.first[0].message)
    assert SUBSCRIBER not in faults.first[0].message


def test_bad_csv_rows_are_told_with_their_place(tmp_path: Path) -> None:
    start = f"{SUBSCRIBER},mms_sent,2026-11-16T20:00:00Z"
    path = jsonl(
        tmp_path / "events.csv",
        "id,subscriber_id,type,occurred_at,size_kb:int,roaming:bool",
        f"1,{start},8,false",
        f"2,{start},8",
        f"3,{start},eight,",
        f"4,{start},{10**30},",
        f"5,{start},,yes",
        f"6,{start},1_0,",
    )
    events, faults = read(path)
    assert [event.id for event in events] == ["1"]
    assert faults == [
        (3, "5 fields where the header has 6"),
        (4, "size_kb is not of type int"),
        (5, "size_kb is not of type int"),
        (6, "roaming is not of type bool"),
        (7, "size_kb is not of type int"),
    ]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "lacks id, subscriber_id, type, occurred_at"),
        ("id,type,occurred_at", "lacks subscriber_id"),
        ("id,subscriber_id,type,occurred_at,kb:int,kb", "kb"),
        ("id,subscriber_id,type,occurred_at,", "blank"),
        ("id,subscriber_id,type,occurred_at,kb:integer", "integer"),
    ],
)
def test_a_header_that_does_not_fit_refuses_the_file(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(EventFileError, match=message):
        read(jsonl(tmp_path / "events.csv", header, "1,2,3,4"))


def test_a_file_in_which_every_line_is_wrong_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EventFileError, match=r"2 fault\(s\)[\s\S]*events.jsonl:1: "):
        read(jsonl(tmp_path / "events.jsonl", "{", "}"))


def test_an_empty_file_gives_nothing(tmp_path: Path) -> None:
    assert read(jsonl(tmp_path / "events.jsonl")) == ([], [])


def test_a_damaged_or_absent_file_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(record().encode() * 1_000)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    jsonl(tmp_path / "fake.jsonl.gz", record())
    for name in ("cut.jsonl.gz", "fake.jsonl.gz", "absent.jsonl"):
        with pytest.raises(EventFileError, match="cannot be read"):
            read(tmp_path / name)
    with pytest.raises(EventFileError, match="csv or"):
        read(tmp_path / "events.xlsx")


def test_all_faults_are_counted_and_the_first_kept(tmp_path: Path) -> None:
    faults = Faults()
    path = jsonl(tmp_path / "events.jsonl", record(), *["{"] * 1_000)
    assert len(list(read_events(path, faults))) == 1
    assert faults.count == 1_000
    assert [fault.line for fault in faults.first] == list(range(2, 2 + len(faults.first)))
    assert len(faults.first) < 1_000


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("events.jsonl", [{"id": "x"}]),
        ("events.csv", [{"tags": ["a"]}]),
        ("events.csv", [{"kb": 1}, {"kb": "one"}]),
    ],
)
def test_what_the_layout_cannot_hold_is_refused_and_leaves_no_file(
    tmp_path: Path, name: str, attributes: list[dict[str, object]]
) -> None:
    events = [Event("1", SUBSCRIBER, "x", EIGHT_PM_US, msgspec.json.encode(given)) for given in attributes]
    with pytest.raises(EventFileError):
        write_events(tmp_path / name, events)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    ["2026-11-16T20:00:00+08:00", "2026-11-16T12:00:00Z", str(EIGHT_PM_US // 1_000_000), EIGHT_PM_US / 1e6],
)
def test_instants_are_read_alike_in_all_their_forms(text: str | float) -> None:
    assert parse_instant(text) == EIGHT_PM_US
