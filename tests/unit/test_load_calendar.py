"""Loading calendars: whose days off are known, until when, and what a rulebase adds."""

from __future__ import annotations

from datetime import date

import pytest
from opportune_rulebase import RulebaseError, load
from opportune_rulebase.model import Calendar

REST = {"vocabulary.yaml": b"channels: {sms: {mode: automatic}}\n"}


def calendar(text: str) -> Calendar:
    header = f"rulebase: tests\ntime_zone: Asia/Shanghai\ncalendar: {text}\n"
    return load(REST | {"rulebase.yaml": header.encode()}).calendar


def test_without_one_the_week_is_all_there_is() -> None:
    found = load(REST | {"rulebase.yaml": b"rulebase: tests\ntime_zone: Asia/Shanghai\n"}).calendar
    assert found == Calendar()
    assert found.is_workday(date(2026, 10, 1)) is True


def test_china_has_holidays_and_make_up_workdays() -> None:
    found = calendar("CN")
    assert found.is_holiday(date(2026, 10, 1)) is True
    assert found.is_workday(date(2026, 10, 1)) is False
    assert found.is_workday(date(2026, 10, 10)) is True  # a Saturday, worked for the holiday week
    assert found.is_holiday(date(2026, 10, 10)) is False
    assert found.is_workday(date(2026, 10, 17)) is False  # a Saturday like any other
    assert (
        found.holidays[date(2026, 10, 1)] == "国庆节"
    )  # in the country's language, whatever the machine's


def test_what_is_decreed_each_year_ends_with_the_last_decree() -> None:
    found = calendar("CN")
    assert found.last is not None
    assert found.last >= date(2026, 12, 31)
    after = date(found.last.year + 1, 1, 1)
    assert (found.is_workday(after), found.is_holiday(after)) == (None, None)
    # Where holidays follow from rules there is no such end.
    assert calendar("US").last == date(2100, 12, 31)


def test_a_year_of_estimates_is_not_known() -> None:
    found = calendar("TR")  # announced up to 2032; the moon decides on the rest
    assert found.last == date(2032, 12, 31)


def test_saturdays_are_workdays_where_the_weekend_is_sunday_alone() -> None:
    found = calendar("HK")
    assert found.is_workday(date(2026, 6, 6)) is True  # a Saturday
    assert found.is_workday(date(2026, 6, 7)) is False


def test_a_rulebase_adds_days_of_its_own() -> None:
    found = calendar("{country: CN, holidays: {2026-12-24: party}, workdays: [2026-10-01, 2026-12-26]}")
    assert found.is_holiday(date(2026, 12, 24)) is True
    assert found.is_workday(date(2026, 12, 24)) is False
    assert found.is_workday(date(2026, 12, 26)) is True
    assert (found.is_workday(date(2026, 10, 1)), found.is_holiday(date(2026, 10, 1))) == (True, False)


def test_a_year_of_which_the_rulebase_has_days_is_known() -> None:
    last = calendar("CN").last
    assert last is not None
    year = last.year + 1
    found = calendar(f"{{country: CN, holidays: {{{year}-02-10: decreed since}}}}")
    assert found.last == date(year, 12, 31)
    assert found.is_holiday(date(year, 2, 10)) is True
    assert found.is_holiday(date(year, 10, 1)) is True
    with pytest.raises(RulebaseError, match=f"days of {year + 1} have no place"):
        calendar(f"{{country: CN, holidays: {{{year + 1}-02-10: too early}}}}")


def test_a_country_is_not_needed() -> None:
    found = calendar("{holidays: {2026-12-25: off}}")
    assert (found.country, found.first, found.last) == ("", date(2026, 1, 1), date(2026, 12, 31))
    assert found.is_workday(date(2026, 12, 25)) is False
    assert found.is_workday(date(2026, 12, 24)) is True


@pytest.mark.parametrize("country", ["DE", "CN", "AE", "BT"])
def test_the_same_country_is_the_same_calendar(country: str) -> None:
    assert calendar(country) == calendar(f"{{country: {country}}}")
