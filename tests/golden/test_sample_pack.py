"""The sample rulebase: sound, true to its own tests in both engines, and lively in the simulated province.

What a simulated day comes to stands in `sample_pack.expected`; run with OPPORTUNE_UPDATE_GOLDEN=1 to
write it anew, then read the difference.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from opportune_rulebase import Rulebase, load
from opportune_rulebase.durable import DurableEngine
from opportune_rulebase.engine import Engine
from opportune_rulebase.network import NetworkEngine
from opportune_service import simulator
from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.app.context import ImportItem, import_context
from opportune_service.app.read_cases import Case, read_cases
from opportune_service.app.replay import ReplayReport, replay
from opportune_service.app.try_cases import try_case
from opportune_service.core.events import Encoding, ImportMode
from opportune_service.core.verdict import Reason
from support.applications import in_loop, running

PACK = Path(__file__).parents[2] / "rulebase" / "packs" / "gprs-precision"
FILES = read_rulebase(PACK)
RULEBASE = load(FILES)
CASES = read_cases(RULEBASE, FILES)

DAY_US = 86_400_000_000
PEOPLE = 100
GOLDEN = Path(__file__).with_name("sample_pack.expected")


@pytest.fixture(scope="module", params=[NetworkEngine, DurableEngine], ids=["network", "durable"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = request.param(RULEBASE)
    yield made
    made.close()


def test_it_loads_without_warnings() -> None:
    assert RULEBASE.warnings == ()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{Path(case.position.file).stem}: {case.name}")
def test_its_cases_pass(engine: Engine, case: Case) -> None:
    assert not try_case(RULEBASE, engine, case).failures


def test_every_campaign_has_a_case_in_which_it_is_decided_and_one_in_which_it_is_not() -> None:
    decided, held_back = set(), set()
    for case in CASES:
        wanted = {e.campaign for e in case.expect if e.reason is Reason.DECIDED}
        triggered = {
            campaign.name
            for campaign in RULEBASE.campaigns.values()
            if any(event.type in campaign.on for event in case.events)
        }
        decided |= wanted
        held_back |= triggered - wanted
    assert decided == RULEBASE.campaigns.keys()
    assert RULEBASE.campaigns.keys() - held_back <= {"new-handset-mms"}  # its trigger is derived


def test_labels_are_bilingual() -> None:
    labelled = [*RULEBASE.campaigns.values(), *RULEBASE.definitions.values(), *RULEBASE.metrics.values()]
    assert [each.name for each in labelled if " · " not in each.label] == []


def test_the_vocabulary_is_that_of_the_simulated_province() -> None:
    """Nothing that the province sends or knows goes unread for want of a declaration."""
    documented = {
        line.split("|")[1].strip()
        for line in (simulator.__doc__ or "").splitlines()
        if line.startswith("| ") and "event type" not in line
    }
    assert documented | {"handset_changed"} == RULEBASE.vocabulary.events.keys()


def test_a_simulated_day_gives_what_it_gave_before() -> None:
    async def body() -> tuple[ReplayReport, int]:
        start_us = _midnight_us(RULEBASE)
        province = simulator.Province(
            1, PEOPLE, start_us, RULEBASE.time_zone, RULEBASE.tables.cells, RULEBASE.tables.terminals
        )
        async with running(files=FILES, now_us=start_us, people=()) as app:
            items = [ImportItem(who, msgspec.json.encode(what)) for who, what in province.context()]
            known = await import_context(
                app.live, app.ingest, items, start_us, ImportMode.PATCH, Encoding.JSON
            )
            assert not known.rejections
            report = await replay(app.ingest, "sim", province.events(start_us + DAY_US))
            return report, app.live.current.admission.ignored.total

    report, ignored = in_loop(body)
    assert (ignored, report.rejections.total()) == (0, 0)
    found = "".join(f"{line}\n" for line in _summary(report))
    if os.environ.get("OPPORTUNE_UPDATE_GOLDEN"):
        GOLDEN.write_text(found, encoding="utf-8")
    assert found == GOLDEN.read_text(encoding="utf-8")


def _midnight_us(rulebase: Rulebase) -> int:
    monday = datetime(2026, 11, 16, tzinfo=rulebase.time_zone)
    return int(monday.timestamp()) * 1_000_000


def _summary(report: ReplayReport) -> Iterator[str]:
    yield f"{PEOPLE} subscribers, {report.events} events"
    yield ", ".join(f"{reason} {count}" for reason, count in sorted(report.reasons().items()))
    yield ""
    for name in RULEBASE.campaigns:
        lost = sorted(
            (reason.value, n) for (campaign, reason), n in report.lost.items() if campaign == name
        )
        yield f"{name}: " + ", ".join(f"{w} {n}" for w, n in [("decided", report.decided[name]), *lost])
