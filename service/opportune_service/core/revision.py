"""A rulebase made ready to run: its engine, its admission checks and its folding plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import tzinfo

from opportune_rulebase.engine import Engine
from opportune_rulebase.model import Campaign, Metric, Mode, Rulebase, Suppression

from opportune_service.core.admit import Admission
from opportune_service.core.calendars import zone_named

EngineFactory = Callable[[Rulebase], Engine]

_MINUTE_US = 60_000_000
_CALENDAR_LOOKBACK_US = 32 * 24 * 60 * _MINUTE_US
"""Longer than any month, in any time zone."""


class Revision:
    """One revision, ready to run. Everything that does not depend on an event is computed here, once.

    `triggers` are the event types that trigger campaigns, `watched` those that anything looks at.
    `coverage` maps a metric's key to the instant since when it has been folded.
    `lookback_us` is how far back any contact policy looks.
    Not thread-safe (the engine is not); close it when it is retired.
    """

    def __init__(self, rulebase: Rulebase, engine: Engine, coverage: Mapping[str, int]) -> None:
        self.rulebase = rulebase
        self.engine = engine
        self.coverage = coverage
        self.admission = Admission(rulebase.vocabulary)
        self.metrics_of: dict[str, list[Metric]] = {}
        for metric in rulebase.metrics.values():
            for event_type in metric.of:
                self.metrics_of.setdefault(event_type, []).append(metric)
        self.triggers = frozenset(name for campaign in rulebase.campaigns.values() for name in campaign.on)
        self.watched = self.triggers | self.metrics_of.keys()
        self.metric_keys = frozenset(metric.key for metric in rulebase.metrics.values())
        self.suppressions_of = {c.name: _suppressions(rulebase, c) for c in rulebase.campaigns.values()}
        self.defaults = {
            a.name: a.default for a in rulebase.vocabulary.subscriber.values() if a.default is not None
        }
        self.lookback_us = _lookback_us(rulebase)

    @property
    def id(self) -> str:
        return self.rulebase.revision

    def zone_of(self, context: Mapping[str, object]) -> tzinfo:
        """The subscriber's time zone if it is known and exists, else the operator's."""
        name = context.get("time_zone")
        zone = zone_named(name) if isinstance(name, str) else None
        return zone or self.rulebase.time_zone

    def shows(self, campaign: str, touch_point: str) -> bool:
        """Whether people at the touch point have the campaign to offer, in this revision."""
        found = self.rulebase.campaigns.get(campaign)
        return found is not None and found.mode is Mode.MANUAL and touch_point in found.channels

    def close(self) -> None:
        self.engine.close()


def _suppressions(rulebase: Rulebase, campaign: Campaign) -> tuple[Suppression, ...]:
    """Those that may bear on the campaign, on one of its channels at least."""
    return tuple(
        s
        for s in rulebase.policies.suppressions
        if any(
            s.applies_to.selects(
                campaign=campaign.name,
                product=campaign.product,
                category=campaign.category,
                channel=channel,
                mode=campaign.mode,
            )
            for channel in campaign.channels
        )
    )


def _lookback_us(rulebase: Rulebase) -> int:
    policies = rulebase.policies
    spans = [cap.rolling_us or _CALENDAR_LOOKBACK_US for cap in policies.caps]
    spans += [cool_down.for_us for cool_down in policies.cool_downs]
    return max(spans, default=0)
