"""The pattern that is always there: the handset is another than before.

Entries are what handsets told, `what` being the IMEI. The tip: (IMEI, when it was told). Of a handset that
told its number several times in a row the first and the last time are kept. So when two handsets take
turns within the hour and their events come late as well, some of the turns may not be noticed.
"""

from __future__ import annotations

from collections.abc import Sequence

from opportune_service.core.patterns.history import (
    Tip,
    advance,
    comes_last,
    horizon_us,
    place_of,
    prune,
)
from opportune_service.core.patterns.sighting import Completion, Found, found
from opportune_service.core.state import Entry, PatternState, SubscriberState

HANDSET_CHANGED = "handset_changed"

_SERIAL = 14
"""Digits that name the handset; what follows is a check digit, or the version of its software."""


def take_handset(
    state: SubscriberState, at_us: int, digest: int, cell_id: str, imei: str
) -> Sequence[Completion]:
    """Let an event that told an IMEI take part in the pattern that is always there: a handset that is not
    the one before gives `handset_changed`. `state.imei` is then that of the newest event."""
    kept = state.handset
    if kept is None:
        known = state.context.get("imei")
        before = (known, 0) if isinstance(known, str) else ()
        kept = state.handset = PatternState(base=before, tip=before)
    recent = kept.recent
    entry = Entry(at_us, digest, imei, None, cell_id)
    if comes_last(kept, entry):
        state.imei = imei
        if recent and recent[-1].what == imei and _told_before(kept, len(recent) - 1) == imei:
            recent[-1] = entry
            kept.tip = (imei, at_us)
            if len(recent) > 1:
                prune(kept, horizon_us(state, at_us), _step)
            return ()
    else:
        place = place_of(kept, entry)
        if recent[place].what == imei and _told_before(kept, place) == imei:
            return ()
    return advance(kept, entry, horizon_us(state, at_us), _step)


def _told_before(kept: PatternState, place: int) -> object:
    if place:
        return kept.recent[place - 1].what
    return kept.base[0] if kept.base else None


def _step(tip: Tip, entry: Entry) -> tuple[Tip, Found | None]:
    after = (entry.what, entry.at_us)
    if not tip or tip[0][:_SERIAL] == entry.what[:_SERIAL]:
        return after, None
    attributes = {"imei": entry.what, "previous_imei": tip[0]}
    # It speaks of the time since the handset before was seen last.
    return after, found(
        HANDSET_CHANGED, HANDSET_CHANGED, [entry.digest], entry.at_us, tip[1], attributes, entry.cell_id
    )
