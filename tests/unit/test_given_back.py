"""A revision that is closed is given back at once: reloads must not wait for the collector, which comes
late."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from zoneinfo import ZoneInfo

import pytest
from opportune_rulebase import load
from opportune_rulebase.durable import DurableEngine
from opportune_rulebase.engine import Engine, Facts
from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import Campaign, Rulebase
from opportune_rulebase.network import NetworkEngine
from opportune_service.core.events import Event, Rejection
from opportune_service.core.observe import observe
from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState
from support.storm import storm_rulebase

HELD = (Campaign, Expression, NetworkEngine, DurableEngine, Revision)
ENGINES = (NetworkEngine, DurableEngine)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """The collector does nothing."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def held() -> dict[int, object]:
    """All that lives of what a revision consists of, by identity."""
    return {id(each): each for each in gc.get_objects() if isinstance(each, HELD)}


def used(make_engine: Callable[[Rulebase], Engine]) -> Revision:
    """A revision that has matched, tested and computed."""
    rulebase = load(storm_rulebase())
    revision = Revision(rulebase, make_engine(rulebase), {})
    facts = Facts(
        type="mms_sent",
        event={"size_kb": 3},
        sub={},
        terminal={},
        place=None,
        metric=lambda _: (5, True),
        now_us=1_700_000_000_000_000,
        zone=ZoneInfo("UTC"),
    )
    assert [each.name for each in revision.engine.match(facts)] == ["data", "music"]
    for definition in rulebase.definitions.values():
        assert revision.engine.truth(definition.when, facts) is True
        assert revision.tests[definition.when](facts)
    event = Event("e1", "8613800000001", "mms_sent", facts.now_us, b'{"size_kb": 3}')
    attributes = revision.admission.admit(event, 0, facts.now_us)
    assert not isinstance(attributes, Rejection)
    observe(revision, "gn", [(event, attributes)], {event.subscriber_id: SubscriberState()}, 1, None)
    return revision


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("make_engine", ENGINES)
def test_a_closed_revision_is_given_back_without_the_collector(
    make_engine: Callable[[Rulebase], Engine],
) -> None:
    before = set(held())
    used(make_engine).close()
    assert [each for identity, each in held().items() if identity not in before] == []


@pytest.mark.usefixtures("uncollected")
def test_control_one_that_is_not_closed_waits_for_the_collector() -> None:
    before = set(held())
    used(NetworkEngine)
    assert set(held()) - before
    gc.collect()
    assert not set(held()) - before


@pytest.mark.usefixtures("uncollected")
def test_loading_leaves_hardly_anything_to_the_collector() -> None:
    load(storm_rulebase())  # what is made once
    gc.collect()
    load(storm_rulebase())
    assert gc.collect() < 50
