"""Mapping files: foreign rows become events."""

from __future__ import annotations

import os
from collections import Counter
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest
from opportune_service.adapters.files.event_files import read_events, write_events
from opportune_service.adapters.files.faults import EventFileError, Faults
from opportune_service.adapters.files.mapped_files import read_mapped
from opportune_service.adapters.files.mapping import MappingFileError, load_mapping
from opportune_service.core.events import Event

ROOT = Path(__file__).parents[2]
MAPPINGS = ROOT / "rulebase" / "packs" / "gprs-precision" / "mappings"
SHARED = Path(os.environ.get("OPPORTUNE_SHARED_DATA", ROOT.parent / "shared" / "data"))
LOCAL = ZoneInfo("Asia/Shanghai")

VAST_HEADER = '"","From","To","DateTime","Duration.seconds.","Cell.Tower"\r\n'
EGO_HEADER = "interaction,direction,correspondent_id,datetime,call_duration,antenna_id\n"

SHARED_FILES = {
    "vast2008": "vast2008/CellPhoneCallRecords.csv",
    "bandicoot_ego": "cdr/ego.csv",
    "bandicoot_u_test": "cdr/u_test.csv",
    "bandicoot_u_test2": "cdr/u_test2.csv",
    "bandicoot_antennas": "cdr/u_test_antennas.csv",
}


def events_of(tmp_path: Path, mapping: str, text: str) -> list[Event]:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    faults = Faults()
    events = read_mapped(path, load_mapping(MAPPINGS / f"{mapping}.yaml"), faults)
    assert faults.first == []
    return events


def in_short(events: list[Event]) -> list[tuple[str, str, dict[str, object]]]:
    return [(event.type, event.subscriber_id, msgspec.json.decode(event.attributes)) for event in events]


def local_us(hour: int, minute: int) -> int:
    return int(datetime(2006, 6, 1, hour, minute, tzinfo=LOCAL).timestamp()) * 1_000_000


def test_a_call_is_made_and_received_and_a_new_tower_is_a_changed_cell(tmp_path: Path) -> None:
    rows = (
        "1,7,12,6/1/2006 10:30,65,4\r\n"
        "2,7,12,6/1/2006 9:05,30,3\r\n"  # earlier than the row before it
        "3,7,301,6/1/2006 23:59,0,4\r\n"
    )
    events = events_of(tmp_path, "vast2008", VAST_HEADER + rows)
    caller, callee, third = "8613900000007", "8613900000012", "8613900000301"
    assert in_short(events) == [
        ("call_made", caller, {"peer": callee, "duration_s": 30}),
        ("call_received", callee, {"peer": caller, "duration_s": 30}),
        ("cell_changed", caller, {"cell": "vast-4"}),
        ("call_made", caller, {"peer": callee, "duration_s": 65}),
        ("call_received", callee, {"peer": caller, "duration_s": 65}),
        ("call_made", caller, {"peer": third, "duration_s": 0}),
        ("call_missed", third, {"peer": caller}),
    ]
    assert [event.cell_id for event in events] == ["vast-3", "", "vast-4", "vast-4", "", "vast-4", ""]
    assert [event.occurred_at_us for event in events[1:4]] == [
        local_us(9, 5), local_us(10, 30), local_us(10, 30),
    ]  # fmt: skip
    assert len({event.id for event in events}) == len(events)


def test_one_subscribers_records_have_him_as_the_subscriber(tmp_path: Path) -> None:
    rows = (
        "text,in,A,2014-03-02 07:13:30,,1\n"
        "text,out,B,2014-03-02 07:14:30,,1\n"
        "call,out,C,2014-03-02 07:15:30,20,2\n"
        "call,in,C,2014-03-02 07:16:30,40,2\n"
        "call,in,D,2014-03-02 07:17:30,0,\n"
    )
    events = events_of(tmp_path, "bandicoot_ego", EGO_HEADER + rows)
    assert [(event.type, msgspec.json.decode(event.attributes)) for event in events] == [
        ("sms_received", {}),
        ("sms_sent", {}),
        ("cell_changed", {"cell": "boston-2"}),
        ("call_made", {"duration_s": 20}),
        ("call_received", {"duration_s": 40}),
        ("call_missed", {}),
    ]
    assert len({event.subscriber_id for event in events}) == 1


