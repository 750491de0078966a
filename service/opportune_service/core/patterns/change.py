"""Changes: this period against the one before it, in local days.

What each local day came to is in `PatternState.days`, as exact sums (see `exact.py`), so that order does
not show. The base: () or (day of the last completion,).

Rises complete at events. Their entries' `what` is [local day, amount]; what the days came to before all
recent entries is found by taking these away again. The tip is that of the base, and after it a note of the
newest day: (rested, day, figure of the period before, exact sum of this period).

Falls complete by a timer at the beginning of a day. It is set to the first day on which the figures, as
they are, would make a fall, and no later than today's events can make one; so nobody is looked at every
night.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from datetime import tzinfo
from functools import partial
from itertools import chain

from opportune_rulebase.model import ChangePattern

from opportune_service.core.calendars import DAY_US, instant_of, local_day
from opportune_service.core.exact import add, total
from opportune_service.core.patterns.answers import give, new_among, unanswered
from opportune_service.core.patterns.history import (
    Tip,
    again,
    comes_last,
    insert,
    prune,
    state_of,
)
from opportune_service.core.patterns.sighting import (
    Compilers,
    Completion,
    Found,
    Sighting,
    Taker,
    found,
)
from opportune_service.core.state import Entry, PatternState, Series, SubscriberState

_MARGIN = 2
"""Days kept beyond both periods: a late event is still compared as of its own day."""

_NEVER = -(10**9)
_QUARTER_US = 900_000_000
_LARGEST_EXACT = 2**53


def change_taker(pattern: ChangePattern, compile_: Compilers) -> Taker:
    """An event without the attribute does not take part."""
    where = compile_.test(pattern.step.where) if pattern.step.where else None
    value = pattern.value

    def take(seen: Sighting) -> Sequence[Completion]:
        if where is not None and not where(seen.facts):
            return ()
        amount: object = 1 if value is None else seen.attributes.get(value)
        if not isinstance(amount, int | float):
            return ()
        return _take(pattern, seen, amount)

    return take


def _take(pattern: ChangePattern, seen: Sighting, amount: int | float) -> Sequence[Completion]:
    kept = state_of(seen.state, pattern.key)
    if kept.days is None:
        kept.days = Series()
    zone, since_us = seen.zone, seen.coverage.get(pattern.key)
    day = local_day(seen.at_us, zone)
    if pattern.rises_to is not None:
        entry = Entry(seen.at_us, seen.digest, [day, amount], None, seen.cell_id)
        since_day = None if since_us is None else local_day(since_us, zone)
        return _rise(pattern, kept, entry, seen.horizon_us, since_day)
    _count(pattern, kept.days, day, amount)
    newest = kept.days.at[-1]
    # Any other event only puts a fall off, and the timer finds that out.
    if not kept.due_us or amount < 0 or day < newest:
        next_us = _next_fall(pattern, kept, newest + 1, zone, since_us)
        # One that is set may be due already and not settled yet; to look too early does no harm.
        kept.due_us = min(next_us, kept.due_us) if next_us and kept.due_us else next_us or kept.due_us
    if kept.due_us:
        seen.timed = True
    return ()


def resolve_change(
    pattern: ChangePattern,
    state: SubscriberState,
    due_us: int,
    fired: bool,
    zone: tzinfo,
    since_us: int | None,
) -> Completion | None:
    kept = state.patterns.get(pattern.key)
    if kept is None or kept.due_us != due_us:
        return None
    today = local_day(due_us, zone)
    completion = None
    if fired and _falls(pattern, kept, today, zone, since_us):
        completion, _ = found(pattern.name, pattern.key, [], due_us, due_us, due_us=due_us)
        kept.base = (today,)
    kept.due_us = _next_fall(pattern, kept, today + 1, zone, since_us)
    return completion


def idle_from_us(pattern: ChangePattern, kept: PatternState) -> int:
    """When both periods are over for good."""
    newest = kept.days.at[-1] if kept.days else _NEVER
    return (newest + 2 * pattern.days + _MARGIN) * DAY_US


def _rise(
    pattern: ChangePattern, kept: PatternState, entry: Entry, horizon: int, since_day: int | None
) -> list[Completion]:
    days = kept.days or Series()
    prune(kept, horizon, _summed_up)
    if comes_last(kept, entry):
        kept.recent.append(entry)
        kept.tip, each = _rise_step(pattern, days, since_day, kept.tip, entry)
        if each is None:
            return []
        entry.found = each.completion.digest
        return give(kept, new_among([each], kept, horizon))
    before = Series(days.at[:], days.amount[:])
    for each_recent in kept.recent:
        day, amount = each_recent.what
        _count(pattern, before, day, -amount)
    if not insert(kept, entry):
        return []
    kept.days = before
    return give(
        kept, unanswered(kept, again(kept, partial(_rise_step, pattern, before, since_day)), horizon)
    )


def _summed_up(base: Tip, entry: Entry) -> tuple[Tip, None]:
    return ((entry.what[0],) if entry.found else base[:1]), None


def _rise_step(
    pattern: ChangePattern, days: Series, since_day: int | None, tip: Tip, entry: Entry
) -> tuple[Tip, Found | None]:
    day, amount = entry.what
    length = pattern.days
    _count(pattern, days, day, amount)
    rested = tip[0] if tip else _NEVER
    if len(tip) > 1 and tip[1] == day:
        before, this = tip[2], _plus(tip[3], amount)
    else:
        before = total(_between(days, day - 2 * length, day - length))
        this = add((), 0.0)
        for part in _between(days, day - length, day):
            this = add(this, part)
    rises = (
        since_day is not None
        and since_day <= day - 2 * length
        and day >= rested + length
        and before >= pattern.at_least
        and total(this) >= (pattern.rises_to or 0) * before
    )
    if not rises:
        return (rested, day, before, tuple(this)), None
    began_us = entry.at_us - length * DAY_US
    return (day, day, before, tuple(this)), found(
        pattern.name, pattern.key, [entry.digest], entry.at_us, began_us, cell_id=entry.cell_id
    )


def _falls(
    pattern: ChangePattern, kept: PatternState, today: int, zone: tzinfo, since_us: int | None
) -> bool:
    """Whether the period that ended with yesterday is a fall, as far as the figures are known."""
    first_day = _first_fall(pattern, kept, zone, since_us)
    if kept.days is None or first_day is None or today < first_day:
        return False
    yesterday, length = today - 1, pattern.days
    before = total(_between(kept.days, yesterday - 2 * length, yesterday - length))
    if before < pattern.at_least:
        return False
    this = total(_between(kept.days, yesterday - length, yesterday))
    return this <= (pattern.falls_to or 0) * before


def _first_fall(
    pattern: ChangePattern, kept: PatternState, zone: tzinfo, since_us: int | None
) -> int | None:
    """The first day at whose beginning there may be a fall: both periods covered, the rest over."""
    if since_us is None:
        return None
    rested = kept.base[0] if kept.base else _NEVER
    return max(local_day(since_us, zone) + 2 * pattern.days + 1, rested + pattern.days)


def _next_fall(
    pattern: ChangePattern, kept: PatternState, from_day: int, zone: tzinfo, since_us: int | None
) -> int:
    """When to look next, from a day on: at the first fall that the figures would make if nothing more came,
    or when what comes today could make one. 0 if there is nothing to fall from."""
    first_day = _first_fall(pattern, kept, zone, since_us)
    if kept.days is None or not kept.days.at or first_day is None:
        return 0
    at, length = kept.days.at, pattern.days
    day = max(first_day, from_day, at[0] + length + 1)
    last_day = at[-1] + 2 * length
    look_day = max(day, from_day + length)
    while day < look_day and day <= last_day:
        if _falls(pattern, kept, day, zone, since_us):
            return _midnight(day, zone)
        day += 1
    return _midnight(look_day, zone) if look_day <= last_day else 0


def _midnight(day: int, zone: tzinfo) -> int:
    """The first instant of a local day, to the quarter hour also where the clock skips midnight."""
    at_us = instant_of(day, 0, zone)
    while local_day(at_us, zone) < day:
        at_us += _QUARTER_US
    return at_us


def _between(days: Series, after: int, until: int) -> Iterable[float]:
    """What the days after one until another came to: the parts of an exact sum."""
    first, end = bisect_right(days.at, after), bisect_right(days.at, until)
    return chain.from_iterable(days.amount[first:end])


def _count(pattern: ChangePattern, days: Series, day: int, amount: int | float) -> None:
    at = days.at
    place = bisect_left(at, day)
    if place < len(at) and at[place] == day:
        days.amount[place] = _plus(days.amount[place], amount)
        return
    at.insert(place, day)
    days.amount.insert(place, _plus((), amount))
    stale = bisect_right(at, at[-1] - 2 * pattern.days - _MARGIN)
    if stale:
        del at[:stale], days.amount[:stale]


def _plus(parts: Sequence[float], amount: int | float) -> list[float]:
    """The exact sum; a whole number that is no double is added in two parts."""
    rounded = float(amount)
    summed = add(parts, rounded)
    return add(summed, float(amount - int(rounded))) if abs(rounded) >= _LARGEST_EXACT else summed
