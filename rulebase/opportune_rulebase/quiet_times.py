"""When it is quiet for a campaign in every week, as far as that can be told without a calendar.

Days on which a window begins because they are workdays or holidays are left out: they make no week like
every other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from opportune_rulebase.model import Campaign
from opportune_rulebase.policies import Fate, Policies, QuietHours

WEEK: Final = range(7)
MAX_EXAMINED: Final = 500_000
"""Windows that are looked at, over and over, for all campaigns: half a second. Beyond that nothing is
said."""

_DAY: Final = 24 * 60
_WEEK: Final = 7 * _DAY
_MINUTE_US: Final = 60_000_000

_Windows = tuple[int, ...]
"""Windows by their place in the policies: quick to compare, however much a window says."""


class QuietTimes:
    """Answers for all campaigns of a rulebase, remembered by the windows that bind them.

    Times are minutes since Monday at midnight. What it has given up on counts as not quiet.
    """

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._left = MAX_EXAMINED
        self._bound: dict[tuple[str, str], _Windows] = {}
        self._waits: dict[tuple[_Windows, int], int | None] = {}
        self._gaps: dict[_Windows, int | None] = {}

    def wait_us(self, campaign: Campaign, channel: str, day: int, minute: int) -> int | None:
        """How long what comes at a minute of a weekday waits for quiet hours to end: 0 if there are none.
        None: it does not wait, or they do not end."""
        windows, at = self._binding(campaign, channel), day * _DAY + minute
        if (windows, at) not in self._waits:
            self._waits[windows, at] = self._wait_us(windows, at)
        return self._waits[windows, at]

    def midnight_gap_us(self, campaign: Campaign, channel: str) -> int | None:
        """How long, at least, it is quiet around midnight: 0 if at some midnight it is not, or not for
        longer than deferrals are spread. None: the quiet hours end all that comes then."""
        windows = self._binding(campaign, channel)
        if windows not in self._gaps:
            gaps = [self._gap_us(windows, day * _DAY) for day in WEEK]
            self._gaps[windows] = min((gap for gap in gaps if gap is not None), default=None)
        return self._gaps[windows]

    def _wait_us(self, windows: _Windows, at: int) -> int | None:
        now = self._covering(windows, at)
        if not now:
            return 0
        if all(each.otherwise is not Fate.DEFER for each in now):
            return None
        after = self._quiet_after(windows, at)
        return None if after is None else after * _MINUTE_US

    def _gap_us(self, windows: _Windows, midnight: int) -> int | None:
        at_midnight = self._covering(windows, midnight)
        if not at_midnight:
            return 0
        after, before = self._quiet_after(windows, midnight), self._quiet_before(windows, midnight)
        if after is not None and after * _MINUTE_US <= self._policies.jitter_us:
            return 0
        waits = any(each.otherwise is Fate.DEFER for each in at_midnight)
        return (after + before) * _MINUTE_US if after and waits else None

    def _quiet_after(self, windows: _Windows, at: int) -> int | None:
        """How many minutes it stays quiet from a minute on; None: for ever."""
        quiet = 0
        while quiet < _WEEK:
            now = self._covering(windows, at + quiet)
            if not now:
                return quiet
            quiet += max((each.end_minute - at - quiet) % _DAY or _DAY for each in now)
        return None

    def _quiet_before(self, windows: _Windows, at: int) -> int:
        """How many minutes it has been quiet before a minute, a week at most."""
        quiet = 0
        while quiet < _WEEK and (now := self._covering(windows, at - quiet - 1)):
            quiet += max((at - quiet - 1 - each.start_minute) % _DAY + 1 for each in now)
        return quiet

    def _binding(self, campaign: Campaign, channel: str) -> _Windows:
        """The windows that bind a campaign on a channel."""
        key = campaign.name, channel
        if key not in self._bound:
            self._bound[key] = tuple(
                number
                for number, each in self._examined(tuple(range(len(self._policies.quiet_hours))))
                if each.applies_to.selects(
                    campaign=campaign.name,
                    product=campaign.product,
                    category=campaign.category,
                    channel=channel,
                    mode=campaign.mode,
                )
            )
        return self._bound[key]

    def _covering(self, windows: _Windows, at: int) -> list[QuietHours]:
        """Those in which a minute lies. A window that crosses midnight belongs to the day it starts on."""
        day, minute = divmod(at % _WEEK, _DAY)
        return [each for _, each in self._examined(windows) if _covers(each, day, minute)]

    def _examined(self, windows: _Windows) -> Iterator[tuple[int, QuietHours]]:
        self._left -= len(windows)
        for number in windows if self._left >= 0 else ():
            yield number, self._policies.quiet_hours[number]


def _covers(window: QuietHours, day: int, minute: int) -> bool:
    start, end = window.start_minute, window.end_minute
    if start < end:
        return start <= minute < end and day in window.weekdays
    return (minute >= start and day in window.weekdays) or (
        minute < end and (day - 1) % 7 in window.weekdays
    )
