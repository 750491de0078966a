"""Real call records through the whole pipeline: metrics held against a separate count over the file."""

from __future__ import annotations

import csv
import itertools
import os
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from opportune_service.adapters.files.faults import Faults
from opportune_service.adapters.files.mapped_files import read_mapped
from opportune_service.adapters.files.mapping import load_mapping
from opportune_service.app.context import show_subscriber
from opportune_service.app.replay import replay
from support.applications import in_loop, running

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("OPPORTUNE_SHARED_DATA", ROOT.parent / "shared" / "data"))
CALLS = SHARED / "vast2008" / "CellPhoneCallRecords.csv"
MAPPING = ROOT / "rulebase" / "packs" / "gprs-precision" / "mappings" / "vast2008.yaml"

pytestmark = pytest.mark.skipif(
    not CALLS.exists(), reason=f"recorded calls are not at {CALLS}; set OPPORTUNE_SHARED_DATA"
)

RULEBASE = {
    "rulebase.yaml": b"rulebase: calls\ntime_zone: Asia/Shanghai\n",
    "vocabulary.yaml": b"""
events:
  call_made: {attributes: {peer: string, duration_s: {type: int, min: 0}}}
  call_received: {attributes: {peer: string, duration_s: {type: int, min: 0}}}
  call_missed: {attributes: {peer: string}}
  cell_changed: {attributes: {cell: string}}
subscriber: {age: int}
channels: {sms: {mode: automatic}}
products: {plan: {label: Plan, category: voice}}
""",
    "behaviours.yaml": b"""
metrics:
  made_30d: {count: call_made, days: 30}
  received_3d: {count: call_received, days: 3}
  talked_s_5d: {sum: event.duration_s, of: [call_made, call_received], days: 5}
  long_24h: {count: [call_made, call_received], where: event.duration_s >= 1000, last: 24h}
  cells_30d: {count: cell_changed, days: 30}
""",
    "campaigns/plan.yaml": b"""
campaign: plan
label: Plan
product: plan
on: [call_made]
when: metric.made_30d >= 40 && metric.received_3d >= 1 && metric.long_24h >= 1 && metric.cells_30d >= 1
target: metric.talked_s_5d >= 1
mode: automatic
channels: [sms]
content: {sms: hello}
""",
}


def separate_count() -> tuple[dict[str, dict[str, int]], Counter[str]]:
    """Straight from the file: what each phone's metrics must be at its last call, and calls by phone.

    Rows with a negative duration (there are a few) are no calls.
    """
    with CALLS.open() as file:
        rows = [
            (datetime.strptime(row["DateTime"], "%m/%d/%Y %H:%M"), int(row["Duration.seconds."]), row)
            for row in csv.DictReader(file)
        ]
    calls: dict[str, list[tuple[datetime, int, str, str]]] = defaultdict(list)
    for at, seconds, row in sorted(rows, key=lambda each: each[0]):
        # A moved phone is a changed cell, even where the call itself is refused.
        if seconds >= 0:
            calls[row["From"]].append((at, seconds, "made", row["Cell.Tower"]))
            calls[row["To"]].append((at, seconds, "received", ""))
        else:
            calls[row["From"]].append((at, seconds, "moved", row["Cell.Tower"]))
    expected = {}
    for phone, mine in calls.items():
        last = max(at for at, _, kind, _ in mine if kind != "moved")
        towers = [tower for _, _, _, tower in mine if tower]
        expected[f"86139{int(phone):08d}"] = {
            "made_30d": sum(kind == "made" for _, _, kind, _ in mine),
            "received_3d": sum(
                kind == "received" and at.date() > last.date() - timedelta(days=3)
                for at, _, kind, _ in mine
            ),
            "talked_s_5d": sum(
                seconds
                for at, seconds, kind, _ in mine
                if kind != "moved" and at.date() > last.date() - timedelta(days=5)
            ),
            "long_24h": sum(
                seconds >= 1000 and at > last - timedelta(hours=24)
                for at, seconds, kind, _ in mine
                if kind != "moved"
            ),
            "cells_30d": sum(one != other for one, other in itertools.pairwise(towers)),
        }
    busiest = Counter({f"86139{int(phone):08d}": len(mine) for phone, mine in calls.items()})
    return expected, busiest


def test_metrics_of_the_busiest_phones_are_those_of_a_separate_count() -> None:
    expected, busiest = separate_count()
    faults = Faults()
    events = read_mapped(CALLS, load_mapping(MAPPING), faults)
    assert faults.count == 0
    last = {event.subscriber_id: event.occurred_at_us for event in events if event.type != "cell_changed"}

    async def body() -> None:
        async with running(files=RULEBASE, people=(), now_us=events[0].occurred_at_us) as app:
            report = await replay(app.ingest, "vast2008", events)
            assert report.events + report.rejections.total() == len(events)
            for phone, _ in busiest.most_common(10):
                view = await show_subscriber(app.live, app.states, phone, last[phone])
                assert {m.name: m.value for m in view.metrics} == expected[phone]

    in_loop(body)
