"""When a timer fires, waits or is dropped, rule by rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from opportune_rulebase.model import (
    AbsencePattern,
    ChangePattern,
    CountPattern,
    DwellPattern,
    Rulebase,
    SequencePattern,
    Source,
    Step,
)
from opportune_service.core.events import Event
from opportune_service.core.watermarks import (
    CELL,
    GONE_US,
    GRACE_US,
    MAX_SOURCES,
    SOURCE_TIMEOUT_US,
    SourceMark,
    Watermarks,
    Word,
    awaited_by,
)
from support.rulebases import NOON_US, make_rulebase

MINUTE_US = 60_000_000
DUE_US = NOON_US
HOUR_US = 60 * MINUTE_US


def rulebase(**declared: Sequence[str]) -> Rulebase:
    """`declared`: source -> event types; a source called ``slow...`` is slow."""
    plain = make_rulebase(events={"recharge": {}, "charge": {}})
    sources = {
        name: Source(
            name, name, frozenset(types), frozenset(), 24 * HOUR_US if name.startswith("slow") else HOUR_US
        )
        for name, types in declared.items()
    }
    return replace(plain, vocabulary=replace(plain.vocabulary, sources=sources))


def event(type_: str, at_us: int, cell: str = "") -> Event:
    return Event(f"{type_}@{at_us}", "8613800000001", type_, at_us, cell_id=cell)


def marks(listening_us: int = DUE_US - HOUR_US, **heard: tuple[str, int, int]) -> Watermarks:
    """source -> (event type, event time, when it came)."""
    watermarks = Watermarks(listening_us)
    for source, (type_, at_us, came_us) in heard.items():
        watermarks.hear(source, [event(type_, at_us)], came_us)
    return watermarks


def word(
    watermarks: Watermarks, now_us: int, declared: Rulebase | None = None, awaited: str = "recharge"
) -> Word:
    horizon = watermarks.horizon([awaited], declared or rulebase(), now_us)
    return watermarks.word(horizon, DUE_US, now_us)


def test_it_fires_when_the_source_has_shown_an_event_past_it() -> None:
    assert word(marks(msc=("recharge", DUE_US, DUE_US)), DUE_US) is Word.WAIT
    assert word(marks(msc=("recharge", DUE_US + 1, DUE_US + 1)), DUE_US + 1) is Word.FIRE


def test_every_relevant_source_must_have_come_past_it() -> None:
    watermarks = marks(a=("recharge", DUE_US + 1, DUE_US + 1), b=("recharge", DUE_US - 1, DUE_US - 1))
    assert word(watermarks, DUE_US + 1) is Word.WAIT
    watermarks.hear("b", [event("charge", DUE_US + 1)], DUE_US + 1)
    assert word(watermarks, DUE_US + 1) is Word.FIRE


def test_an_idle_source_is_not_waited_for_after_the_grace() -> None:
    watermarks = marks(msc=("recharge", DUE_US - 10 * MINUTE_US, DUE_US - 10 * MINUTE_US))
    assert word(watermarks, DUE_US + GRACE_US - 1) is Word.WAIT
    assert word(watermarks, DUE_US + GRACE_US) is Word.FIRE


def test_a_source_that_spoke_within_the_grace_is_not_idle() -> None:
    watermarks = marks(msc=("recharge", DUE_US, DUE_US + 1))
    assert word(watermarks, DUE_US + GRACE_US) is Word.WAIT
    assert word(watermarks, DUE_US + GRACE_US + 1) is Word.FIRE


@pytest.mark.parametrize(
    ("age_us", "expected"), [(GRACE_US, Word.FIRE), (GRACE_US + 1, Word.WAIT)], ids=["current", "backlog"]
)
def test_a_source_that_fell_silent_in_a_backlog_lags(age_us: int, expected: Word) -> None:
    came_us = DUE_US - 10 * MINUTE_US
    watermarks = marks(msc=("recharge", came_us - age_us, came_us))
    assert word(watermarks, DUE_US + GRACE_US) is expected


def test_a_source_whose_events_are_all_refused_lags() -> None:
    """It sends, and shows nothing: what it sends is too old to be understood as its newest."""
    watermarks = marks(msc=("recharge", DUE_US - 10 * MINUTE_US, DUE_US - 10 * MINUTE_US))
    watermarks.hear("msc", [], DUE_US - 5 * MINUTE_US)
    assert word(watermarks, DUE_US + GRACE_US) is Word.WAIT


def test_it_is_dropped_when_a_source_lags_beyond_the_timeout() -> None:
    watermarks = marks(msc=("recharge", DUE_US - HOUR_US, DUE_US - 1))
    assert word(watermarks, DUE_US + SOURCE_TIMEOUT_US - 1) is Word.WAIT
    assert word(watermarks, DUE_US + SOURCE_TIMEOUT_US) is Word.DROP


def test_declared_sources_alone_count() -> None:
    declared = rulebase(billing=["recharge"], msc=["charge"])
    watermarks = marks(
        billing=("recharge", DUE_US + 1, DUE_US + 1), msc=("recharge", DUE_US - HOUR_US, DUE_US)
    )
    assert word(watermarks, DUE_US + 1, declared) is Word.FIRE
    assert word(watermarks, DUE_US + 1) is Word.WAIT, "undeclared, whoever sent such events counts"


def test_a_declared_source_that_never_came_is_waited_for() -> None:
    declared = rulebase(billing=["recharge"])
    watermarks = marks(msc=("recharge", DUE_US + 1, DUE_US + 1))
    assert word(watermarks, DUE_US + GRACE_US, declared) is Word.WAIT
    assert word(watermarks, DUE_US + SOURCE_TIMEOUT_US, declared) is Word.DROP


def test_slow_sources_do_not_count() -> None:
    declared = rulebase(slow_billing=["recharge"])
    late = DUE_US - 20 * HOUR_US
    watermarks = marks(slow_billing=("recharge", late, DUE_US), msc=("charge", DUE_US + 1, DUE_US + 1))
    assert word(watermarks, DUE_US + 1, declared) is Word.FIRE
    assert word(watermarks, DUE_US + 1) is Word.WAIT, "the same source, not declared slow, is waited for"


def test_where_nobody_is_declared_those_that_sent_the_type_count() -> None:
    watermarks = marks(
        billing=("recharge", DUE_US + 1, DUE_US + 1), msc=("charge", DUE_US - HOUR_US, DUE_US - 1)
    )
    assert word(watermarks, DUE_US + 1) is Word.FIRE
    assert word(watermarks, DUE_US + 1, awaited="charge") is Word.WAIT


def test_where_nobody_sent_the_type_everybody_counts() -> None:
    watermarks = marks(a=("charge", DUE_US + 1, DUE_US + 1), b=("charge", DUE_US - 1, DUE_US))
    assert word(watermarks, DUE_US + 1) is Word.WAIT
    watermarks.hear("b", [event("charge", DUE_US + 2)], DUE_US + 2)
    assert word(watermarks, DUE_US + 2) is Word.FIRE


def test_with_no_source_at_all_it_fires_after_the_grace() -> None:
    watermarks = Watermarks(DUE_US - HOUR_US)
    assert word(watermarks, DUE_US + GRACE_US - 1) is Word.WAIT
    assert word(watermarks, DUE_US + GRACE_US) is Word.FIRE


def test_nobody_is_idle_before_the_grace_after_a_start() -> None:
    quiet = SourceMark(DUE_US - HOUR_US, DUE_US - HOUR_US, {"recharge"})
    started_us = DUE_US + 30 * MINUTE_US
    for known in ({"msc": quiet}, {}):
        watermarks = Watermarks(started_us, known)
        assert word(watermarks, started_us + GRACE_US - 1) is Word.WAIT
        assert word(watermarks, started_us + GRACE_US) is Word.FIRE


def test_the_timeout_begins_with_the_start() -> None:
    lagging = {"msc": SourceMark(DUE_US - HOUR_US, DUE_US - 1, {"recharge"})}
    started_us = DUE_US + 30 * MINUTE_US
    watermarks = Watermarks(started_us, lagging)
    assert word(watermarks, started_us + SOURCE_TIMEOUT_US - 1) is Word.WAIT
    assert word(watermarks, started_us + SOURCE_TIMEOUT_US) is Word.DROP
    watermarks.hear("msc", [event("recharge", DUE_US + 1)], started_us + 1)
    assert word(watermarks, started_us + SOURCE_TIMEOUT_US) is Word.FIRE, "its backlog came after all"


def test_a_source_silent_for_a_day_is_forgotten_unless_it_is_declared() -> None:
    left_us = DUE_US + SOURCE_TIMEOUT_US - GONE_US
    watermarks = marks(
        0, gone=("recharge", left_us - HOUR_US, left_us), msc=("recharge", DUE_US + 1, DUE_US)
    )
    now_us = DUE_US + SOURCE_TIMEOUT_US
    assert word(watermarks, now_us - 1) is Word.WAIT
    assert word(watermarks, now_us) is Word.FIRE
    assert word(watermarks, now_us, rulebase(gone=["recharge"])) is Word.DROP


def test_made_up_sources_are_bounded() -> None:
    watermarks = Watermarks(0)
    for n in range(MAX_SOURCES + 10):
        watermarks.hear(f"s{n}", [event("charge", DUE_US + n)], DUE_US + n)
    kept = watermarks.marks()
    assert len(kept) == MAX_SOURCES
    assert "s0" not in kept, "who was silent longest is forgotten"
    assert f"s{MAX_SOURCES + 9}" in kept


def test_marks_are_a_copy() -> None:
    watermarks = marks(msc=("charge", DUE_US, DUE_US))
    kept = watermarks.marks()
    watermarks.hear("msc", [event("recharge", DUE_US + 1, "c1")], DUE_US + 1)
    assert kept == {"msc": SourceMark(DUE_US, DUE_US, {"charge"})}
    assert watermarks.marks() == {"msc": SourceMark(DUE_US + 1, DUE_US + 1, {"charge", "recharge", CELL})}


def test_what_each_pattern_awaits() -> None:
    a, b, c = Step(("charge",)), Step(("recharge",)), Step(("topped_up",))
    patterns = {
        "at_airport": DwellPattern("at_airport", "k1", "", "airport", 1),
        "topped_up": SequencePattern("topped_up", "k2", "", (a, b), None, 1, frozenset()),
        "silent": AbsencePattern("silent", "k3", "", a, b, 1),
        "no_topping": AbsencePattern("no_topping", "k4", "", a, c, 1),
        "no_stay": AbsencePattern("no_stay", "k5", "", a, Step(("at_airport",)), 1),
        "drop": ChangePattern("drop", "k6", "", b, None, 7, None, 0.5, 1),
        "many": CountPattern("many", "k7", "", a, None, 2, 1),
    }
    with_patterns = replace(rulebase(), patterns=patterns)
    found = {name: set(awaited_by(each, with_patterns)) for name, each in patterns.items()}
    assert found == {
        "at_airport": {CELL},
        "topped_up": set(),
        "silent": {"recharge"},
        "no_topping": {"charge", "recharge"},
        "no_stay": {CELL},
        "drop": {"recharge"},
        "many": set(),
    }
