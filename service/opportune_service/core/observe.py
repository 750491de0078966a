"""Steps 2 to 6 of one event: deduplicate, enrich, fold, infer, match. The fast path.

Everything here works on the subscriber's live state alone. What comes out are `Moment`s: the few
events that a campaign wants, joined with all that deciding will need, so that the strict path never
looks at live state again (it may have moved on by then).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, tzinfo
from functools import partial
from typing import Any

import msgspec
from opportune_rulebase.engine import Facts
from opportune_rulebase.model import Campaign, Template
from xxhash import xxh3_64_intdigest

from opportune_service.core.admit import Attributes
from opportune_service.core.events import MAX_LATENESS_US, MAX_SKEW_US, ContextRecord, Event, ImportMode
from opportune_service.core.fold import fold_metric, read_metric
from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState
from opportune_service.core.verdict import Candidate, EventKey, Moment, Profile

_SEEN_FOR_US = MAX_LATENESS_US + MAX_SKEW_US
_SEEN_SLACK = 64
_FORGET_EVERY_US = 600_000_000
"""Forget old event hashes only now and then: a walk over them at each event would cost the more, the busier
the subscriber is."""

HANDSET_CHANGED = "handset_changed"
"""Derived when a subscriber's IMEI is not the one seen before."""


class Observed(msgspec.Struct):
    """What a batch came to: events to log (duplicates left out) and moments to decide."""

    events: list[Event]
    duplicates: int
    moments: list[Moment]


def observe(
    revision: Revision,
    source: str,
    admitted: Iterable[tuple[Event, Attributes]],
    states: Mapping[str, SubscriberState],
    position: int,
    now_us: int | None,
    *,
    touch_point: str = "",
    prompts: Mapping[str, str] | None = None,
) -> Observed:
    """Take admitted events into their subscribers' states, which change.

    `position` is the log position that the batch will have. `now_us` is the decision time; None means
    each event's own time (replay). `touch_point` and `prompts` (campaign -> earlier decision) come from
    `advise`: those campaigns are candidates at this moment whether or not the event triggers them.
    """
    observed = Observed([], 0, [])
    seed = xxh3_64_intdigest(source.encode())
    for event, attributes in admitted:
        state = states[event.subscriber_id]
        at_us = event.occurred_at_us
        digest = xxh3_64_intdigest(event.id.encode(), seed)
        if digest in state.seen:
            observed.duplicates += 1
            continue
        state.seen[digest] = at_us
        state.position = position
        changed = _enrich(state, event)
        if at_us > state.latest_us:
            due = at_us // _FORGET_EVERY_US > state.latest_us // _FORGET_EVERY_US
            state.latest_us = at_us
            if due and len(state.seen) > _SEEN_SLACK:
                _forget(state)
        if len(state.series) > len(revision.metric_keys):
            # Reloads leave behind what metrics counted that are no more.
            state.series = {key: each for key, each in state.series.items() if key in revision.metric_keys}
        observed.events.append(event)
        if event.type in revision.watched or prompts:
            here = touch_point, prompts or {}
            _take_in(revision, observed, state, event, source, attributes, now_us, *here)
        if changed and HANDSET_CHANGED in revision.watched:
            derived = msgspec.structs.replace(
                event, id=f"{event.id}/{HANDSET_CHANGED}", type=HANDSET_CHANGED
            )
            _take_in(revision, observed, state, derived, source, changed, now_us, "", {})
    return observed


def refold(
    revision: Revision,
    source: str,
    events: Iterable[Event],
    states: Mapping[str, SubscriberState],
    position: int,
) -> None:
    """Fold logged events again, as recovery does: into the states that do not hold `position` yet.

    Events of subscribers that are not in `states` are passed over. Decides nothing.
    """
    admitted = []
    for event in events:
        state = states.get(event.subscriber_id)
        if state is None or state.position >= position:
            continue
        attributes = revision.admission.admit(event, 0, event.occurred_at_us)
        if isinstance(attributes, dict):
            admitted.append((event, attributes))
    observe(revision, source, admitted, states, position, None)


