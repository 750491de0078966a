"""Contact policies, naively: one contact, one instant, one policy at a time.

Shares nothing with the core but the draw of control groups, which no other way of writing could give again.
Windows of quiet hours must begin and end on quarters of an hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from opportune_rulebase.model import Campaign, Rulebase
from opportune_rulebase.policies import Cap, QuietHours, Selector
from opportune_service.core.stable import number_below

QUARTER_US = 15 * 60_000_000


@dataclass
class Said:
    """A contact, or would-be contact, as the oracle remembers it."""

    id: str
    subscriber: str
    campaign: str
    product: str
    category: str
    channel: str
    mode: str
    at_us: int
    control: bool = False
    foreign: bool = False
    open_until_us: int = 0
    cost: int = 0
    released: bool = False


@dataclass
class Heard:
    """An outcome."""

    id: str
    subscriber: str
    kind: str
    at_us: int
    campaign: str
    product: str
    category: str


@dataclass
class Waits:
    """A deferral or an open prompt."""

    id: str
    due_us: int = 0
    expires_us: int = 0
    settling: bool = False


def local(at_us: int, zone: ZoneInfo) -> datetime:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)).astimezone(zone)


def zone_named(rulebase: Rulebase, name: str) -> ZoneInfo:
    """The subscriber's, or the operator's where that is not known."""
    return ZoneInfo(name) if name else rulebase.time_zone


def quarters(after_us: int, before_us: int) -> range:
    """Every quarter of an hour between."""
    return range((after_us // QUARTER_US + 1) * QUARTER_US, before_us, QUARTER_US)


def meant(selector: Selector, said: Said) -> bool:
    return (
        (not selector.campaigns or said.campaign in selector.campaigns)
        and (not selector.products or said.product in selector.products)
        and (not selector.categories or said.category in selector.categories)
        and (not selector.channels or said.channel in selector.channels)
        and (not selector.modes or said.mode in {mode.value for mode in selector.modes})
    )


def counts_for(cap: Cap, said: Said, this: Said) -> bool:
    return meant(cap.counts, said) and all(
        getattr(said, dimension.value) == getattr(this, dimension.value) for dimension in cap.per
    )


def in_period(cap: Cap, at_us: int, now_us: int, zone: ZoneInfo) -> bool:
    if cap.rolling_us is not None:
        return now_us - at_us < cap.rolling_us
    one, other = local(at_us, zone), local(now_us, zone)
    return {
        "day": one.date() == other.date(),
        "week": one.isocalendar()[:2] == other.isocalendar()[:2],
        "month": (one.year, one.month) == (other.year, other.month),
    }[cap.calendar.value if cap.calendar else ""]


def effective_limit(cap: Cap, campaign: Campaign) -> int:
    return cap.limit if campaign.priority >= cap.headroom_priority else max(0, cap.limit - cap.headroom)


def is_quiet(
    rulebase: Rulebase, campaign: Campaign, channel: str, at_us: int, zone: ZoneInfo
) -> QuietHours | None:
    """The first window that binds at that instant."""
    moment = local(at_us, zone)
    clock, today = moment.hour * 60 + moment.minute, moment.date()
    this = Said(
        "", "", campaign.name, campaign.product, campaign.category, channel, campaign.mode.value, at_us
    )

    def starts(window: QuietHours, day: date) -> bool:
        kinds = {kind.value for kind in window.kinds}
        return (
            day.weekday() in window.weekdays
            or ("workday" in kinds and rulebase.calendar.is_workday(day) in (True, None))
            or ("holiday" in kinds and rulebase.calendar.is_holiday(day) in (True, None))
        )

    for window in rulebase.policies.quiet_hours:
        if meant(window.applies_to, this):
            early, late = clock < window.end_minute, clock >= window.start_minute
            if window.start_minute < window.end_minute:
                if early and late and starts(window, today):
                    return window
            elif (late and starts(window, today)) or (early and starts(window, today - timedelta(days=1))):
                return window
    return None


def in_control(rulebase: Rulebase, campaign: Campaign, subscriber: str) -> bool:
    control = rulebase.policies.control
    salt = control.salt or rulebase.name

    def drawn(purpose: str) -> int:
        return number_below(10_000, b"opp-control", salt, purpose, subscriber)

    return not campaign.control_exempt and (
        drawn("global") < control.share or drawn(f"campaign/{campaign.name}") < campaign.control_share
    )