def test_switch_records_without_a_header(tmp_path: Path) -> None:
    rows = (
        "1;22;770000000;770000005;2013-12-16 07:30:30;0;42.0;-71.0\n"
        "2;21;770000000;770000005;2013-12-16 07:31:30;0;42.0;-71.0\n"
        "1;11;770000000;770000008;2013-12-16 07:32:30;126;42.0;-71.0\n"
        "2;11;770000000;770000008;2013-12-16 07:33:30;0;42.0;-71.0\n"
        "9;99;770000000;770000008;2013-12-16 07:34:30;0;42.0;-71.0\n"
    )
    events = events_of(tmp_path, "bandicoot_u_test", rows)
    assert [event.type for event in events] == ["sms_sent", "sms_received", "call_made", "call_missed"]
    assert {event.subscriber_id for event in events} == {"8613770000000"}


@pytest.mark.parametrize(
    ("mapping", "place"), [("bandicoot_u_test2", "42.1,-71.0"), ("bandicoot_antennas", "13084")]
)
def test_the_other_layouts_of_one_subscriber(tmp_path: Path, mapping: str, place: str) -> None:
    header = "latitude,longitude" if "," in place else "antenna_id"
    text = f"interaction,direction,correspondent_id,datetime,call_duration,{header}\n"
    text += f"call,in,770000008,2013-12-16 05:31:30,0,{place}\n"
    text += f"text,out,770000003,2013-12-16 05:44:30,0,{place}\n"
    events = events_of(tmp_path, mapping, text)
    assert [(event.type, msgspec.json.decode(event.attributes)) for event in events] == [
        ("call_missed", {"peer": "8613770000008"}),
        ("sms_sent", {"peer": "8613770000003"}),
    ]


def test_bad_rows_are_told_and_give_nothing_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = (
        "1,7,12,6/1/2006 10:30,65,4",
        "2,7,12,2006-06-01,65,4",
        "3,,12,6/1/2006 10:30,65,4",
        "4,7,seven,6/1/2006 10:30,65,4",
        "5,7,123456789,6/1/2006 10:30,65,4",
        "6,7,12,6/1/2006 10:30,long,4",
        "7,7,12",
    )
    path.write_text(VAST_HEADER + "\n".join(rows))
    faults = Faults()
    events = read_mapped(path, load_mapping(MAPPINGS / "vast2008.yaml"), faults)
    assert [event.type for event in events] == ["call_made", "call_received"]
    assert [fault.line for fault in faults.first] == [3, 4, 5, 6, 7, 8]
    assert "123456789" not in "".join(map(str, faults.first))


def test_a_file_without_the_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("interaction,direction,correspondent,datetime,call_duration,antenna_id\n")
    with pytest.raises(EventFileError, match=r"no column 'correspondent_id'; did you mean 'correspondent'"):
        read_mapped(path, load_mapping(MAPPINGS / "bandicoot_antennas.yaml"), Faults())
    path.write_text("a,b\n1,2\n")
    with pytest.raises(EventFileError, match="2 columns"):
        read_mapped(path, load_mapping(MAPPINGS / "vast2008.yaml"), Faults())
    path.write_text(VAST_HEADER + "1,2,3,4,5,6\n")
    with pytest.raises(EventFileError, match="no line gives an event"):
        read_mapped(path, load_mapping(MAPPINGS / "vast2008.yaml"), Faults())


MINIMAL = """\
mapping: small
time: {column: at}
events:
  - type: power_on
    subscriber: {column: who}
    attributes: {roaming: {value: false}, kb: {column: kb, type: int}}
"""


