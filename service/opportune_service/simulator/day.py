"""How a person's day is laid out: where to be each hour, when the phone is off, the way between places."""

from __future__ import annotations

from random import Random

from opportune_service.simulator.habits import FLIGHT_BACK, FLIGHT_OUT
from opportune_service.simulator.handsets import Shop
from opportune_service.simulator.people import Atlas, Person

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US

_SWAP_CHANCE = 1 / 400
"""A new handset about once a year."""


def plan_day(person: Person, midnight_us: int, weekend: bool, atlas: Atlas, shop: Shop) -> None:
    """Lay out the local day that begins at `midnight_us`: goals by hour, times off, a new handset."""
    rng = person.rng
    off = [gap for gap in person.off if gap[1] > midnight_us]
    if person.away_days > 0:
        person.away_days -= 1
        day = "O" * 24
        if not person.away_days:
            day = FLIGHT_BACK
            off.append(_gap(rng, midnight_us, 18 * 60 + 40, 135))
    elif not weekend and rng.random() < person.segment.trips:
        person.away_days = rng.randint(1, 3)
        day = FLIGHT_OUT
        off.append(_gap(rng, midnight_us, 9 * 60 + 55, 130))
    else:
        days = person.segment.weekend if weekend else person.segment.weekday
        day = rng.choices([letters for _, letters in days], [weight for weight, _ in days])[0]
        off.extend(_ordinary_gaps(person, midnight_us))
        off.extend(_restarts(person, midnight_us))
        if rng.random() < _SWAP_CHANCE:
            off.append(_swap(person, midnight_us, shop))
    person.off = _merged(off)
    place, last = "", ""
    person.goals = []
    for letter in day:
        if letter != last:
            place, last = person.place_for(letter, atlas), letter
        person.goals.append(place)


def _gap(rng: Random, midnight_us: int, minute: int, length: int) -> tuple[int, int]:
    begin = midnight_us + minute * MINUTE_US + rng.randrange(5 * MINUTE_US)
    return begin, begin + length * MINUTE_US - rng.randrange(5 * MINUTE_US)


def _ordinary_gaps(person: Person, midnight_us: int) -> list[tuple[int, int]]:
    """Off at night (some people, or nearly always for the often-off), now and then by day."""
    rng = person.rng
    often = "often_off" in person.habits
    gaps = []
    if rng.random() < (0.75 if often else 0.12) and person.segment.name != "night_worker":
        gaps.append(_gap(rng, midnight_us, rng.randint(22 * 60, 23 * 60 + 50), rng.randint(7 * 60, 9 * 60)))
    gaps.extend(
        _gap(rng, midnight_us, rng.randint(9 * 60, 20 * 60), rng.randint(15, 120))
        for _ in range(2 if often else 1)
        if rng.random() < (0.5 if often else 0.06)
    )
    return gaps


def _restarts(person: Person, midnight_us: int) -> list[tuple[int, int]]:
    """A failing handset is off for a few minutes, several times a day."""
    rng = person.rng
    if "restarts" not in person.habits:
        return []
    return [_gap(rng, midnight_us, rng.randint(10 * 60, 21 * 60), 8) for _ in range(rng.randint(2, 5))]


def _swap(person: Person, midnight_us: int, shop: Shop) -> tuple[int, int]:
    """A few minutes off in the day, in which the SIM moves to a new handset."""
    begin, end = _gap(person.rng, midnight_us, person.rng.randint(10 * 60, 20 * 60), 10)
    person.next_imei = shop.imei(person.rng, person.index * 7 + person.rng.randint(1, 6))
    person.swap_us = (begin + end) // 2
    return begin, end


def _merged(gaps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(gaps):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def move(person: Person, hour: int, begin_us: int, busyness: float, atlas: Atlas) -> None:
    """Fill the person's track of this hour: the way to where the plan says, or small walks around.

    `busyness` is 0 to 9, as in the rhythm of the segment. Nobody walks about while out of the province.
    """
    if person.times:
        person.cell = person.cells[-1]
        person.times, person.cells = [], []
    goal = person.goals[hour]
    if goal != person.anchor:
        _travel(person, goal, begin_us)
        person.anchor = goal
    elif goal and busyness:
        _wander(person, begin_us, busyness, atlas)


def _travel(person: Person, goal: str, begin_us: int) -> None:
    rng = person.rng
    if not goal or not person.anchor:  # by air, the phone is off meanwhile
        person.times, person.cells = [begin_us], [goal]
        return
    to_work = person.home in {goal, person.anchor} and person.work in {goal, person.anchor}
    if to_work or (person.by_train and person.home in {goal, person.anchor} and rng.random() < 0.5):
        path = person.route[::-1] if goal == person.home else person.route
    else:
        path = person.route[:2]
    at = begin_us + rng.randrange(2 * MINUTE_US, 20 * MINUTE_US)
    leg_us = 70 * SECOND_US if person.by_train else 5 * MINUTE_US
    for cell in (*path, goal):
        person.times.append(at)
        person.cells.append(cell)
        at += leg_us * rng.randint(80, 120) // 100


def _wander(person: Person, begin_us: int, busyness: float, atlas: Atlas) -> None:
    rng = person.rng
    around = atlas.near[person.anchor]
    if not around:
        return
    if person.cell != person.anchor:
        person.times.append(begin_us)
        person.cells.append(person.anchor)
    mean_us = 8 * HOUR_US / busyness
    at = begin_us + int(rng.expovariate(1) * mean_us)
    while at < begin_us + HOUR_US - 12 * MINUTE_US:
        back = at + rng.randrange(MINUTE_US, 10 * MINUTE_US)
        person.times += (at, back)
        person.cells += (rng.choice(around), person.anchor)
        at = back + int(rng.expovariate(1) * mean_us) + 1
