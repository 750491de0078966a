"""Join an event with what is known of its subscriber: all that deciding will need, evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, tzinfo
from math import isfinite
from typing import Any

from opportune_rulebase.engine import Facts, Truth
from opportune_rulebase.model import Attribute, Campaign, Rulebase, Template, ValueType
from opportune_rulebase.segments import segments
from opportune_rulebase.variables import lookup

from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState
from opportune_service.core.verdict import Candidate, Deferral, Profile, Trigger


def profile_of(revision: Revision, state: SubscriberState, zone: tzinfo) -> Profile:
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


def preferred(revision: Revision, facts: Facts) -> tuple[dict[str, float], tuple[str, ...]]:
    """What the rulebase's `Preference` says of the subscriber, as `Moment` has it: scores of channels, and
    the channels of the segment."""
    preference, value = revision.rulebase.policies.preference, revision.engine.value
    scores = {channel: _number(value(score, facts)) for channel, score in preference.scores.items()}
    segment = None if preference.segment is None else value(preference.segment, facts)
    return (
        {channel: score for channel, score in scores.items() if score is not None},
        preference.segments.get(segment, ()) if isinstance(segment, str) else (),
    )


def _number(value: object) -> float | None:
    """None for what is unknown, no number, or not finite: nothing that can be weighed against others."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value)


def candidate_of(
    revision: Revision,
    campaign: Campaign,
    facts: Facts,
    trigger: Trigger,
    *,
    prompt_of: str = "",
    deferral: Deferral | None = None,
    derived: bool = False,
) -> Candidate:
    """Evaluate, at this moment, every expression that the policies will ask for. `trigger`: the event that
    `facts` are of. `prompt_of`: the earlier decision that it decides again, "" for none; `deferral`: the
    same of what was deferred. `derived`: the event is not the moment's own: derived of it, or earlier."""
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
        propensity=_number(propensity),
        content={
            name: _render(revision, campaign.content[name], facts, vocabulary.channels[name].max_segments)
            for name in campaign.channels
        },
        held=_held(revision, campaign, facts, derived),
        trigger=trigger,
        prompt_of=prompt_of,
        deferred_of=deferral.decision_id if deferral else "",
        attempt=deferral.attempt + 1 if deferral else 1,
        expires_us=deferral.expires_us if deferral else 0,
    )


def _render(revision: Revision, template: Template, facts: Facts, max_segments: int | None) -> str | None:
    """The text, or None if a variable is unknown or the text takes too many SMS: half a sentence is never
    sent, nor is one cut off."""
    parts: list[str] = []
    for part in template.parts:
        if isinstance(part, str):
            parts.append(part)
            continue
        value = revision.engine.value(part, facts)
        if value is None:
            return None
        parts.append(_plain_text(value))
    text = "".join(parts).replace("\0", "\N{REPLACEMENT CHARACTER}")  # not every store can keep a NUL
    return text if max_segments is None or segments(text) <= max_segments else None


def _plain_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _held(revision: Revision, campaign: Campaign, facts: Facts, derived: bool) -> dict[str, object]:
    """The values behind the trigger, for people: what `when` reads, definitions with what they read, and
    the derived event that it was."""
    held: dict[str, object] = {"event.type": facts.type} if derived else {}
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
            held[name] = _plain(_read(name, facts, revision.rulebase))
    return dict(sorted(held.items()))


def _read(name: str, facts: Facts, rulebase: Rulebase) -> object:
    space, _, rest = name.partition(".")
    vocabulary = rulebase.vocabulary
    attribute: Attribute | None = None
    if space == "metric":
        value = facts.metric(rest)[0]  # also if only so much is known of it
        metric = rulebase.metrics[rest]
        if metric.value is not None:
            attribute = vocabulary.events[metric.of[0]].attributes.get(metric.value)
    else:
        value = lookup(facts, name, vocabulary, _no_definition)
    if space == "event" and facts.type in vocabulary.events:
        attribute = vocabulary.events[facts.type].attributes.get(rest)
    elif space in ("sub", "peer"):
        attribute = vocabulary.subscriber.get(rest)
    if attribute is not None and attribute.type is ValueType.SUBSCRIBER and isinstance(value, str):
        return f"{'*' * (len(value) - 2)}{value[-2:]}"  # what is shown to people never holds a whole number
    return value


def _no_definition(_: str) -> Truth:
    return None


def _plain(value: object) -> object:
    """Only what any store and any wire can hold."""
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value
