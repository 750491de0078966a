"""Try the cases of a rulebase through the same core that serves: observe, then decide. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from opportune_rulebase.engine import Engine
from opportune_rulebase.model import Metric, MetricKind, Rulebase

from opportune_service.app.read_cases import Case, Expected
from opportune_service.core.calendars import local_day
from opportune_service.core.context import apply_context
from opportune_service.core.decide import decide
from opportune_service.core.events import ContextRecord, ImportMode, Rejection
from opportune_service.core.observe import observe
from opportune_service.core.revision import Revision
from opportune_service.core.state import Series, SubscriberState
from opportune_service.core.verdict import Candidate, Decision, History, Moment, Reason

_SOURCE = "test"
_GIVEN_TAC = "00000000"
"""The made-up handset that has what a case gives as `terminal.*`. No real TAC begins with so many zeros."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came of a case. `failures` says in words what is not as expected; empty: it passed."""

    case: Case
    decisions: Sequence[Decision]
    failures: Sequence[str]


def try_case(rulebase: Rulebase, engine: Engine, case: Case) -> CaseResult:
    """Publish the case's events, each decided at its own time, and compare.

    Every metric counts as folded for its whole window: what `given` does not name is exactly 0. A
    decision that is not listed under `expect` is a failure; other reasons need not be listed.
    """
    revision = _revision(rulebase, engine, case)
    history = History(contacts=list(case.contacts), outcomes=list(case.outcomes))
    decisions: list[Decision] = []
    for moment in _moments(revision, case, {}):
        decisions.extend(decide(revision.rulebase, moment, history).decisions)
    remaining = list(decisions)
    missing = []
    for expected in case.expect:
        found = next((decision for decision in remaining if _meets(decision, expected)), None)
        if found is None:
            missing.append(expected)
        else:
            remaining.remove(found)
    failures = [_missing(revision, case, expected, decisions) for expected in missing]
    # What an expectation named but wanted otherwise is one failure, not two.
    named = {expected.campaign for expected in missing}
    failures += [
        f"{decision.campaign} was decided on {decision.channel}, but is not listed under expect"
        for decision in remaining
        if decision.reason is Reason.DECIDED and decision.campaign not in named
    ]
    return CaseResult(case, decisions, failures)


def _revision(rulebase: Rulebase, engine: Engine, case: Case) -> Revision:
    if case.terminal:
        terminals = dict(rulebase.tables.terminals) | {_GIVEN_TAC: case.terminal}
        rulebase = replace(rulebase, tables=replace(rulebase.tables, terminals=terminals))
    return Revision(rulebase, engine, {metric.key: 0 for metric in rulebase.metrics.values()})


def _moments(revision: Revision, case: Case, prompts: Mapping[str, str]) -> list[Moment]:
    """The moments of the case's events, from a fresh state."""
    state = _state(revision, case)
    moments: list[Moment] = []
    for event in case.events:
        attributes = revision.admission.admit(event, 0, event.occurred_at_us)
        if isinstance(attributes, Rejection):  # the reader admitted it before
            raise TypeError(attributes.message)
        states = {case.subscriber_id: state}
        moments += observe(
            revision, _SOURCE, [(event, attributes)], states, 1, None, prompts=prompts
        ).moments
    return moments


def _state(revision: Revision, case: Case) -> SubscriberState:
    """What is known of the subscriber before the first event."""
    state = SubscriberState()
    if case.known:
        record = ContextRecord(case.subscriber_id, 0, ImportMode.UPSERT, dict(case.context))
        apply_context(record, state, 0)
    if case.terminal:
        state.imei = f"{_GIVEN_TAC}0000000"
    begin_us = min([case.now_us, *(event.occurred_at_us for event in case.events)])
    zone = revision.zone_of(state.context)
    for name, value in case.metrics.items():
        metric = revision.rulebase.metrics[name]
        at = begin_us if metric.days is None else local_day(begin_us, zone)
        state.series[metric.key] = _series(metric, at, value)
    return state


def _series(metric: Metric, at: int, value: int | float) -> Series:
    """State that gives `value`, all of it at once, just before the first event."""
    if metric.days is None and metric.kind is MetricKind.COUNT:
        return Series([at] * int(value), [])
    return Series([at], [value])


def _meets(decision: Decision, expected: Expected) -> bool:
    return (
        decision.campaign == expected.campaign
        and decision.reason is expected.reason
        and (expected.mode is None or decision.mode is expected.mode)
        and (expected.channel is None or decision.channel == expected.channel)
        and (expected.content is None or expected.content in decision.content)
    )


def _missing(revision: Revision, case: Case, expected: Expected, decisions: Sequence[Decision]) -> str:
    """Why an expectation is not met, with what happened instead."""
    wanted = f"{expected.campaign} should be {_words(expected)}"
    found = [decision for decision in decisions if decision.campaign == expected.campaign]
    if found:
        return f"{wanted}, but it is {', then '.join(map(_what_happened, found))}"
    campaign = revision.rulebase.campaigns[expected.campaign]
    if not any(event.type in campaign.on for event in case.events):
        return f"{wanted}, but no event of the case triggers it: it is on {', '.join(campaign.on)}"
    held = _held_when_asked(revision, case, expected.campaign)
    return f"{wanted}, but its 'when' does not hold: {held}"


def _words(expected: Expected) -> str:
    parts = [expected.mode or "", expected.reason]
    if expected.channel:
        parts.append(f"on {expected.channel}")
    if expected.content:
        parts.append(f"saying {expected.content!r}")
    return " ".join(part for part in parts if part)


def _what_happened(decision: Decision) -> str:
    if decision.reason is Reason.DECIDED:
        return f"{decision.mode} decided on {decision.channel}, saying {decision.content!r}"
    failed = [check for check in decision.checks if not check.passed]
    return f"{decision.reason} ({failed[-1].policy}: {failed[-1].detail})" if failed else decision.reason


def _held_when_asked(revision: Revision, case: Case, campaign: str) -> str:
    """The values that its `when` reads, at the last event that triggers it."""
    candidates: list[Candidate] = [
        candidate
        for moment in _moments(revision, case, {campaign: "asked"})
        if moment.event_type in revision.rulebase.campaigns[campaign].on
        for candidate in moment.candidates
        if candidate.campaign == campaign
    ]
    values = candidates[-1].held if candidates else {}
    return ", ".join(f"{name} is {_value(value)}" for name, value in values.items())


def _value(value: object) -> str:
    if value is None:
        return "unknown"
    return str(value).lower() if isinstance(value, bool) else str(value)
