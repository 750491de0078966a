"""Count what a run decides: volumes, losses, load of channels, cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from opportune_rulebase.model import Rulebase
from opportune_rulebase.policies import Mode

from opportune_service.app.last_words import Word
from opportune_service.app.rehearsal import ChannelDay, Loss, Volume
from opportune_service.app.test_sends import TestSend
from opportune_service.core.calendars import DAY_US, day_begins_us, local_day
from opportune_service.core.verdict import Reason

HOUR_US = 3_600_000_000
_SECOND_US = 1_000_000

MOST_VOLUMES = 20_000
"""Rows of a report; with more hours and campaigns than that, volumes are by day."""

MOST_TESTS = 1_000
"""Test sends of a rehearsal, whatever is asked for: they are real messages."""

_DAYS_OPEN = 2
"""Days of a channel whose seconds are counted: decisions come nearly in order of time."""


class Tally:
    """What one run came to. Bounded by campaigns and hours, not by decisions."""

    def __init__(self, rulebase: Rulebase, tested: Sequence[str] = (), tests_per_campaign: int = 0) -> None:
        """`tested`: numbers whose first messages of each campaign are kept, so many of each."""
        self._rulebase = rulebase
        self._tested = tuple(dict.fromkeys(tested))
        self._tests_per_campaign = tests_per_campaign
        self.contacts = self.would_be = self.cost = 0
        self._decided: Counter[tuple[str, int]] = Counter()
        self._control: Counter[tuple[str, int]] = Counter()
        self._lost: Counter[tuple[str, Reason]] = Counter()
        self._days: dict[tuple[str, int], _Day] = {}
        # Campaign -> automatic channel -> contacts.
        self._sent: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._own: defaultdict[tuple[str, str], list[TestSend]] = defaultdict(list)

    def take(self, word: Word) -> None:
        """Count the last word on a candidate."""
        decision, at_us = word.decision, word.verdict.decided_at_us
        hour = (decision.campaign, at_us // HOUR_US)
        if decision.reason is Reason.CONTROL:
            self.would_be += 1
            self._control[hour] += 1
        elif decision.reason is not Reason.DECIDED:
            self._lost[decision.campaign, decision.reason] += 1
        else:
            self.contacts += 1
            self._decided[hour] += 1
            if decision.mode is Mode.AUTOMATIC:
                self._sent[decision.campaign][decision.channel] += 1
                self._note_test(word)
            if decision.reserves:
                self.cost += decision.cost
                self._load(decision.channel, at_us)

    def _note_test(self, word: Word) -> None:
        subscriber_id, decision = word.key.subscriber_id, word.decision
        own = self._own[subscriber_id, decision.campaign] if subscriber_id in self._tested else None
        if own is not None and len(own) < self._tests_per_campaign:
            product, channel = decision.product, decision.channel
            own.append(TestSend(subscriber_id, decision.campaign, product, channel, decision.content))

    def tests(self) -> tuple[TestSend, ...]:
        """For each listed number and each campaign that decided anything for anybody: the messages that
        this number would have got; if there are none, the text of the campaign as it is written, on the
        channel that it used most. What was made for others holds what is theirs, and goes to nobody."""
        found: list[TestSend] = []
        for subscriber_id in self._tested:
            for name, channels in sorted(self._sent.items()):
                campaign = self._rulebase.campaigns[name]
                channel = max(sorted(channels), key=lambda each: channels[each])
                text = campaign.content[channel].text
                plain = TestSend(subscriber_id, name, campaign.product, channel, text)
                found += self._own.get((subscriber_id, name)) or [plain]
        return tuple(found[:MOST_TESTS])

    def _load(self, channel: str, at_us: int) -> None:
        key = (channel, local_day(at_us, self._rulebase.time_zone))
        day = self._days.get(key)
        if day is None:
            day = self._days[key] = _Day()
            open_ = sorted(number for name, number in self._days if name == channel)[:-_DAYS_OPEN]
            for number in open_:
                self._days[channel, number].close()
        day.seconds[at_us // _SECOND_US] += 1
        day.hours[at_us // HOUR_US] += 1

    def volumes(self) -> tuple[tuple[Volume, ...], int]:
        """By campaign and hour (or day, if that were too many), and how long such a piece is."""
        unit_us = HOUR_US
        decided, control = self._decided, self._control
        if len(decided.keys() | control.keys()) > MOST_VOLUMES:
            unit_us = DAY_US
            decided, control = _by_day(decided), _by_day(control)
        found = [
            Volume(campaign, piece * unit_us, decided[campaign, piece], control[campaign, piece])
            for campaign, piece in sorted(decided.keys() | control.keys())
        ]
        return tuple(found), unit_us

    def losses(self) -> tuple[Loss, ...]:
        """By campaign, the most frequent reason first."""
        found = [Loss(campaign, reason, count) for (campaign, reason), count in self._lost.items()]
        return tuple(sorted(found, key=lambda each: (each.campaign, -each.count, each.reason)))

    def channels(self) -> tuple[ChannelDay, ...]:
        """By channel and local day."""
        found = []
        for (name, number), day in sorted(self._days.items()):
            day.close()
            channel = self._rulebase.vocabulary.channels.get(name)
            found.append(
                ChannelDay(
                    channel=name,
                    start_us=day_begins_us(number, self._rulebase.time_zone),
                    decided=day.hours.total(),
                    capacity=channel.per_day if channel else None,
                    peak_per_second=day.peak,
                    busiest_hour_us=day.busiest_us,
                    busiest_hour=day.busiest,
                    pace=channel.per_second if channel and channel.mode is Mode.AUTOMATIC else None,
                )
            )
        return tuple(found)


class _Day:
    """Contacts of a channel on one day. Closed: the seconds are forgotten but for the busiest one."""

    def __init__(self) -> None:
        self.seconds: Counter[int] = Counter()
        self.hours: Counter[int] = Counter()
        self.peak = 0

    def close(self) -> None:
        self.peak = max([self.peak, *self.seconds.values()])
        self.seconds.clear()

    @property
    def busiest(self) -> int:
        return max(self.hours.values())

    @property
    def busiest_us(self) -> int:
        return min(hour for hour, count in self.hours.items() if count == self.busiest) * HOUR_US


def _by_day(hours: Counter[tuple[str, int]]) -> Counter[tuple[str, int]]:
    days: Counter[tuple[str, int]] = Counter()
    for (campaign, hour), count in hours.items():
        days[campaign, hour // 24] += count
    return days
