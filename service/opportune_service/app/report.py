"""What campaigns did and with what effect: figures of the ledger, rates and uplift with their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from enum import StrEnum
from itertools import islice

from opportune_rulebase.model import Rulebase
from opportune_rulebase.policies import OutcomeKind

from opportune_service.app.errors import InvalidRequestError, NotReadyError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Ledger
from opportune_service.app.records import CampaignFigures, ChannelFigures
from opportune_service.app.revisions import LiveRevision
from opportune_service.core.admit import mask
from opportune_service.core.calendars import day_begins_us, local_day, weekday
from opportune_service.core.estimates import Estimate, difference, share
from opportune_service.core.revision import Revision

MAX_PERIODS = 1_000
"""A report with more would keep commits waiting, and nobody reads it."""

_HOUR_US = 3_600_000_000


class Period(StrEnum):
    """How a report is cut: not at all, by clock hour (UTC, in which events are counted), or by day or week
    (from Monday) of the rulebase's zone. The first begins, and the last ends, where the report does."""

    WHOLE = "whole"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"


@dataclass(frozen=True, slots=True)
class CampaignEffect:
    """What a campaign did in a period, and with what effect.

    `success`, `inquiry`, `complaint`: shares of what was sent; None if nothing was. `uplift`: the share of
    all who were chosen and treated that ordered, less that of all who were chosen for a control group (by
    intention to treat: failed sends are among the treated, as they would be among the control). None
    without either. `over_mass`: the former less that of the campaign's `baseline`.
    """

    figures: CampaignFigures
    label: str
    success: Estimate | None
    inquiry: Estimate | None
    complaint: Estimate | None
    uplift: Estimate | None
    over_mass: Estimate | None


@dataclass(frozen=True, slots=True)
class ChannelUse:
    """How busy a channel was. `capacity`: the most that it may carry in the period; None: not bounded, or
    the period is no whole number of days."""

    figures: ChannelFigures
    capacity: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """`campaigns` by campaign, then by period; `channels` by channel, then by period. `frequencies`: number
    of contacts -> subscribers who had so many, over the whole time."""

    campaigns: Sequence[CampaignEffect]
    channels: Sequence[ChannelUse]
    frequencies: dict[int, int]


async def report(
    live: LiveRevision,
    ledger: Ledger,
    thread: LedgerThread,
    campaigns: Sequence[str],
    start_us: int,
    end_us: int,
    period: Period,
    *,
    of_shadow: bool = False,
) -> Report:
    """Report on `campaigns` (none: all of the revisions in force) in [start, end), by time of decision.
    `of_shadow`: on those of the shadow, whose ledger is given.

    Each period is read in a call of its own, so that commits get their turn. Raises `InvalidRequestError`
    for an empty or too finely cut time, or a campaign that is unknown; `NoRulebaseError`.
    """
    rulebase = _reported(live.current, of_shadow=of_shadow)
    for name in campaigns:
        if name not in rulebase.campaigns:
            asked_for = mask(name[:64])
            raise InvalidRequestError("campaigns", f"the active revision has no campaign {asked_for!r}")
    if end_us <= start_us:
        raise InvalidRequestError("since", "since must be before until")
    periods = list(islice(_cut(start_us, end_us, period, rulebase.time_zone), MAX_PERIODS + 1))
    if len(periods) > MAX_PERIODS:
        raise InvalidRequestError(
            "period", f"that makes more than {MAX_PERIODS} periods; cut it less finely"
        )
    wanted = list(dict.fromkeys(campaigns or rulebase.campaigns))
    asked = dict.fromkeys([*wanted, *filter(None, (rulebase.campaigns[name].baseline for name in wanted))])
    triggers = {name: rulebase.campaigns[name].on for name in asked}
    effects: list[CampaignEffect] = []
    channels: list[ChannelUse] = []
    for since_us, until_us in periods:
        figures = await thread.run(ledger.campaign_figures, since_us, until_us, triggers)
        by_name = {each.campaign: each for each in figures}
        effects += [effect(rulebase, by_name, name) for name in wanted]
        loads = await thread.run(ledger.channel_figures, since_us, until_us)
        channels += [
            ChannelUse(each, _capacity(rulebase, each.channel, since_us, until_us)) for each in loads
        ]
    frequencies = await thread.run(ledger.contact_frequencies, start_us, end_us)
    return Report(
        campaigns=sorted(
            effects, key=lambda each: (wanted.index(each.figures.campaign), each.figures.start_us)
        ),
        channels=sorted(channels, key=lambda each: (each.figures.channel, each.figures.start_us)),
        frequencies=dict(frequencies),
    )


def _reported(revision: Revision, *, of_shadow: bool) -> Rulebase:
    """The rulebase in full force, with the campaigns and channels of a canary that it does not have; or
    that of the shadow."""
    shadow = revision.shadow
    if of_shadow:
        if shadow is None:
            raise NotReadyError("no revision is in force as a shadow")
        return shadow.rulebase
    deciding = [each.revision.rulebase for each in revision.beside if each.share is not None]
    if not deciding:
        return revision.rulebase
    rulebase = revision.rulebase
    campaigns = {name: each for other in deciding for name, each in other.campaigns.items()}
    vocabulary = replace(rulebase.vocabulary, channels=revision.channels)
    return replace(rulebase, vocabulary=vocabulary, campaigns=campaigns | dict(rulebase.campaigns))


def effect(rulebase: Rulebase, figures: dict[str, CampaignFigures], name: str) -> CampaignEffect:
    """Rates and uplift of one campaign, from figures that have its baseline as well."""
    own, campaign = figures[name], rulebase.campaigns[name]
    treated = share(own.treated_converted, own.treated)
    mass = figures.get(campaign.baseline)
    return CampaignEffect(
        figures=own,
        label=campaign.label,
        success=share(own.converted, own.sent),
        inquiry=share(own.by_outcome.get(OutcomeKind.INQUIRED, 0), own.sent),
        complaint=share(own.by_outcome.get(OutcomeKind.COMPLAINED, 0), own.sent),
        uplift=difference(treated, share(own.control_converted, own.control)),
        over_mass=difference(treated, share(mass.treated_converted, mass.treated)) if mass else None,
    )


def _capacity(rulebase: Rulebase, channel: str, start_us: int, end_us: int) -> int | None:
    declared = rulebase.vocabulary.channels.get(channel)
    if declared is None or declared.per_day is None:
        return None
    zone = rulebase.time_zone
    first, after = local_day(start_us, zone), local_day(end_us, zone)
    whole = day_begins_us(first, zone) == start_us and day_begins_us(after, zone) == end_us
    return declared.per_day * (after - first) if whole else None


def _cut(start_us: int, end_us: int, period: Period, zone: tzinfo) -> Iterator[tuple[int, int]]:
    since_us = start_us
    while since_us < end_us:
        until_us = min(_next_us(since_us, period, zone), end_us) if period is not Period.WHOLE else end_us
        yield since_us, until_us
        since_us = until_us


def _next_us(at_us: int, period: Period, zone: tzinfo) -> int:
    """When the period after that of `at_us` begins."""
    if period is Period.HOUR:
        return (at_us // _HOUR_US + 1) * _HOUR_US
    day = local_day(at_us, zone)
    days = 1 if period is Period.DAY else 7 - weekday(day)
    return day_begins_us(day + days, zone)