def test_rfc_3339_times_and_fixed_values(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(MINIMAL)
    (tmp_path / "rows.csv").write_text(
        "who,at,kb\n86138001,2026-11-16T20:00:00+08:00,5\n86138001,1763294400,\n"
    )
    events = read_mapped(tmp_path / "rows.csv", load_mapping(tmp_path / "map.yaml"), Faults())
    assert [msgspec.json.decode(event.attributes) for event in events] == [
        {"roaming": False},
        {"roaming": False, "kb": 5},
    ]


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("mapping: small", "", 1, "mapping: this key is missing"),
        ("mapping: small", "mapping: small\nheadr: true", 2, "headr: unknown key"),
        ("mapping: small", "mapping: small\nmapping: twice", 2, "duplicate"),
        ("{column: at}", "{column: at, format: '%d.%m.%Y %H:%M'}", 2, "local times need a zone"),
        ("{column: at}", "{column: at, format: '%H:%M', zone: Asia/Shanghai}", 2, "year, month, day"),
        ("{column: at}", "{column: at, format: '%Q', zone: Asia/Shanghai}", 2, "strptime"),
        ("{column: at}", "{column: at, format: '%d.%m.%Y %H', zone: Mars/Base}", 2, "unknown time zone"),
        ("{column: at}", "{column: at, zone: Asia/Shanghai}", 2, "leave zone out"),
        ("power_on", "Power On", 4, "type"),
        ("{column: who}", "{column: who, fixed: '86138000'}", 5, "either column or fixed"),
        ("{column: who}", "{fixed: 86138000}", 5, "quotes"),
        ("{value: false}", "{}", 6, "either column or value"),
        ("type: int}", "type: number}", 6, "attributes.kb.type"),
        ("power_on", "power_on\n    when: {kb: 0}", 5, "quotes"),
        ("events:", "columns: [at, whom, kb]\nevents:", 1, "no column 'who'; did you mean 'whom'"),
        ("events:", "header: false\nevents:", 1, "needs columns"),
        (MINIMAL, "- a list", 0, "is a map"),
        (MINIMAL, "a: 1\nb: [", 2, "not YAML"),
        (MINIMAL, "[" * 500, 0, "not YAML"),
    ],
)
def test_a_bad_mapping_file_is_refused_with_the_place(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(MINIMAL.replace(old, new, 1))
    with pytest.raises(MappingFileError) as refusal:
        load_mapping(path)
    assert message in str(refusal.value)
    if line:
        assert f"{path}:{line}: " in str(refusal.value)


def test_all_faults_of_a_mapping_file_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(MINIMAL.replace("power_on", "Power On").replace("type: int", "type: number"))
    with pytest.raises(MappingFileError) as refusal:
        load_mapping(path)
    assert [text.split(":")[1] for text in str(refusal.value).splitlines()] == ["4", "6"]


def test_a_mapping_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "large.yaml").write_bytes(b"#" * 2_000_000)
    for name, message in (
        ("bytes.yaml", "UTF-8"),
        ("large.yaml", "larger"),
        ("absent.yaml", "cannot be read"),
    ):
        with pytest.raises(MappingFileError, match=message):
            load_mapping(tmp_path / name)


def test_every_mapping_of_the_pack_loads() -> None:
    assert {path.stem for path in MAPPINGS.glob("*.yaml")} == SHARED_FILES.keys()
    for path in MAPPINGS.glob("*.yaml"):
        load_mapping(path)


@pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"recorded data is not at {SHARED}; set OPPORTUNE_SHARED_DATA"
)
@pytest.mark.parametrize("mapping", SHARED_FILES)
def test_recorded_data_is_mapped_whole(tmp_path: Path, mapping: str) -> None:
    path = SHARED / SHARED_FILES[mapping]
    faults = Faults()
    events = read_mapped(path, load_mapping(MAPPINGS / f"{mapping}.yaml"), faults)
    assert faults.count == 0
    rows = sum(1 for line in path.read_text().splitlines() if line[-1:].isdigit())
    kinds = Counter(event.type for event in events)
    told = sum(count for kind, count in kinds.items() if kind != "cell_changed")
    # In VAST a row is a call with both its parties, elsewhere what one party saw.
    assert told == rows * (2 if mapping == "vast2008" else 1)
    assert events == sorted(events, key=lambda event: event.occurred_at_us)
    assert len({event.id for event in events}) == len(events)
    write_events(tmp_path / "events.jsonl", events)
    assert list(read_events(tmp_path / "events.jsonl", Faults())) == events
