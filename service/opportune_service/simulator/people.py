"""The people of the province: who they are, what they own, where they live."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from datetime import date, timedelta
from itertools import accumulate
from random import Random
from typing import Protocol

from opportune_service.simulator.habits import (
    BRANCHES,
    BRAND_NAMES,
    DATA_CATEGORIES,
    HABITS,
    PLACE_KINDS,
    PRODUCTS,
    SEGMENTS,
    TARIFFS,
    Segment,
)
from opportune_service.simulator.handsets import Shop

FIRST_NUMBER = 8_613_800_000_001
FIRST_FOREIGN_NUMBER = 8_613_900_000_000
NEVER_US = 1 << 62


class Place(Protocol):
    """What the simulator needs to know of a place; `opportune_rulebase.model.Place` is one."""

    @property
    def name(self) -> str: ...

    @property
    def categories(self) -> tuple[str, ...]: ...


class Atlas:
    """The cells of the province by kind of place, and which cells lie beside each other."""

    def __init__(self, cells: Mapping[str, Place]) -> None:
        if not cells:
            raise ValueError("a province needs cells: give at least one cell with its place")
        self.cells = tuple(cells)
        self._by_category: dict[str, list[str]] = {}
        by_place: dict[str, list[str]] = {}
        for cell, place in cells.items():
            by_place.setdefault(place.name, []).append(cell)
            for category in place.categories:
                self._by_category.setdefault(category, []).append(cell)
        self.near: dict[str, tuple[str, ...]] = {}
        for at, (cell, place) in enumerate(cells.items()):
            beside = [other for other in by_place[place.name] if other != cell]
            around = [self.cells[(at + step) % len(self.cells)] for step in (1, 2)]
            self.near[cell] = tuple(beside or [other for other in around if other != cell])

    def pick(self, rng: Random, categories: tuple[str, ...]) -> str:
        """A cell of the first of these categories that the province has; any cell if it has none."""
        for category in categories:
            if found := self._by_category.get(category):
                return rng.choice(found)
        return rng.choice(self.cells)


class Person:
    """One subscriber: fixed traits, and the state that the days change. Only `Province` changes it."""

    __slots__ = (
        "anchor", "away_days", "balance", "brand", "bundle_kb", "by_train", "cell", "cells", "contacts",
        "cumulative", "favourites", "goals", "habits", "home", "imei", "index", "kinds", "next_imei",
        "number", "off", "products", "rate", "recharge_us", "rng", "route", "segment", "spending",
        "swap_us", "tariff", "times", "used_kb", "work",
    )  # fmt: skip

    def __init__(self, index: int, seed: int, atlas: Atlas, shop: Shop) -> None:
        # A stream of randomness for each person: one person's acts do not shift another's.
        self.rng = rng = Random(f"{seed}/{index}")  # noqa: S311 - a simulation, nothing secret
        self.index = index
        self.number = str(FIRST_NUMBER + index)
        self.segment: Segment = rng.choices(SEGMENTS, [segment.share for segment in SEGMENTS])[0]
        self.habits = frozenset(habit.name for habit in HABITS if rng.randrange(1_000) < habit.per_mille)
        self.brand = rng.choices(
            [name for _, name in self.segment.brands], [w for w, _ in self.segment.brands]
        )[0]
        self.tariff = rng.choice(TARIFFS[self.brand])
        self.products = rng.sample(PRODUCTS, rng.choice((0, 1, 1, 2, 2, 3, 4)))
        if "changes_ringtone" in self.habits and "ringback-tone" not in self.products:
            self.products.append("ringback-tone")
        self.imei = self.next_imei = shop.imei(rng, index * 7)
        self.swap_us = NEVER_US
        self._settle(atlas)
        self._set_pace()
        self.contacts: list[str | Person] = []
        self.favourites = rng.sample(DATA_CATEGORIES, 4)
        self.balance = rng.randrange(500, 8_000)
        self.recharge_us = NEVER_US
        self.spending = 1.0
        """What things cost this week, as a multiple of the usual."""
        self.bundle_kb = rng.choice((10_240, 30_720, 71_680, 153_600))
        self.used_kb = int(self.bundle_kb * rng.random())
        self.off: list[tuple[int, int]] = []
        self.away_days = 0

    def _settle(self, atlas: Atlas) -> None:
        rng = self.rng
        self.home = atlas.pick(rng, self.segment.home)
        self.work = atlas.pick(rng, self.segment.work)
        self.by_train = rng.random() < 0.3
        legs = rng.randint(7, 9) if self.by_train else rng.randint(1, 3)
        self.route = rng.sample(atlas.cells, min(legs, len(atlas.cells)))
        self.anchor = self.cell = self.home
        self.goals = [self.home] * 24
        self.times: list[int] = []
        self.cells: list[str] = []

    def _set_pace(self) -> None:
        rates = dict(self.segment.per_day)
        for habit in HABITS:
            if habit.name in self.habits:
                for kind, factor in habit.times.items():
                    rates[kind] *= factor
        self.kinds = tuple(rates)
        self.cumulative = tuple(accumulate(rates.values()))
        self.rate = self.cumulative[-1] * self.rng.uniform(0.8, 1.9)
        """Things begun a day at scale 1."""

    def meet(self, people: list[Person]) -> None:
        """Give the person a circle: some in the province, some on other networks, a few close ones."""
        rng = self.rng
        size = rng.randint(2, 4) if "light" in self.habits else rng.randint(6, 24)
        circle: list[str | Person] = []
        for _ in range(size):
            friend = people[rng.randrange(len(people))]
            if friend is self or rng.random() < 0.4:
                circle.append(str(FIRST_FOREIGN_NUMBER + rng.randrange(10_000_000)))
            else:
                circle.append(friend)
        self.contacts = circle[:2] * size + circle

    def is_off(self, at_us: int) -> bool:
        return any(begin <= at_us < end for begin, end in self.off)

    def off_until(self, at_us: int) -> int:
        """When the phone that is off at `at_us` is switched on."""
        return next(end for begin, end in self.off if begin <= at_us < end)

    def next_off(self, at_us: int) -> int:
        return min((begin for begin, _ in self.off if begin > at_us), default=NEVER_US)

    def cell_at(self, at_us: int) -> str:
        """The cell of the phone; empty while roaming outside the province."""
        passed = bisect_right(self.times, at_us)
        return self.cells[passed - 1] if passed else self.cell

    def imei_at(self, at_us: int) -> str:
        return self.imei if at_us < self.swap_us else self.next_imei

    def place_for(self, letter: str, atlas: Atlas) -> str:
        """The cell that a letter of a schedule means for this person today; empty for `O`."""
        if letter == "O":
            return ""
        if letter == "H":
            return self.home
        return self.work if letter == "W" else atlas.pick(self.rng, PLACE_KINDS[letter])


def describe(person: Person, seed: int, today: date) -> dict[str, object]:
    """The person's context attributes, as BASS, BOSS and CRM would know them on that day. The same at every
    call."""
    rng = Random(f"{seed}/context/{person.index}")  # noqa: S311 - a simulation, nothing secret
    habits = person.habits
    arpu = int(rng.triangular(*person.segment.arpu, person.segment.arpu[0] * 1.3))
    consents = {
        f"{kind}/{name}": False
        for kind, name in (
            ("channel", "sms"),
            ("channel", "mms"),
            ("channel", "outbound"),
            ("category", "music"),
        )
        if rng.random() < 0.03
    }
    if rng.random() < 0.4:
        consents["category/finance"] = True  # finance is what people have to opt in to

    def score(liking: bool) -> float:
        return round(rng.betavariate(5, 4) if liking else rng.betavariate(1.2, 8), 3)

    def in_days(days: int) -> str:
        return str(today + timedelta(days=days))

    age = rng.randint(*person.segment.ages)
    born = today - timedelta(days=365 * age + rng.randint(10, 364))
    months_left = rng.choices((0, rng.randint(1, 2), rng.randint(3, 24)), (45, 20, 35))[0]
    # Without a contract: when the last one ended.
    contract_days = 30 * months_left - rng.randrange(30) if months_left else -rng.randint(30, 2_000)

    return {
        "age": age,
        "gender": rng.choice(("female", "male")),
        "birthday": str(born),
        "brand": person.brand,
        "brand_name": BRAND_NAMES[person.brand],
        "segment": person.segment.name,
        "tariff": person.tariff,
        "products": list(person.products),
        "status": rng.choices(("active", "arrears", "suspended"), (970, 20, 10))[0],
        "branch": BRANCHES[person.index % len(BRANCHES)],
        "imei": person.imei,
        "do_not_contact": rng.random() < 0.02,
        "consents": consents,
        "arpu": arpu,
        "value_class": "high" if arpu >= 15_000 else "medium" if arpu >= 5_000 else "low",
        "bundle_kb": person.bundle_kb,
        "off_days_30d": rng.randint(11, 28) if "often_off" in habits else rng.randint(0, 6),
        "balance_queries_30d": rng.randint(10, 40) if "queries_balance" in habits else rng.randint(0, 6),
        "ringtone_changes_90d": rng.randint(6, 30) if "changes_ringtone" in habits else rng.randint(0, 3),
        "mms_sent_30d": rng.randint(20, 90) if "sends_mms" in habits else rng.randint(0, 10),
        "sms_partners_30d": len({str(getattr(c, "number", c)) for c in person.contacts}),
        "sms_silent_days": rng.randint(30, 200) if "light" in habits else rng.randint(0, 5),
        "days_since_joined": int(rng.triangular(1, 3_650, 400)),
        "contract_months_left": months_left,
        "contract_end": in_days(contract_days),
        "points": rng.randrange(0, 20_000, 10),
        "points_expiring": rng.choices((0, rng.randrange(100, 5_000, 10)), (80, 20))[0],
        "points_expire_on": in_days(rng.randint(1, 30)),
        "behaviour.night_owl": person.segment.name == "night_worker" or rng.random() < 0.05,
        "score_mms": score("sends_mms" in habits),
        "score_music_club": score("changes_ringtone" in habits),
        "score_missed_call_alert": score("often_off" in habits),
        "score_bill_query": score("queries_balance" in habits),
        "score_data": score("surfs" in habits),
        "score_tariff": score(arpu >= 10_000),
        "score_complaint": round(rng.betavariate(1.2, 8), 3),
    }
