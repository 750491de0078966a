"""Static data of a subscriber: imports and changes of consent, taken in by their as-of times."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from opportune_service.core.events import ContextRecord, Event, ImportMode, Rejection
from opportune_service.core.fold import seed_metric, seedable
from opportune_service.core.responses import reply_in
from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState

_EPOCH_DAY = date(1970, 1, 1).toordinal()

CONSENTS = "consents"
"""The attribute whose entries are taken in one by one. Each has an as-of time of its own, under
`consent_key`."""

DO_NOT_CONTACT = "do_not_contact"
"""The attribute that says: on no channel, about nothing."""

_WORDS = {CONSENTS, DO_NOT_CONTACT}
"""What customers say of being contacted. Systems that bring all else do not know it, so that only who names
it changes it."""


def consent_key(scope: str) -> str:
    """Where `SubscriberState.as_of_us` has the as-of time of one consent (``channel/sms``)."""
    return f"{CONSENTS}.{scope}"


def apply_context(
    record: ContextRecord, state: SubscriberState, position: int, *, revision: Revision | None = None
) -> bool:
    """Take in static data; for each attribute the newest as-of time wins. At a tie the customer's refusal
    wins, else the later import.

    Consents are taken in one by one: a refusal of this afternoon outlives tonight's import. At a tie of one
    consent a refusal wins over leave, and either over nothing said.

    An UPSERT also erases what it does not name, if that is not newer; nothing older brings it back. Three
    things stay: consents and the do-not-contact mark (what a customer has refused, no nightly import takes
    back by saying nothing of it), imported behaviours (data mining brings them; they expire), and the seeds
    of metrics. Seeds belong to the definitions of `revision`, the one that the record was admitted with;
    without one they are passed over.

    Returns False if everything that is known is newer, so that nothing changed.
    """
    state.position = position
    incoming = dict(record.attributes)
    replaces = record.mode is ImportMode.UPSERT
    if replaces or not incoming or incoming.keys() - _WORDS:
        # A stranger who refuses one channel is a stranger still, whom nobody may contact on another.
        state.known = True
    if replaces:
        named_before = (name for name in state.context if "." not in name and name not in _WORDS)
        incoming = {**dict.fromkeys(named_before), **incoming}
    newer = 0
    for name, value in incoming.items():
        if name == CONSENTS:
            newer += not _take_consents(record.as_of_us, value, state)
        elif name.startswith("metric."):
            newer += not _take_seed(record.as_of_us, name, value, state, revision)
        else:
            newer += not _take_attribute(record.as_of_us, name, value, state)
    if replaces:
        state.replaced_us = max(state.replaced_us, record.as_of_us)
    return not incoming or newer < len(incoming)


def _take_attribute(as_of_us: int, name: str, value: object, state: SubscriberState) -> bool:
    known_us = state.as_of_us.get(name, 0)
    if "." not in name and name not in _WORDS:  # what an UPSERT erases
        known_us = max(known_us, state.replaced_us)
    if known_us > as_of_us:
        return False
    if name == DO_NOT_CONTACT and known_us == as_of_us and state.context.get(name) is True:
        return True
    # The as-of time of an erased attribute stays: an older import must not bring it back.
    state.as_of_us[name] = as_of_us
    if value is None:
        state.context.pop(name, None)
    else:
        state.context[name] = value
    return True


def _take_consents(as_of_us: int, value: object, state: SubscriberState) -> bool:
    """Take in each consent that is named. A null (`value`) erases all that are older."""
    if as_of_us < state.as_of_us.get(CONSENTS, 0):
        return False
    known = state.context.get(CONSENTS)
    consents: dict[str, bool] = dict(known) if isinstance(known, dict) else {}
    said = value if isinstance(value, dict) else {}
    changed = False
    for scope, word in said.items():
        known_us = state.as_of_us.get(consent_key(scope), -1)
        if as_of_us < known_us:
            continue
        changed = True
        state.as_of_us[consent_key(scope)] = as_of_us
        if as_of_us > known_us or _weight(word) > _weight(consents.get(scope)):
            consents.pop(scope, None)
            if word is not None:
                consents[scope] = word
    if value is None:
        changed = True
        state.as_of_us[CONSENTS] = as_of_us
        for scope in [scope for scope in consents if state.as_of_us.get(consent_key(scope), -1) < as_of_us]:
            del consents[scope]
    state.context.pop(CONSENTS, None)
    if consents:
        # In one order: that in which words came must not show.
        state.context[CONSENTS] = dict(sorted(consents.items()))
    return changed


def refuse_channel(state: SubscriberState, channel: str, at_us: int) -> None:
    """The customer wants nothing more on the channel, as of then. What they said of it later stands; of
    what was said at the same instant, this does."""
    _take_consents(at_us, {f"channel/{channel}": False}, state)


def refusal_in(revision: Revision, event: Event, now_us: int) -> ContextRecord | None:
    """What stays of an event that is rejected for its time alone: that it refuses channels, as of then. An
    opt-out has to work however late it comes. None if it refuses nothing, or is rejected for more."""
    plan = revision.plans.get(event.type)
    words = plan.told.words if plan and plan.told else None
    attributes = revision.admission.admit(event, 0, event.occurred_at_us) if words else None
    if words is None or attributes is None or isinstance(attributes, Rejection):
        return None
    refused = {f"channel/{channel}": False for channel in reply_in(words, attributes).opted_out}
    said_us = min(event.occurred_at_us, now_us)
    return (
        ContextRecord(event.subscriber_id, said_us, ImportMode.PATCH, {CONSENTS: refused})
        if refused
        else None
    )


def _weight(word: bool | None) -> int:
    """Which of two words of one instant stands: the heavier one."""
    return {None: 0, True: 1, False: 2}[word]


def _take_seed(
    as_of_us: int, name: str, value: object, state: SubscriberState, revision: Revision | None
) -> bool:
    metric = revision.rulebase.metrics.get(name.removeprefix("metric.")) if revision else None
    if metric is None or not seedable(metric):
        return False
    days = value if isinstance(value, Mapping) else {}
    seeded = (state.seeds or {}).get(metric.key)
    if seeded is not None and seeded.as_of_us > as_of_us:
        return False
    numbers = {date.fromisoformat(day).toordinal() - _EPOCH_DAY: figure for day, figure in days.items()}
    seed_metric(metric, state, as_of_us, numbers)
    return True
