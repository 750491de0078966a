"""The sample rulebase: sound, true to its own tests in both engines, and lively in the simulated province.

What a simulated day comes to stands in `sample_pack.expected`; run with OPPORTUNE_UPDATE_GOLDEN=1 to
write it anew, then read the difference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import fields
from datetime import date, datetime
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from opportune_rulebase import Rulebase, load
from opportune_rulebase.durable import DurableEngine
from opportune_rulebase.engine import Engine
from opportune_rulebase.model import (
    CountPattern,
    DateTrigger,
    MetricKind,
    Pattern,
    ScheduleTrigger,
    SequencePattern,
    TouchKind,
)
from opportune_rulebase.network import NetworkEngine
from opportune_rulebase.policies import Fate, Fit, Policies, reply_word
from opportune_rulebase.warnings import calendar_warnings
from opportune_service import simulator
from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.app.context import ImportItem, import_context
from opportune_service.app.coverage import coverage
from opportune_service.app.read_cases import Case, read_cases
from opportune_service.app.replay import ReplayReport, replay
from opportune_service.app.try_cases import try_case
from opportune_service.core.events import Encoding, ImportMode
from support.applications import in_loop, running

PACK = Path(__file__).parents[2] / "rulebase" / "packs" / "gprs-precision"
FILES = read_rulebase(PACK)
RULEBASE = load(FILES)
CASES = read_cases(RULEBASE, FILES)

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
PEOPLE = 100
GOLDEN = Path(__file__).with_name("sample_pack.expected")


@pytest.fixture(scope="module", params=[NetworkEngine, DurableEngine], ids=["network", "durable"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = request.param(RULEBASE)
    yield made
    made.close()


def test_it_loads_without_warnings() -> None:
    assert RULEBASE.warnings == ()


def test_its_calendar_is_known_for_a_year_to_come() -> None:
    assert calendar_warnings(RULEBASE, date(2026, 11, 20)) == []
    assert [problem.code for problem in calendar_warnings(RULEBASE, date(2027, 11, 20))] == [
        "calendar-ends"
    ]


def test_it_uses_the_whole_language() -> None:
    """It is the tutorial: what it does not show, nobody finds."""
    patterns, campaigns = RULEBASE.patterns.values(), RULEBASE.campaigns.values()
    assert {type(pattern) for pattern in patterns} == set(get_args(Pattern))
    assert {metric.kind for metric in RULEBASE.metrics.values()} == set(MetricKind)
    assert {metric.days is None for metric in RULEBASE.metrics.values()} == {True, False}
    assert {type(trigger) for trigger in RULEBASE.triggers.values()} == {DateTrigger, ScheduleTrigger}
    sequences = [pattern for pattern in patterns if isinstance(pattern, SequencePattern)]
    assert any(pattern.without for pattern in sequences)
    assert any(step.link for pattern in sequences for step in pattern.steps)
    assert any(
        set(pattern.step.of) & RULEBASE.patterns.keys()
        for pattern in patterns
        if isinstance(pattern, CountPattern)
    )
    conditions = [each for c in campaigns for each in (c.when, c.target) if each]
    conditions += [definition.when for definition in RULEBASE.definitions.values()]
    read = {name.partition(".")[0] for condition in conditions for name in condition.reads}
    assert read >= {
        *("event", "sub", "peer", "terminal", "place", "metric", "fact", "behaviour", "scene"),
        *("calendar", "now", "zone"),
    }
    assert RULEBASE.imported
    assert any(source.max_lateness_us > HOUR_US for source in RULEBASE.vocabulary.sources.values())
    assert any(channel.max_segments for channel in RULEBASE.vocabulary.channels.values())
    campaign = Path(PACK / "campaigns" / "templates.yaml").read_text(encoding="utf-8")
    assert "\nlike: " in campaign


def test_it_uses_all_policies() -> None:
    """All but `settle`: its moments pass within seconds, so nothing may wait for better offers."""
    policies, words = RULEBASE.policies, RULEBASE.vocabulary
    plain = Policies()
    unused = {
        each.name for each in fields(Policies) if getattr(policies, each.name) == getattr(plain, each.name)
    }
    assert unused == {"settle_us", "jitter_us", "max_automatic", "default_propensity", "normal_status"}
    assert policies.control.share
    assert policies.control.salt
    assert {fit for fits in policies.fit.values() for fit in fits.values()} == {Fit.AA, Fit.CC}
    assert policies.preference.scores
    assert policies.preference.segments
    assert any(cap.headroom for cap in policies.caps)
    assert any(window.kinds for window in policies.quiet_hours)
    channels, campaigns = words.channels.values(), RULEBASE.campaigns.values()
    stopping = (*policies.caps, *policies.quiet_hours, *channels, *(c.quota for c in campaigns if c.quota))
    assert {each.otherwise for each in stopping} == set(Fate)
    assert all(
        any(getattr(each, name) for each in channels) for name in ("per_second", "per_day", "cost", "bulk")
    )
    assert {each.touch for each in words.events.values()} == {None, *TouchKind}
    for name in ("group", "control_share", "control_exempt", "quota", "conversion", "alarm", "baseline"):
        assert any(getattr(each, name) for each in campaigns), name
    assert any(each.open_for_us != each.expires_after_us for each in campaigns)


def test_every_word_that_messages_ask_for_accepts() -> None:
    assert RULEBASE.policies.replies
    asked = {
        reply_word(word)
        for campaign in RULEBASE.campaigns.values()
        for template in campaign.content.values()
        for word in re.findall(r"回复 ?([A-Z0-9]+)", template.text)
    }
    assert asked
    assert asked <= RULEBASE.policies.replies.accepted


def test_every_file_names_its_schema() -> None:
    for path in sorted(PACK.rglob("*.yaml")):
        if path.parent.name in ("tests", "mappings"):
            continue
        first, _, _ = path.read_text(encoding="utf-8").partition("\n")
        prefix, _, schema = first.partition("$schema=")
        assert prefix == "# yaml-language-server: "
        assert (path.parent / schema).is_file()
        assert path.stem == Path(schema).name.partition(".")[0] or path.parent.name == "campaigns"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{Path(case.position.file).stem}: {case.name}")
def test_its_cases_pass(engine: Engine, case: Case) -> None:
    assert not try_case(RULEBASE, engine, case).failures


def test_its_cases_cover_all_of_it() -> None:
    engine = NetworkEngine(RULEBASE)
    results = [try_case(RULEBASE, engine, case) for case in CASES]
    engine.close()
    covered = coverage(RULEBASE, [result.seen for result in results])
    assert [(what, lacking) for what, _, _, lacking in covered.rows() if lacking] == []
    held_back = {
        name
        for result in results
        for name, campaign in RULEBASE.campaigns.items()
        if not result.seen.types.isdisjoint(campaign.on) and name not in result.seen.decided
    }
    # Without a condition it is the pattern or the date that holds back.
    unconditional = {
        name
        for name, campaign in RULEBASE.campaigns.items()
        if campaign.when is None and all(RULEBASE.vocabulary.events[each].derived for each in campaign.on)
    }
    assert RULEBASE.campaigns.keys() - held_back <= unconditional


def test_labels_are_bilingual() -> None:
    labelled = [
        *RULEBASE.campaigns.values(),
        *RULEBASE.definitions.values(),
        *RULEBASE.imported.values(),
        *RULEBASE.metrics.values(),
        *RULEBASE.patterns.values(),
        *RULEBASE.facts.values(),
        *RULEBASE.vocabulary.sources.values(),
    ]
    assert [each.name for each in labelled if " · " not in each.label] == []


def test_the_vocabulary_is_that_of_the_simulated_province() -> None:
    """Nothing that the province sends or knows goes unread for want of a declaration."""
    documented = {
        line.split("|")[1].strip()
        for line in (simulator.__doc__ or "").splitlines()
        if line.startswith("| ") and "event type" not in line
    }
    declared = {name for name, each in RULEBASE.vocabulary.events.items() if not each.derived}
    # Nobody in it writes back: its people answer to the channels.
    assert documented | {"handset_changed", "reply_received"} == declared


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
