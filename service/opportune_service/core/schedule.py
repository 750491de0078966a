"""When triggers by date and by schedule are due. Pure: local days are counted, no clock is read."""

from __future__ import annotations

from calendar import isleap, monthrange
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, tzinfo

from opportune_rulebase.model import DateTrigger, ScheduleTrigger, Trigger

from opportune_service.core.calendars import instant_of, local_day, weekday

_EPOCH_DAY = date(1970, 1, 1).toordinal()


def due_instants(
    trigger: Trigger, context: Mapping[str, object], zone: tzinfo, from_us: int, to_us: int
) -> list[int]:
    """The instants in (from_us, to_us] at which the trigger is due for a subscriber, sorted.

    Once a local day at most. A minute that the wall clock skips is due somewhat earlier, one that it shows
    twice the first time. `context` gives a date trigger its date: text like ``2026-11-20``, or an instant
    (aware, or microseconds), which counts as its day in `zone`. Without a date that can be read nothing is
    due. Never raises, whatever the context holds.
    """
    if isinstance(trigger, ScheduleTrigger):
        return moments(trigger, zone, from_us, to_us)
    base = _local_date(context.get(trigger.attribute), zone)
    if base is None:
        return []
    first, last = _days(zone, from_us, to_us)
    return _instants(_due_days(trigger, base, first, last), trigger.at_minute, zone, from_us, to_us)


def moments(trigger: Trigger, zone: tzinfo, from_us: int, to_us: int) -> list[int]:
    """The instants in (from_us, to_us] at which anybody in the zone may be due, sorted: all `due_instants`
    of all subscribers there are among them."""
    first, last = _days(zone, from_us, to_us)
    days: Iterable[int] = range(first, last + 1)
    if isinstance(trigger, ScheduleTrigger):
        days = (day for day in days if _fits(trigger, day))
    return _instants(days, trigger.at_minute, zone, from_us, to_us)


def due_at(trigger: Trigger, zone: tzinfo, at_us: int) -> Callable[[Mapping[str, object]], bool]:
    """Whether the trigger is due at this instant for a subscriber of the zone with that context: the same
    as `due_instants`, for whoever asks of very many."""
    if isinstance(trigger, ScheduleTrigger):
        everybody = bool(moments(trigger, zone, at_us - 1, at_us))
        return lambda _: everybody
    attribute, offset = trigger.attribute, trigger.offset_days
    first, last = _days(zone, at_us, at_us)
    origins = [
        date.fromordinal(_EPOCH_DAY + day - offset)
        for day in range(first, last + 1)
        if instant_of(day, trigger.at_minute, zone) == at_us
    ]
    if not trigger.yearly:
        return lambda context: _local_date(context.get(attribute), zone) in origins
    dates = {(origin.month, origin.day) for origin in origins}
    if any((o.month, o.day) == (2, 28) and not isleap(o.year) for o in origins):
        dates.add((2, 29))

    def is_due(context: Mapping[str, object]) -> bool:
        base = _local_date(context.get(attribute), zone)
        return base is not None and (base.month, base.day) in dates

    return is_due


def _days(zone: tzinfo, from_us: int, to_us: int) -> tuple[int, int]:
    """The first and the last local day that may have an instant in between. One more at either end: where
    the clock skips midnight, a day's first minutes are due on the day before."""
    return local_day(from_us, zone) - 1, local_day(to_us, zone) + 1


def _instants(days: Iterable[int], minute: int, zone: tzinfo, from_us: int, to_us: int) -> list[int]:
    """As a set: a day that a zone left out altogether is due with the one after it."""
    return sorted({at_us for day in days if from_us < (at_us := instant_of(day, minute, zone)) <= to_us})


def _due_days(trigger: DateTrigger, base: date, first: int, last: int) -> Iterator[int]:
    """The days from `first` to `last` on which the trigger is due."""
    if not trigger.yearly:
        day = _number(base) + trigger.offset_days
        if first <= day <= last:
            yield day
        return
    for year in range(_year(first - trigger.offset_days), _year(last - trigger.offset_days) + 1):
        lacking = base.month == 2 and base.day == 29 and not isleap(year)
        day = _number(base.replace(year=year, day=28 if lacking else base.day)) + trigger.offset_days
        if first <= day <= last:
            yield day


def _fits(trigger: ScheduleTrigger, day: int) -> bool:
    """Whether the schedule includes the day. A day that the month does not have counts as its last."""
    if trigger.weekdays and weekday(day) not in trigger.weekdays:
        return False
    when = date.fromordinal(_EPOCH_DAY + day)
    if trigger.on_date is not None and when != trigger.on_date:
        return False
    if not trigger.month_days or when.day in trigger.month_days:
        return True
    return when.day == monthrange(when.year, when.month)[1] and max(trigger.month_days) > when.day


def _local_date(value: object, zone: tzinfo) -> date | None:
    """The date that an attribute tells."""
    try:
        if isinstance(value, str):
            return date.fromisoformat(value) if len(value) == 10 else None
        if isinstance(value, datetime):
            return value.astimezone(zone).date()
        if isinstance(value, int) and not isinstance(value, bool):
            return date.fromordinal(_EPOCH_DAY + local_day(value, zone))
    except (ValueError, OverflowError):
        pass
    return None


def _number(day: date) -> int:
    return day.toordinal() - _EPOCH_DAY


def _year(day: int) -> int:
    return date.fromordinal(min(max(_EPOCH_DAY + day, 1), date.max.toordinal())).year
