"""Times of the day and days of the week, as they are written."""

from __future__ import annotations

import re

from opportune_rulebase.language import WEEKDAYS
from opportune_rulebase.loading.fields import Fields
from opportune_rulebase.loading.problems import Code, clip

__all__ = ["WEEKDAYS", "minute_of_day", "write_minute"]

_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_MIDNIGHT = "24:00"


def minute_of_day(fields: Fields, key: str, *, ends: bool = False) -> int | None:
    """The minutes since midnight of `10:00`; None (and an error, if the key is there) for anything else.
    `ends`: it may be the end of the day, `24:00`."""
    node = fields.scalar(key, "a time of day")
    if node and ends and node.text == _MIDNIGHT:
        return 24 * 60
    match = _CLOCK.fullmatch(node.text) if node else None
    if node and not match:
        message = f"{clip(node.text)!r} is not a time of day"
        fields.report.error(node.at, Code.BAD_VALUE, message, 'write it as "10:00"')
    return int(match[1]) * 60 + int(match[2]) if match else None


def write_minute(minute: int) -> str:
    """How a minute of the day is written."""
    return f"{minute // 60:02}:{minute % 60:02}"
