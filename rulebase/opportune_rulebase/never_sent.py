"""Warnings of campaigns that are matched and then never sent: due in quiet hours only, or with content that
stays unknown for a long time."""

from __future__ import annotations

from collections.abc import Iterator

from opportune_rulebase.errors import Problem, Severity
from opportune_rulebase.expressions import Expression
from opportune_rulebase.loading.problems import Code
from opportune_rulebase.model import Campaign, ChangePattern, MetricKind, Rulebase
from opportune_rulebase.quiet_times import WEEK, QuietTimes


def never_sent(rulebase: Rulebase) -> Iterator[Problem]:
    """One warning for each such campaign and reason."""
    quiet = QuietTimes(rulebase.policies)
    for campaign in rulebase.campaigns.values():
        minutes = _due_minutes(rulebase, campaign)
        if minutes and all(
            _always_quiet(quiet, campaign, channel, minute)
            for channel in campaign.channels
            for minute in minutes
        ):
            times = ", ".join(f"{minute // 60:02}:{minute % 60:02}" for minute in sorted(set(minutes)))
            message = f"campaign {campaign.name!r} is due at {times} only, when all its channels are quiet"
            hint = (
                "choose another hour, or let it wait: 'otherwise: defer' of the quiet hours, with a longer "
                "'expires_after'; for a fall, which completes at midnight, remember a fact on it and let a "
                "schedule read it"
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


def _always_quiet(quiet: QuietTimes, campaign: Campaign, channel: str, minute: int) -> bool:
    """Whether every day of the week is quiet at that minute for this campaign on this channel, and what
    waits for the end expires before it."""
    waits = [quiet.wait_us(campaign, channel, day, minute) for day in WEEK]
    return all(wait is None or 0 < wait >= campaign.expires_after_us for wait in waits)


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
