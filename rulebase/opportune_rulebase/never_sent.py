"""Warnings of campaigns that are matched and then never sent: due in quiet hours only, or with content that
stays unknown for a long time."""

from __future__ import annotations

from collections.abc import Iterator

from opportune_rulebase.errors import Problem, Severity
from opportune_rulebase.expressions import Expression
from opportune_rulebase.loading.problems import Code
from opportune_rulebase.model import Campaign, ChangePattern, MetricKind, Rulebase
from opportune_rulebase.policies import QuietHours

_WEEK = range(7)


def never_sent(rulebase: Rulebase) -> Iterator[Problem]:
    """One warning for each such campaign and reason."""
    for campaign in rulebase.campaigns.values():
        minutes = _due_minutes(rulebase, campaign)
        if minutes and all(
            _always_quiet(rulebase.policies.quiet_hours, campaign, channel, minute)
            for channel in campaign.channels
            for minute in minutes
        ):
            times = ", ".join(f"{minute // 60:02}:{minute % 60:02}" for minute in sorted(set(minutes)))
            message = f"campaign {campaign.name!r} is due at {times} only, when all its channels are quiet"
            hint = (
                "choose another hour; for a fall, which completes at midnight, remember a fact on it and "
                "let a schedule read it"
            )
            yield Problem(campaign.position, Code.ALWAYS_QUIET, message, hint, severity=Severity.WARNING)
        yield from _unknown_content(rulebase, campaign)


def _due_minutes(rulebase: Rulebase, campaign: Campaign) -> list[int]:
    """The minutes of the day at which its triggers come; empty if one may come at any time."""
    minutes = []
    for name in campaign.on:
        trigger, pattern = rulebase.triggers.get(name), rulebase.patterns.get(name)
        if trigger is not None:
            minutes.append(trigger.at_minute)
        elif isinstance(pattern, ChangePattern) and pattern.falls_to is not None:
            minutes.append(0)
        else:
            return []
    return minutes


def _always_quiet(windows: tuple[QuietHours, ...], campaign: Campaign, channel: str, minute: int) -> bool:
    """Whether every day of the week is quiet at that minute for this campaign on this channel."""
    meant = [
        each
        for each in windows
        if each.applies_to.selects(
            campaign=campaign.name,
            product=campaign.product,
            category=campaign.category,
            channel=channel,
            mode=campaign.mode,
        )
    ]
    return all(any(_covers(each, day, minute) for each in meant) for day in _WEEK)


def _covers(window: QuietHours, day: int, minute: int) -> bool:
    """A window that crosses midnight belongs to the day on which it starts."""
    start, end = window.start_minute, window.end_minute
    if start < end:
        return start <= minute < end and day in window.weekdays
    return (minute >= start and day in window.weekdays) or (
        minute < end and (day - 1) % 7 in window.weekdays
    )


def _unknown_content(rulebase: Rulebase, campaign: Campaign) -> Iterator[Problem]:
    patterns = [rulebase.patterns.get(name) for name in campaign.on]
    # Whoever has two periods to compare has them covered.
    covered = min((2 * p.days if isinstance(p, ChangePattern) else 0 for p in patterns), default=0)
    for channel, template in campaign.content.items():
        for part in template.parts:
            for name in sorted(part.reads) if isinstance(part, Expression) else ():
                metric = rulebase.metrics.get(name.removeprefix("metric."))
                if not name.startswith("metric.") or metric is None or (metric.days or 1) <= covered:
                    continue
                if metric.kind is not MetricKind.LATEST:
                    message = (
                        f"campaign {campaign.name!r} says {name} on {channel}: until its whole window was "
                        "folded it is unknown, and nothing is sent there"
                    )
                    hint = "say it without the figure, or let the metric be backfilled first"
                    at = template.position
                    yield Problem(at, Code.UNKNOWN_AT_FIRST, message, hint, severity=Severity.WARNING)
