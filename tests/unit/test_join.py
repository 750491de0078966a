"""What a candidate shows to people of why it is one."""

from __future__ import annotations

from typing import Any

from opportune_rulebase.model import Calendar, MetricKind, Rulebase
from opportune_rulebase.network import NetworkEngine
from opportune_service.core.events import Event
from opportune_service.core.observe import observe
from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState
from support.rulebases import DAY_US, NOON_US, make_rulebase

WHO, OTHER = "8613800000001", "8613800000002"


def rulebase(when: str) -> Rulebase:
    return make_rulebase(
        events={"call_made": {"callee": "subscriber", "seconds": "int"}},
        subscriber={"friend": "subscriber", "brand": "string", "age": "int"},
        metrics={
            "calls": {"of": ("call_made",), "days": 30},
            "last_callee": {
                "kind": MetricKind.LATEST,
                "value": "callee",
                "of": ("call_made",),
                "days": 30,
                "type": "string",
            },
        },
        facts={"chatty": {"on": ("call_made",), "when": "event.seconds > 60"}},
        imported={"behaviour.owl": DAY_US},
        campaigns={"c1": {"on": ("call_made",), "when": when}},
        calendar=Calendar(),
    )


def held(when: str, state: SubscriberState | None = None) -> dict[str, object]:
    loaded = rulebase(when)
    revision = Revision(loaded, NetworkEngine(loaded), {})
    event = Event("e1", WHO, "call_made", NOON_US)
    admitted = [(event, {"callee": OTHER, "seconds": 90})]
    peers = {OTHER: {"brand": "gotone", "friend": WHO}}.get
    observed = observe(revision, "test", admitted, {WHO: state or SubscriberState()}, 1, None, peers=peers)
    (moment,) = observed.moments
    (candidate,) = moment.candidates
    return dict(candidate.held)


def test_no_whole_number_of_a_subscriber_is_shown() -> None:
    when = (
        "event.callee != '' && peer.friend != '' && sub.friend != '' && event.seconds > 1"
        " && metric.last_callee != ''"
    )
    assert held(when, SubscriberState(context={"friend": OTHER})) == {
        "event.callee": "***********02",
        "event.seconds": 90,
        "metric.last_callee": "***********02",
        "peer.friend": "***********01",
        "sub.friend": "***********02",
    }


def test_every_kind_of_variable_is_read() -> None:
    state = SubscriberState(
        context={"behaviour.owl": True}, as_of_us={"behaviour.owl": NOON_US - 1}, known=True
    )
    when = "peer.brand == 'gotone' && fact.chatty && calendar.workday && behaviour.owl && metric.calls >= 1"
    assert held(when, state) == {
        "peer.brand": "gotone",
        "fact.chatty": True,
        "calendar.workday": True,
        "behaviour.owl": True,
        "metric.calls": 1,
    }


def test_what_is_unknown_is_shown_as_nothing() -> None:
    state = SubscriberState(
        context={"behaviour.owl": True}, as_of_us={"behaviour.owl": NOON_US - 2 * DAY_US}, known=True
    )
    assert held("behaviour.owl || event.seconds > 1", state) == {"behaviour.owl": None, "event.seconds": 90}


def test_a_derived_event_is_named() -> None:
    """When it is not the moment's own."""
    loaded = make_rulebase(
        events={"call_made": {}},
        patterns={"twice": {"count": "call_made", "at_least": 2}},
        campaigns={"pattern": {"on": ("twice",)}, "plain": {"on": ("call_made",)}},
    )
    revision = Revision(loaded, NetworkEngine(loaded), {})
    admitted: list[tuple[Event, dict[str, Any]]] = [
        (Event(f"e{n}", WHO, "call_made", NOON_US + n), {}) for n in range(2)
    ]
    observed = observe(revision, "test", admitted, {WHO: SubscriberState()}, 1, None)
    assert [
        {candidate.campaign: candidate.held for candidate in moment.candidates}
        for moment in observed.moments
    ] == [{"plain": {}}, {"plain": {}, "pattern": {"event.type": "twice"}}]
