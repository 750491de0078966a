"""The contact policies of a rulebase and its calendar as elements."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from opportune_rulebase.diff.elements import Element, alarm, fate
from opportune_rulebase.diff.says import (
    Said,
    Says,
    any_order,
    below,
    condition,
    duration,
    minute,
    number,
    ordered,
    says,
    share,
    word,
)
from opportune_rulebase.language import WEEKDAYS
from opportune_rulebase.model import Calendar, Rulebase
from opportune_rulebase.policies import Cap, Policies, Preference, QuietHours, Selector


def policy_elements(rulebase: Rulebase) -> Iterator[Element]:
    """Each policy that has a name, and each section of the others."""
    policies = rulebase.policies
    for cap in policies.caps:
        yield Element("cap", cap.name, cap.label, _cap(cap), (f"cap.{cap.name}",))
    for window in policies.quiet_hours:
        yield Element(
            "quiet hours", window.name, window.label, _window(window), (f"quiet_hours.{window.name}",)
        )
    for cool_down in policies.cool_downs:
        found = says(
            after=any_order(cool_down.outcomes),
            for_=duration(cool_down.for_us),
            scope=word(cool_down.scope),
        )
        yield Element("cool-down", cool_down.name, cool_down.label, found, (f"cool_down.{cool_down.name}",))
    for each in policies.suppressions:
        found = says(when=condition(each.when)) | below("applies_to", _selector(each.applies_to))
        yield Element("suppression", each.name, each.label, found, (f"suppression.{each.name}",))
    for name in sorted(policies.opt_in):
        opt_in = Said("opt_in", "opt_in")
        yield Element("consent", name.replace("/", " "), "", says(absent=opt_in), (f"consent.{name}",))
    for product, fits in policies.fit.items():
        found = {channel: Said(fit.value, fit.value) for channel, fit in fits.items()}
        yield Element("fit", product, "", found, (f"fit.{product}",))
    for name, found in _sections(policies):
        yield Element("policy", name, "", found, (f"policy.{name}",))
    yield Element("calendar", "calendar", "", _calendar(rulebase.calendar), ("calendar",))


def _sections(policies: Policies) -> Iterator[tuple[str, dict[str, Said]]]:
    yield (
        "arbitration",
        says(
            max_automatic=number(policies.max_automatic),
            max_prompts=number(policies.max_prompts),
            default_propensity=number(policies.default_propensity),
            settle=duration(policies.settle_us or None),
            no_channel=fate(policies.no_channel),
        ),
    )
    yield "deferral", says(jitter=duration(policies.jitter_us))
    yield "control", says(share=share(policies.control.share), salt=word(policies.control.salt))
    yield "status", says(normal_status=any_order(policies.normal_status))
    yield "alarm", dict(alarm(policies.alarm))
    yield "preference", _preference(policies.preference)
    replies = policies.replies
    if replies is not None:
        yield (
            "replies",
            says(
                event=word(replies.event),
                text=word(f"event.{replies.text}"),
                channel=word(replies.channel and f"event.{replies.channel}"),
                on_channel=word(replies.on_channel),
                accepted=any_order(replies.accepted),
                refused=any_order(replies.refused),
                opt_out=any_order(replies.opt_out),
            ),
        )


def _cap(cap: Cap) -> Says:
    counted = _selector(cap.counts)
    usual = {key: each for key, each in _selector(cap.applies_to).items() if key != "modes"}
    found = says(
        limit=number(cap.limit),
        period=word(cap.calendar),
        period__rolling=duration(cap.rolling_us),
        per=any_order(cap.per),
    )
    found |= below("applies_to", _selector(cap.applies_to))
    if counted != usual:
        found |= below("counts", counted) or {"counts": Said("all", "all")}
    if cap.headroom:
        found |= says(headroom__last=number(cap.headroom), headroom__priority=number(cap.headroom_priority))
    return found | says(otherwise=fate(cap.otherwise))


def _window(window: QuietHours) -> Says:
    days = [name for at, name in enumerate(WEEKDAYS) if at in window.weekdays]
    every = len(days) == len(WEEKDAYS) and not window.kinds
    named = [*days, *sorted(kind.value for kind in window.kinds)]
    found = says(
        from_=minute(window.start_minute),
        to=minute(window.end_minute),
        days=None if every else Said(", ".join(named), frozenset(named)),
    )
    return (
        found | below("applies_to", _selector(window.applies_to)) | says(otherwise=fate(window.otherwise))
    )


def _selector(selector: Selector) -> Says:
    return says(
        campaigns=any_order(selector.campaigns),
        products=any_order(selector.products),
        categories=any_order(selector.categories),
        channels=any_order(selector.channels),
        modes=any_order(selector.modes),
    )


def _preference(preference: Preference) -> dict[str, Said]:
    found = says(from_contacts=number(preference.from_contacts), within=duration(preference.within_us))
    for channel, score in preference.scores.items():
        found |= says(**{f"scores__{channel}": condition(score)})
    found |= says(segment=condition(preference.segment))
    for name, channels in preference.segments.items():
        found |= {f"segments.{name}": ordered(channels) or Said("", ())}
    return found


def _calendar(calendar: Calendar) -> Says:
    found = says(
        country=word(calendar.country),
        known__from=_date(calendar.first),
        known__to=_date(calendar.last),
    )
    found |= {f"holidays.{day.isoformat()}": Said(name, name) for day, name in calendar.holidays.items()}
    return found | {f"workdays.{day.isoformat()}": Said("worked", 1) for day in calendar.workdays}


def _date(day: date | None) -> Said | None:
    return word(day.isoformat()) if day else None
