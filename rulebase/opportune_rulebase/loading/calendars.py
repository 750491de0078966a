"""`calendar` in `rulebase.yaml`: the holidays and make-up workdays of a country, and added ones."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.common import parse_date
from opportune_rulebase.loading.fields import Fields, describe, keys_of
from opportune_rulebase.loading.problems import Code, Report, clip
from opportune_rulebase.loading.source import MapNode, Node, ScalarNode
from opportune_rulebase.model import Calendar

if TYPE_CHECKING:
    from holidays import HolidayBase

_YEARS: Final = range(2000, 2101)
_STILL_MOVES: Final = 2023
"""Countries that moved no workday to a weekend since then have given that up: their years are all known."""


@dataclass(frozen=True, slots=True)
class _National:
    """What is known of a country. `sure`: years of which all is known; `fitting`: those with no days off on
    principle but Saturdays and Sundays, which is all that a `Calendar` can say."""

    holidays: Mapping[date, str]
    workdays: frozenset[date]
    sure: frozenset[int]
    fitting: frozenset[int]


def read_calendar(top: Fields, report: Report) -> Calendar:
    """The calendar of a rulebase; errors go to `report`.

    A year is known if its holidays are announced or follow from a rule, or if the rulebase has days of it.
    """
    node = top.node("calendar")
    if node is None:
        return Calendar()
    fields = top
    country_key = "calendar"
    if isinstance(node, MapNode):
        fields = Fields(report, node, "the calendar", keys_in("calendar"), at=node.at)
        country_key = "country"
    country = fields.scalar(country_key, "a country")
    if fields is not top and country is None and not fields.node("holidays"):
        fields.require("country")
    own_holidays = dict(_named_days(fields, report)) if fields is not top else {}
    own_workdays = frozenset(_days(fields, report)) if fields is not top else frozenset()
    national = _National({}, frozenset(), frozenset(), frozenset(_YEARS))
    if country is not None:
        if country.text not in _codes().values():
            message = f"unknown country {clip(country.text)!r}"
            report.error(country.at, Code.UNKNOWN_NAME, message, _suggestion(country.text, report))
            return Calendar()
        national = _national(country.text)
    named = {day.year for day in (*own_holidays, *own_workdays)}
    known = _run(
        national.sure | (named & national.fitting), max(national.sure, default=max(named, default=0))
    )
    if known is None:
        if country is not None:
            message = f"no year of {country.text} is known: its holidays are estimates only"
            hint = "list the holidays of each year under 'holidays'"
            if not national.fitting:
                message = f"the weekend of {country.text} is not Saturday and Sunday"
                hint = "such calendars are not honoured yet: leave the calendar out"
            report.error(country.at, Code.BAD_VALUE, message, hint)
        return Calendar()
    first, last = known
    for year in sorted(each for each in named if not first <= each <= last):
        message = f"the calendar is known from {first} to {last}, so days of {year} have no place in it"
        report.error(node.at, Code.BAD_VALUE, message, "list the days of the years between as well")
    holidays = {
        day: name for day, name in {**national.holidays, **own_holidays}.items() if day not in own_workdays
    }
    workdays = (national.workdays - own_holidays.keys()) | own_workdays
    return Calendar(
        country=country.text if country else "",
        holidays=MappingProxyType({d: n for d, n in sorted(holidays.items()) if first <= d.year <= last}),
        workdays=frozenset(day for day in workdays if first <= day.year <= last),
        first=date(first, 1, 1),
        last=date(last, 12, 31),
    )


def _named_days(fields: Fields, report: Report) -> Iterator[tuple[date, str]]:
    """`{2026-12-24: Christmas Eve}`."""
    node = fields.node("holidays")
    names = Fields(report, node, "'holidays'", keys_of(node))
    for key, _ in fields.entries("holidays"):
        day = _day(key, report)
        if day is not None:
            yield day, names.text(key.text)


def _days(fields: Fields, report: Report) -> Iterator[date]:
    for node in fields.scalars("workdays", "a date"):
        day = _day(node, report)
        if day is not None:
            yield day


def _day(node: Node, report: Report) -> date | None:
    day = parse_date(node.text) if isinstance(node, ScalarNode) else None
    if day is None or day.year not in _YEARS:
        shown = clip(node.text) if isinstance(node, ScalarNode) else describe(node)
        message = f"{shown!r} is not a date from {_YEARS[0]} to {_YEARS[-1]}"
        report.error(node.at, Code.BAD_VALUE, message, "write it as 2026-12-24")
        return None
    return day


def _run(years: Collection[int], year: int) -> tuple[int, int] | None:
    """The first and last of the years without a gap around `year`; None if that is none of them."""
    if year not in years:
        return None
    first = last = year
    while first - 1 in years:
        first -= 1
    while last + 1 in years:
        last += 1
    return first, last


def _suggestion(country: str, report: Report) -> str:
    code = _codes().get(country.upper())
    return f"did you mean {code!r}?" if code else report.suggest(country.upper(), _codes().values())


@cache
def _codes() -> Mapping[str, str]:
    """The code of two letters by whatever a country is called: name, code of two letters, of three."""
    from holidays.registry import COUNTRIES  # noqa: PLC0415 - slow to import, and few need it

    return {alias.upper(): names[1] for names in COUNTRIES.values() for alias in names}


@cache
def _national(country: str) -> _National:
    from holidays import country_holidays  # noqa: PLC0415 - as above

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that years are not covered: that is what is asked here
        # The language must be said: else names depend on the locale of the machine.
        language = country_holidays(country).default_language
        found = country_holidays(country, years=_YEARS, language=language)
    sure = {year for year in _YEARS if found.start_year <= year <= found.end_year}
    fitting = set(_YEARS)
    workdays = set()
    day = date(_YEARS[0], 1, 1)
    while day.year in _YEARS:
        if day.weekday() < 5:
            if found.is_weekend(day):
                fitting.discard(day.year)
        elif found.is_working_day(day):
            workdays.add(day)
        day += timedelta(days=1)
    moved = max((each.year for each in found.weekend_workdays), default=0)
    if moved >= _STILL_MOVES:
        # Decreed year by year; what the rules give for later years lacks the bridges and make-up days.
        sure = {year for year in sure if year <= moved}
    names: dict[date, str] = {}
    estimated = set()
    for day in found:
        every = found.get_list(day)
        certain = [each for each in every if not _estimated(each, found)]
        if certain:
            names[day] = "; ".join(certain)
        if len(certain) < len(every):
            estimated.add(day.year)
    # What comes after the last estimate is not even estimated.
    sure = {year for year in sure - estimated if year < max(estimated, default=9999)}
    return _National(names, frozenset(workdays), frozenset(sure & fitting), frozenset(fitting))


def _estimated(name: str, found: HolidayBase) -> bool:
    """Whether a holiday is marked as an estimate, such as one that waits for the moon to be seen."""
    for key in ("estimated_label", "observed_estimated_label"):
        before, mark, after = found.tr(getattr(found, key, "")).partition("%s")
        if mark and (before or after) and name.startswith(before) and name.endswith(after):
            return True
    return False
