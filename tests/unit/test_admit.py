"""What may enter: types of attributes, derived event types, lateness, imported behaviours and seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opportune_rulebase.model import EventType, Rulebase
from opportune_service.core.admit import Admission, AttributesError
from opportune_service.core.events import Encoding, Event, Rejection, RejectionReason
from support.rulebases import DAY_US, NOON_US, make_rulebase

HOUR_US = 3_600_000_000
NUMBER = "8613800000001"


def rulebase() -> Rulebase:
    return make_rulebase(
        events={"call_made": {"callee": "subscriber", "cost": "double"}, "top_up": {"amount": "int"}},
        subscriber={"birthday": "date", "friend": "subscriber", "age": "int"},
        metrics={
            "calls": {"of": ("call_made",), "days": 30},
            "paid": {"of": ("top_up",), "value": "amount", "days": 30},
            "cost": {"of": ("call_made",), "value": "cost", "days": 30},
            "profit": {"of": ("call_made",), "value": "cost", "days": 30, "bound": "none"},
            "recent": {"of": ("call_made",), "last_us": HOUR_US},
            "dearest": {"of": ("call_made",), "value": "cost", "kind": "max"},
        },
        imported={"behaviour.owl": DAY_US},
    )


def admission() -> Admission:
    loaded = rulebase()
    return Admission(loaded.vocabulary, loaded.metrics)


def admit_call(attributes: dict[str, Any], **options: Any) -> Any:
    event = Event("e1", NUMBER, "call_made", NOON_US, msgspec.json.encode(attributes))
    return admission().admit(event, 0, options.pop("now_us", NOON_US), **options)


def admit_context(raw: dict[str, Any]) -> dict[str, Any]:
    return admission().admit_context(msgspec.json.encode(raw), Encoding.JSON)


@given(
    st.dictionaries(
        st.sampled_from(["callee", "cost", "shoe:size", "", "extra"]),
        st.sampled_from(["8613800000002", 1.5, None, "12:30", ["a", {"b": ":"}], {"callee": {"x": 1}}, {}]),
    ),
    st.sampled_from(Encoding),
)
def test_every_other_name_is_counted(attributes: dict[str, Any], encoding: Encoding) -> None:
    """Whatever the fast way thinks: as many as a plain look at the map finds."""
    encode = msgspec.json.encode if encoding is Encoding.JSON else msgspec.msgpack.encode
    made = admission()
    made.admit(Event("e1", NUMBER, "call_made", NOON_US, encode(attributes), encoding=encoding), 0, NOON_US)
    assert made.ignored.total == len(attributes.keys() - {"callee", "cost"})


@pytest.mark.parametrize("callee", ["12345", "8613800000002", "123456789012345"])
def test_another_subscriber_is_five_to_fifteen_digits(callee: str) -> None:
    assert admit_call({"callee": callee}) == {"callee": callee}


@pytest.mark.parametrize(
    "callee", ["1234", "1234567890123456", "+8613800000002", "86138\n", "８６１３８", "a 13800000002", ""]
)
def test_anything_else_is_rejected_without_being_quoted(callee: str) -> None:
    rejected = admit_call({"callee": callee})
    assert isinstance(rejected, Rejection)
    assert rejected.reason is RejectionReason.BAD_ATTRIBUTES
    assert rejected.message == "callee must be 5 to 15 digits without a plus sign"


def test_a_number_instead_of_digits_is_rejected_without_being_quoted() -> None:
    rejected = admit_call({"callee": 8613800000002})
    assert isinstance(rejected, Rejection)
    assert "138" not in rejected.message


@pytest.mark.parametrize("day", ["2026-11-20", "2024-02-29", "0001-01-01", "9999-12-31"])
def test_a_date_is_one_of_the_calendar(day: str) -> None:
    assert admit_context({"birthday": day}) == {"birthday": day}


@pytest.mark.parametrize(
    "day",
    ["2026-02-29", "2026-13-01", "20261120", "2026-11-20T00:00:00Z", "2026-11-20\n", "2026-W47-5", "", 5],
)
def test_no_other_text_is_a_date(day: object) -> None:
    with pytest.raises(AttributesError, match="birthday"):
        admit_context({"birthday": day})


def test_events_that_the_service_makes_are_refused_from_outside() -> None:
    loaded = make_rulebase(events={"call_made": {}}, patterns={"riding": {"count": "call_made"}})
    types = {
        **loaded.vocabulary.events,
        "handset_changed": EventType("handset_changed", "", {}, derived=True),
    }
    made = Admission(replace(loaded.vocabulary, events=types))
    refused = made.admit(Event("e1", NUMBER, "riding", NOON_US), 0, NOON_US)
    assert isinstance(refused, Rejection)
    assert refused.reason is RejectionReason.UNKNOWN_TYPE
    assert "the service itself makes events of type 'riding'" in refused.message
    assert made.admit(Event("e2", NUMBER, "handset_changed", NOON_US), 0, NOON_US) == {}


@pytest.mark.parametrize(
    ("age_us", "lateness_us", "limit"),
    [
        (HOUR_US, None, 0),
        (HOUR_US + 1, None, 60),
        (DAY_US, DAY_US, 0),
        (DAY_US + 1, DAY_US, 1440),
        (601, 600, 0),
    ],
)
def test_how_late_an_event_may_be_depends_on_its_source(
    age_us: int, lateness_us: int | None, limit: int
) -> None:
    options = {} if lateness_us is None else {"lateness_us": lateness_us}
    admitted = admit_call({}, now_us=NOON_US + age_us, **options)
    if age_us <= (lateness_us or HOUR_US):
        assert admitted == {}
    else:
        assert isinstance(admitted, Rejection)
        assert admitted.reason is RejectionReason.TOO_LATE
        assert f"the limit of its source is {limit}" in admitted.message


def test_imports_carry_behaviours_and_seeds() -> None:
    raw = {
        "age": 30,
        "behaviour.owl": True,
        "metric.calls": {"2026-11-01": 3, "2026-11-02": 0},
        "metric.cost": {"2026-11-01": 2},
        "metric.profit": {"2026-11-01": -2.5},
        "metric.paid": None,
    }
    admitted = admit_context(raw)
    assert admitted == raw
    assert type(admitted["metric.cost"]["2026-11-01"]) is float
    parts = {name: value for name, value in raw.items() if name != "age"}
    assert admission().admit_context(b"", Encoding.JSON, parts) == parts


@pytest.mark.parametrize(
    "raw",
    [
        {"behaviour.owl": "yes"},
        {"metric.recent": {"2026-11-01": 3}},
        {"metric.dearest": {"2026-11-01": 3.0}},
        {"metric.calls": 3},
        {"metric.calls": {"2026-11-31": 3}},
        {"metric.calls": {"2026-11-01": -1}},
        {"metric.calls": {"2026-11-01": 1.5}},
        {"metric.calls": {"2026-11-01": None}},
        {"metric.calls": {"2026-11-01": 2**63}},
        {"metric.cost": {"2026-11-01": "1"}},
    ],
)
def test_bad_behaviours_and_seeds_are_named(raw: dict[str, Any]) -> None:
    with pytest.raises(AttributesError, match=next(iter(raw))):
        admit_context(raw)


def test_seeds_that_are_not_numbers_are_refused() -> None:
    data = msgspec.msgpack.encode({"metric.cost": {"2026-11-01": float("nan")}})
    with pytest.raises(AttributesError):
        admission().admit_context(data, Encoding.MSGPACK)


def test_undeclared_behaviours_and_metrics_are_ignored_and_counted() -> None:
    made = admission()
    data = msgspec.json.encode({"behaviour.lark": True, "metric.gone": {"2026-11-01": 3}})
    assert made.admit_context(data, Encoding.JSON) == {}
    assert dict(made.ignored.by_name) == {"subscriber.behaviour.lark": 1, "subscriber.metric.gone": 1}