def apply_context(record: ContextRecord, state: SubscriberState, position: int) -> bool:
    """Take in static data; for each attribute the newest as-of time wins. At a tie the customer's refusal
    wins, else the later import.

    An UPSERT also erases what it does not name, if that is not newer; nothing older brings it back. Returns
    False if everything that is known is newer, so that nothing changed.
    """
    state.position = position
    state.known = True
    incoming = dict(record.attributes)
    if record.mode is ImportMode.UPSERT:
        incoming = {**dict.fromkeys(state.context), **incoming}
    newer = 0
    for name, value in incoming.items():
        known_us = max(state.as_of_us.get(name, 0), state.replaced_us)
        if known_us > record.as_of_us:
            newer += 1
            continue
        if known_us == record.as_of_us:
            value = _after_tie(name, state.context.get(name), value)  # noqa: PLW2901 - the word that stands
        # The as-of time of an erased attribute stays: an older import must not bring it back.
        state.as_of_us[name] = record.as_of_us
        if value is None:
            state.context.pop(name, None)
        else:
            state.context[name] = value
    if record.mode is ImportMode.UPSERT:
        state.replaced_us = max(state.replaced_us, record.as_of_us)
    return not incoming or newer < len(incoming)


def _after_tie(name: str, known: object, value: object) -> object:
    """What stands of two imports with one as-of time: a refusal to be contacted outlives the other word."""
    if name == "do_not_contact" and known is True:
        return True
    if name == "consents" and isinstance(known, dict):
        said = value if isinstance(value, dict) else {}
        return {**said, **{purpose: False for purpose, word in known.items() if word is False}} or None
    return value


def _enrich(state: SubscriberState, event: Event) -> Attributes | None:
    """Remember the newest cell and handset; the attributes of `handset_changed` if the handset is new."""
    if event.cell_id and event.occurred_at_us >= state.cell_us:
        state.cell_id, state.cell_us = event.cell_id, event.occurred_at_us
    if not event.imei or event.occurred_at_us < state.imei_us:
        return None
    state.imei_us = event.occurred_at_us
    if event.imei == state.imei:
        return None
    previous = state.imei or str(state.context.get("imei") or "")
    state.imei = event.imei
    # The 15th digit is a check digit or absent, and a software version makes 16: fourteen identify.
    if not previous or previous[:14] == event.imei[:14]:
        return None
    return {"imei": event.imei, "previous_imei": previous}


def _forget(state: SubscriberState) -> None:
    """Drop hashes of events that would be rejected as too late by now."""
    horizon_us = state.latest_us - _SEEN_FOR_US
    state.seen = {digest: at_us for digest, at_us in state.seen.items() if at_us >= horizon_us}


def _take_in(
    revision: Revision,
    observed: Observed,
    state: SubscriberState,
    event: Event,
    source: str,
    attributes: Attributes,
    now_us: int | None,
    touch_point: str,
    prompts: Mapping[str, str],
) -> None:
    """Fold, infer and match one event; add the moment if a campaign wants it."""
    rulebase, at_us = revision.rulebase, event.occurred_at_us
    zone = revision.zone_of(state.context)
    # A late event happened where it says, not where the subscriber is by now.
    cell_id, imei = event.cell_id or state.cell_id, event.imei or state.imei or state.context.get("imei")
    facts = Facts(
        type=event.type,
        event=attributes,
        sub=state.context,
        terminal=rulebase.tables.terminals.get(imei[:8], {}) if isinstance(imei, str) else {},
        place=rulebase.tables.cells.get(cell_id) if cell_id else None,
        metric=partial(_metric, revision, state, at_us, zone),
        now_us=at_us,
        zone=zone,
    )
    for metric in revision.metrics_of.get(event.type, ()):
        if metric.where is None or revision.engine.truth(metric.where, facts) is True:
            fold_metric(metric, state, at_us, attributes, zone)
    matched = {}
    if event.type in revision.triggers:
        # What `where` filters computed came before the fold; campaigns see the event included.
        facts.memo.clear()
        matched = {campaign.name: campaign for campaign in revision.engine.match(facts)}
    for name in prompts:
        if name in rulebase.campaigns:
            matched.setdefault(name, rulebase.campaigns[name])
    if matched:
        moment = Moment(
            key=EventKey(event.subscriber_id, source, event.id),
            event_type=event.type,
            occurred_at_us=at_us,
            now_us=at_us if now_us is None else now_us,
            profile=_profile(revision, state, zone),
            candidates=tuple(
                _candidate(revision, campaign, facts, prompts.get(name, ""))
                for name, campaign in sorted(matched.items())
            ),
            touch_point=touch_point,
        )
        observed.moments.append(moment)


