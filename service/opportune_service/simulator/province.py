"""The province: all its people through the hours, and the events that collectors would see of them."""

from __future__ import annotations

from bisect import bisect, bisect_left
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from operator import itemgetter
from zoneinfo import ZoneInfo

import msgspec

from opportune_service.core.events import Event
from opportune_service.simulator.acts import ACTS, Pending
from opportune_service.simulator.day import HOUR_US, SECOND_US, move, plan_day
from opportune_service.simulator.habits import RECHARGES, SALES_CHANNELS, WEEKS
from opportune_service.simulator.handsets import Shop
from opportune_service.simulator.people import NEVER_US, Atlas, Person, Place, describe

_DAY_HOURS = 24
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_UNKNOWN_PER_MILLE = 10
"""So many people joined too lately for the analysis system to know them."""

_time = itemgetter(0)


class Province:
    """A seeded province. Not thread-safe; one pass: events that were taken do not come again.

    `cells` maps cell ids to their places, `terminals` are 8-digit TACs (a mapping's keys serve), most
    popular first; both as in `opportune_rulebase.model.Tables`. `start_us` is the instant of the first
    events, `zone` is the time zone people live by. `scale` multiplies what people do (1.0 is about 100
    events a subscriber a day), not how they move or switch their phones. Raises ValueError if there are no
    cells or no subscribers.
    """

    def __init__(
        self,
        seed: int,
        subscribers: int,
        start_us: int,
        zone: ZoneInfo,
        cells: Mapping[str, Place],
        terminals: Iterable[str],
        scale: float = 1.0,
    ) -> None:
        if subscribers < 1:
            raise ValueError("a province needs at least one subscriber")
        self._seed = seed
        self._start_us = start_us
        self._zone = zone
        self._scale = scale
        self._atlas = Atlas(cells)
        self._shop = Shop(terminals)
        self._people = [Person(index, seed, self._atlas, self._shop) for index in range(subscribers)]
        for person in self._people:
            person.meet(self._people)
        self._stream = self._live()
        self._ahead: Event | None = None

    def context(self) -> Iterator[tuple[str, dict[str, object]]]:
        """(subscriber id, context attributes) of everybody that the analysis system knows: 99 in 100.

        Holdings and handset are as they are when this is called, dates as seen from the day of the start.
        Imported behaviours are named as expressions do: ``behaviour.night_owl``.
        """
        today = datetime.fromtimestamp(self._start_us / SECOND_US, self._zone).date()
        for person in self._people:
            if (person.index * 7919 + self._seed) % 1_000 >= _UNKNOWN_PER_MILLE:
                yield person.number, describe(person, self._seed, today)

    def events(self, until_us: int) -> Iterator[Event]:
        """Events before `until_us` in time order, from where the last call stopped.

        Ids are unique within a province and stable: the same arguments give the same ids. Holds about an
        hour of events at a time.
        """
        if self._ahead is None:
            self._ahead = next(self._stream)
        while self._ahead.occurred_at_us < until_us:
            event, self._ahead = self._ahead, next(self._stream)
            yield event

    def _live(self) -> Iterator[Event]:
        """The endless stream. An hour is computed at a time; what reaches beyond it waits in `pending`."""
        prefix = f"sim{self._seed}-{self._start_us // SECOND_US}-"
        local = datetime.fromtimestamp(self._start_us / SECOND_US, self._zone)
        begin_us = _to_us(local.replace(minute=0, second=0, microsecond=0))
        pending: Pending = []
        number = 0
        planned = None
        while True:
            local = datetime.fromtimestamp(begin_us // SECOND_US, self._zone)
            if local.date() != planned:
                self._plan(local)
                planned = local.date()
            self._hour(pending, begin_us, local)
            begin_us += HOUR_US
            pending.sort(key=_time)
            ready = bisect_left(pending, begin_us, key=_time)
            for at_us, person, kind, attributes, by_handset in pending[:ready]:
                if at_us >= self._start_us:
                    number += 1
                    cell, imei = (person.cell_at(at_us), person.imei_at(at_us)) if by_handset else ("", "")
                    yield Event(f"{prefix}{number}", person.number, kind, at_us, attributes, cell, imei)
            del pending[:ready]

    def _plan(self, local: datetime) -> None:
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        for person in self._people:
            if local.day == 1 and local.hour == 0:
                person.used_kb = 0
            if local.weekday() == 0:
                weights, times = zip(*WEEKS, strict=True)
                person.spending = person.rng.choices(times, weights)[0]
            plan_day(person, _to_us(midnight), local.weekday() >= 5, self._atlas, self._shop)

    def _hour(self, pending: Pending, begin_us: int, local: datetime) -> None:
        """Everybody moves first, so that each act finds both parties where they are."""
        weekend = local.weekday() >= 5
        hour = local.hour
        shares = []
        for person in self._people:
            segment = person.segment
            rhythm = segment.weekend_rhythm if weekend else segment.weekday_rhythm
            busyness = int(rhythm[hour])
            shares.append(busyness / sum(map(int, rhythm)))
            if person.swap_us < begin_us:
                person.imei, person.swap_us = person.next_imei, NEVER_US
            move(person, hour, begin_us, busyness, self._atlas)
            self._signal(pending, person, begin_us)
        for person, share in zip(self._people, shares, strict=True):
            if share:
                self._act(pending, person, begin_us, share)

    def _signal(self, pending: Pending, person: Person, begin_us: int) -> None:
        """What the handset and the account do by themselves: cells, power, SIM, recharge."""
        end_us = begin_us + HOUR_US
        last = person.cell
        for at_us, cell in zip(person.times, person.cells, strict=True):
            if cell and cell != last and not person.is_off(at_us):
                attributes = _encode({"cell": cell, "roaming": False})
                pending.append((at_us, person, "cell_changed", attributes, True))
            last = cell
        for off_us, on_us in person.off:
            if begin_us <= off_us < end_us:
                pending.append((off_us, person, "power_off", b"{}", True))
            if begin_us <= on_us < end_us:
                attributes = _encode({"roaming": not person.cell_at(on_us)})
                pending.append((on_us, person, "power_on", attributes, True))
        if begin_us <= person.swap_us < end_us:
            attributes = _encode({"days_together": person.rng.randint(60, 1_500)})
            pending.append((person.swap_us - 1, person, "sim_separated", attributes, True))
        if person.recharge_us < end_us:
            amount = person.rng.choice(RECHARGES)
            attributes = _encode({"amount": amount, "channel": person.rng.choice(SALES_CHANNELS)})
            pending.append((max(person.recharge_us, begin_us), person, "recharge", attributes, False))
            person.balance += amount
            person.recharge_us = NEVER_US

    def _act(self, pending: Pending, person: Person, begin_us: int, share: float) -> None:
        """A Poisson stream of things begun in this hour, at the pace of the person and the hour."""
        rng = person.rng
        gap_us = HOUR_US / (person.rate * share * self._scale) if self._scale else NEVER_US
        end_us = begin_us + HOUR_US
        at = begin_us + rng.expovariate(1.0) * gap_us
        while at < end_us:
            at_us = int(at)
            if not person.is_off(at_us):
                kind = person.kinds[bisect(person.cumulative, rng.random() * person.cumulative[-1])]
                ACTS[kind](pending, person, at_us)
            at += rng.expovariate(1.0) * gap_us


_encode = msgspec.json.Encoder().encode


def _to_us(local: datetime) -> int:
    return (local - _EPOCH) // timedelta(microseconds=1)
