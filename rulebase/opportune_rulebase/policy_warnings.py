"""Warnings of policies that do not do what they seem to: limits that let nothing through, settings that
change nothing, deferrals that never come back, effects that nobody can measure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from opportune_rulebase.errors import Position, Problem, Severity
from opportune_rulebase.loading.fields import write_duration
from opportune_rulebase.loading.problems import Code
from opportune_rulebase.model import Campaign, Rulebase
from opportune_rulebase.policies import SHARES, Alarm, Cap, DayKind, Fate, Fit, Mode, Quota
from opportune_rulebase.quiet_times import QuietTimes

MAX_COMPARED = 50_000
"""Pairs of a cap and a campaign that are looked at: a few tenths of a second."""

_NAMED = 3
"""So many campaigns are named in one warning; the rest are counted."""


def policy_warnings(rulebase: Rulebase) -> Iterator[Problem]:
    """Every such warning, campaign by campaign; those of policies alone have no line."""
    groups = Counter(campaign.group for campaign in rulebase.campaigns.values())
    for campaign in rulebase.campaigns.values():
        at = campaign.position
        for code, message, hint in (
            *_lets_nothing_through(rulebase, campaign),
            *_changes_nothing(rulebase, campaign, groups),
            *_not_measured(rulebase, campaign),
        ):
            yield _warning(at, code, f"campaign {campaign.name!r} {message}", hint)
    yield from _deferred_in_vain(rulebase)
    for code, message, hint in (*_of_settling(rulebase), *_of_policies(rulebase)):
        yield _warning(Position("policies.yaml"), code, message, hint)


_Found = Iterator[tuple[Code, str, str]]


def _warning(at: Position, code: Code, message: str, hint: str) -> Problem:
    return Problem(at, code, message, hint, severity=Severity.WARNING)


def _lets_nothing_through(rulebase: Rulebase, campaign: Campaign) -> _Found:
    fit = rulebase.policies.fit.get(campaign.product, {})
    if all(fit.get(channel) is Fit.CC for channel in campaign.channels):
        message = f"is never sent: {campaign.product!r} fits none of its channels ({Fit.CC})"
        yield Code.NEVER_SENT, message, "add a channel that fits, or mend 'fit' in policies.yaml"
    quota = campaign.quota or Quota()
    if 0 in (quota.per_day, quota.total):
        yield Code.NEVER_SENT, "is never sent: its quota is 0", "raise it, or remove the campaign"
    cheapest = min(rulebase.vocabulary.channels[name].cost for name in campaign.channels)
    if quota.budget is not None and quota.budget < cheapest:
        message = f"is never sent: one contact costs {cheapest}, and its budget is {quota.budget}"
        yield Code.NEVER_SENT, message, "raise the budget; it is in the same unit as 'cost' of channels"
    if campaign.control_share == SHARES:
        message = "is never sent: its control group is everybody"
        yield Code.NEVER_SENT, message, "5% is usual"


def _changes_nothing(rulebase: Rulebase, campaign: Campaign, groups: Counter[str]) -> _Found:
    quota, alarm = campaign.quota or Quota(), campaign.alarm or Alarm()
    costs = [rulebase.vocabulary.channels[name].cost for name in campaign.channels]
    if quota.budget is not None and not any(costs):
        message = "has a budget, but none of its channels costs anything"
        yield Code.NO_EFFECT, message, "give the channels a 'cost', or limit it by 'total'"
    bounds = [each for each in (quota.per_day, quota.total) if each is not None]
    if quota.total is not None and quota.per_day is not None and quota.total < quota.per_day:
        message = f"may have {quota.per_day} contacts a day, but {quota.total} in all"
        yield Code.NO_EFFECT, message, "the daily quota never binds: leave it out, or raise 'total'"
    if alarm.per_hour is not None and bounds and alarm.per_hour >= min(bounds):
        message = f"is paused after {alarm.per_hour} contacts an hour, but its quota ends at {min(bounds)}"
        yield Code.NO_EFFECT, message, "the alarm never rings: set it below the quota"
    if campaign.group and groups[campaign.group] == 1:
        others = ", ".join(sorted(map(repr, groups.keys() - {"", campaign.group})))
        message = f"is alone in the exclusive group {campaign.group!r}"
        hint = f"there are also {others}" if others else "name the group in the campaigns it competes with"
        yield Code.NO_EFFECT, message, hint


def _deferred_in_vain(rulebase: Rulebase) -> Iterator[Problem]:
    """What is deferred to the next day comes at midnight, which is quiet as a rule."""
    quiet = QuietTimes(rulebase.policies)

    def lost(campaign: Campaign, channel: str) -> bool:
        gap_us = quiet.midnight_gap_us(campaign, channel)
        return gap_us is None or 0 < gap_us >= campaign.expires_after_us

    found: dict[str, list[Campaign]] = {}
    for campaign in rulebase.campaigns.values():
        if campaign.mode is Mode.AUTOMATIC:
            for what, channels in _to_another_day(rulebase, campaign):
                if all(lost(campaign, channel) for channel in channels):
                    found.setdefault(what, []).append(campaign)
    hint = (
        "a day begins in quiet hours: let these 'defer' as well, with an 'expires_after' that outlasts "
        "them, or do not defer"
    )
    for what, campaigns in found.items():
        at = campaigns[0].position if len(campaigns) == 1 else Position("policies.yaml")
        message = f"what {what} defers to another day never comes for {_names(campaigns)}"
        yield _warning(at, Code.DEFERRED_IN_VAIN, message, hint)


def _names(campaigns: Sequence[Campaign]) -> str:
    named = ", ".join(repr(each.name) for each in campaigns[:_NAMED])
    return named if len(campaigns) <= _NAMED else f"{named} and {len(campaigns) - _NAMED} more"


def _to_another_day(rulebase: Rulebase, campaign: Campaign) -> Iterator[tuple[str, list[str]]]:
    """What defers the campaign to the beginning of a day, and on which channels."""
    every = list(campaign.channels)
    if campaign.quota and campaign.quota.per_day is not None and campaign.quota.otherwise is Fate.DEFER:
        yield "the daily quota", every
    for cap in _comparable(rulebase):
        if cap.calendar is not None and cap.otherwise is Fate.DEFER:
            bound = [channel for channel in every if _obeys(campaign, channel, cap)]
            if bound:
                yield f"the cap {cap.name!r}", bound
    for name in every:
        channel = rulebase.vocabulary.channels[name]
        if channel.per_day is not None and channel.otherwise is Fate.DEFER:
            yield f"the capacity of {name!r}", [name]


def _comparable(rulebase: Rulebase) -> tuple[Cap, ...]:
    """The caps, unless there are too many to look at them for every campaign."""
    caps = rulebase.policies.caps
    return caps if len(caps) * len(rulebase.campaigns) <= MAX_COMPARED else ()


def _obeys(campaign: Campaign, channel: str, cap: Cap) -> bool:
    return cap.name not in campaign.exempt and cap.applies_to.selects(
        campaign=campaign.name,
        product=campaign.product,
        category=campaign.category,
        channel=channel,
        mode=campaign.mode,
    )


def _not_measured(rulebase: Rulebase, campaign: Campaign) -> _Found:
    if campaign.conversion is None and campaign.control_share:
        message = "has a control group, but no 'conversion': uplift over it cannot be measured"
        yield Code.NOT_MEASURED, message, "say what counts as success, or leave the control group out"
    baseline = rulebase.campaigns.get(campaign.baseline)
    if baseline is not None and baseline.product != campaign.product:
        message = f"is compared with {baseline.name!r}, which offers {baseline.product!r}"
        yield Code.NOT_MEASURED, message, "name a campaign for the same product"
    elif baseline is not None and campaign.conversion is None:
        message = f"is compared with {baseline.name!r}, but has no 'conversion' to compare"
        yield Code.NOT_MEASURED, message, "say what counts as success in both"
    elif baseline is not None and baseline.conversion is None:
        message = f"is compared with {baseline.name!r}, which has no 'conversion' to compare"
        yield Code.NOT_MEASURED, message, "say what counts as success in both"


def _of_settling(rulebase: Rulebase) -> _Found:
    settle_us = rulebase.policies.settle_us
    if not settle_us:
        return
    settle = write_duration(settle_us)
    waiting = [each for each in rulebase.campaigns.values() if each.mode is Mode.AUTOMATIC]
    if short := [each for each in waiting if each.expires_after_us <= settle_us]:
        message = f"{_names(short)} cannot wait {settle} for better ones: the offer expires before"
        yield Code.NO_EFFECT, message, "raise 'expires_after', or lower 'settle'"
    if stale := [each for each in waiting if each.fresh_for_us < settle_us < each.expires_after_us]:
        message = f"'settle' is {settle}, but the moment of {_names(stale)} passes before that"
        yield Code.NO_EFFECT, message, "lower 'settle', or raise 'fresh_for' where later will do"


def _of_policies(rulebase: Rulebase) -> _Found:
    policies, campaigns = rulebase.policies, rulebase.campaigns.values()
    for cap in _comparable(rulebase):
        bound = [each for each in campaigns if any(_obeys(each, channel, cap) for channel in each.channels)]
        high = [each for each in bound if each.priority >= cap.headroom_priority]
        if cap.headroom and bound and not high:
            message = f"the headroom of cap {cap.name!r} is for nobody"
            hint = f"no campaign that obeys it has a priority of {cap.headroom_priority} or more"
            yield Code.NO_EFFECT, message, hint
        elif cap.headroom and bound and len(high) == len(bound):
            message = f"the headroom of cap {cap.name!r} keeps nobody out"
            hint = f"all campaigns that obey it have a priority of {cap.headroom_priority} or more"
            yield Code.NO_EFFECT, message, hint
    for window in policies.quiet_hours:
        if DayKind.HOLIDAY in window.kinds and not rulebase.calendar.holidays:
            message = f"quiet hours {window.name!r} are on holidays, but the calendar has none"
            yield Code.NO_EFFECT, message, "add a 'calendar' to rulebase.yaml"
    if policies.control.share == SHARES:
        message = "nobody is ever contacted: the control group of all campaigns is everybody"
        yield Code.NEVER_SENT, message, "2% is usual"
    elif policies.control.share and not any(each.conversion for each in campaigns):
        message = "there is a control group of all campaigns, but no campaign has a 'conversion'"
        yield Code.NOT_MEASURED, message, "say in campaigns what counts as success"


__all__ = ["policy_warnings"]