def _metric(
    revision: Revision, state: SubscriberState, at_us: int, zone: tzinfo, name: str
) -> tuple[int | float | None, bool]:
    metric = revision.rulebase.metrics[name]
    return read_metric(metric, revision.coverage.get(metric.key), state, at_us, zone)


def _profile(revision: Revision, state: SubscriberState, zone: tzinfo) -> Profile:
    context: Mapping[str, Any] = {**revision.defaults, **state.context}
    return Profile(
        known=state.known,
        zone=str(zone),
        status=context.get("status"),
        branch=context.get("branch"),
        do_not_contact=context.get("do_not_contact"),
        products=tuple(context.get("products", ())),
        consents=dict(context.get("consents", {})),
    )


def _candidate(revision: Revision, campaign: Campaign, facts: Facts, prompt_of: str) -> Candidate:
    """Evaluate, at this moment, every expression that the policies will ask for."""
    engine, vocabulary = revision.engine, revision.rulebase.vocabulary
    product = vocabulary.products[campaign.product]
    product_ok = True if product.needs is None else engine.truth(product.needs, facts)
    terminal_ok: dict[str, bool | None] = {}
    for name in campaign.channels:
        needs = vocabulary.channels[name].needs
        channel_ok = True if needs is None else engine.truth(needs, facts)
        terminal_ok[name] = False if False in (product_ok, channel_ok) else (product_ok and channel_ok)
    propensity = None if campaign.propensity is None else engine.value(campaign.propensity, facts)
    return Candidate(
        campaign=campaign.name,
        target=True if campaign.target is None else engine.truth(campaign.target, facts),
        terminal_ok=terminal_ok,
        suppressed_by=tuple(
            s.name
            for s in revision.suppressions_of[campaign.name]
            if engine.truth(s.when, facts) is not False
        ),
        propensity=float(propensity) if isinstance(propensity, int | float) else None,
        content={name: _render(revision, campaign.content[name], facts) for name in campaign.channels},
        held=_held(revision, campaign, facts),
        prompt_of=prompt_of,
    )


def _render(revision: Revision, template: Template, facts: Facts) -> str | None:
    """The text, or None if a variable is unknown: half a sentence is never sent."""
    parts: list[str] = []
    for part in template.parts:
        if isinstance(part, str):
            parts.append(part)
            continue
        value = revision.engine.value(part, facts)
        if value is None:
            return None
        parts.append(_plain_text(value))
    return "".join(parts)


def _plain_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _held(revision: Revision, campaign: Campaign, facts: Facts) -> dict[str, object]:
    """The values behind the trigger, for people: what `when` reads, definitions with what they read."""
    held: dict[str, object] = {}
    pending = list(campaign.when.reads) if campaign.when else []
    while pending:
        name = pending.pop()
        if name in held or name in ("now", "zone"):
            continue
        definition = revision.rulebase.definitions.get(name)
        if definition is not None:
            held[name] = revision.engine.truth(definition.when, facts)
            pending.extend(definition.when.reads)
        else:
            held[name] = _plain(_read(name, facts))
    return dict(sorted(held.items()))


def _read(name: str, facts: Facts) -> object:
    root, _, rest = name.partition(".")
    if name == "event.type":
        return facts.type
    if root == "metric":
        return facts.metric(rest)[0]
    if root == "place":
        return None if facts.place is None else getattr(facts.place, rest)
    return {"event": facts.event, "sub": facts.sub, "terminal": facts.terminal}[root].get(rest)


def _plain(value: object) -> object:
    """Only what any store and any wire can hold."""
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value
