"""Static data of a subscriber: imports and changes of consent, taken in by their as-of times."""

from __future__ import annotations

from opportune_service.core.events import ContextRecord, ImportMode
from opportune_service.core.state import SubscriberState


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
