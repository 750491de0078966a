"""The section `sources` of `vocabulary.yaml`: where data come from, and how late they may be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.common import USUAL_LATENESS_US
from opportune_rulebase.loading.fields import DAY_US, MINUTE_US, Fields
from opportune_rulebase.loading.problems import Code
from opportune_rulebase.model import Source

MAX_LATENESS_US: Final = DAY_US
MAX_SOURCES: Final = 100


def read_sources(top: Fields, events: Collection[str], subscriber: Collection[str]) -> Mapping[str, Source]:
    """The sources; errors go to the report of `top`."""
    found: dict[str, Source] = {}
    for key, value in top.named("sources", "source"):
        if len(found) == MAX_SOURCES:
            message = f"there are more than {MAX_SOURCES} sources"
            top.report.error(key.at, Code.TOO_MANY, message, "declare those that differ from the usual")
            break
        fields = Fields(top.report, value, f"source {key.text!r}", keys_in("source"), at=key.at)
        lateness_us = fields.duration("max_lateness", USUAL_LATENESS_US, most=MAX_LATENESS_US)
        if lateness_us < MINUTE_US:
            message = "'max_lateness' must be at least 1m"
            hint = "nothing comes from a network in less"
            top.report.error(fields.place("max_lateness"), Code.BAD_VALUE, message, hint)
        found[key.text] = Source(
            name=key.text,
            label=fields.text("label", key.text),
            events=frozenset(fields.choices("events", "event type", events)),
            subscriber=frozenset(fields.choices("subscriber", "subscriber attribute", subscriber)),
            max_lateness_us=lateness_us,
        )
    return MappingProxyType(found)
