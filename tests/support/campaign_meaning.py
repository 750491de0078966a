"""What a campaign comes to, the long way round: everything that it reads, is triggered by or is bound by,
written out. Two revisions in which this differs for a campaign treat it differently.

And rulebases that differ in one value from another, for every value that the model has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import date
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo

from opportune_rulebase.errors import Position
from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import DwellPattern, Rulebase
from opportune_rulebase.policies import Selector

NO_MEANING = {
    # Where something stands, and what follows from the rest or is derived from it.
    *(("Campaign", name) for name in ("position", "category", "name")),
    *(("Template", name) for name in ("text", "position")),
    *(("Metric", name) for name in ("name", "key", "bound", "type")),
    *(("Rulebase", name) for name in ("revision", "warnings", "files", "triggers")),
    ("EventType", "derived"),
    ("SequencePattern", "kept"),
    ("Product", "name"),
}
_LABELS = {"label"}


def meaning(rulebase: Rulebase, campaign: str) -> str:
    """All that the campaign depends on, as one text; labels left out, unless they are sent."""
    return repr(sorted(_gathered(rulebase, campaign).items()))


def _gathered(rulebase: Rulebase, name: str) -> dict[str, object]:
    campaign, words, policies = rulebase.campaigns[name], rulebase.vocabulary, rulebase.policies
    found: dict[str, object] = {"campaign": _plain(campaign), "zone": str(rulebase.time_zone)}
    pending = [f"event.{each}" for each in campaign.on] + list(_reads(campaign))
    pending += [f"event.{campaign.conversion.event}"] if campaign.conversion else []
    pending += [f"channel.{each}" for each in campaign.channels] + [f"product.{campaign.product}"]
    for other in words.products.values():
        if campaign.product in other.excludes:
            found[f"excluded by {other.name}"] = True
    for kind, named in (
        ("cap", [cap for cap in policies.caps if cap.name not in campaign.exempt]),
        ("quiet", policies.quiet_hours),
        ("suppression", policies.suppressions),
    ):
        for policy in named:
            if any(_selected(policy.applies_to, rulebase, name, channel) for channel in campaign.channels):
                found[f"{kind} {policy.name}"] = _plain(policy)
                pending += _reads(policy)
                pending += ["calendar.workday"] if getattr(policy, "kinds", None) else []
    shared = {each.name: getattr(policies, each.name) for each in fields(policies)}
    for own in ("caps", "quiet_hours", "suppressions", "opt_in", "fit"):
        del shared[own]
    if campaign.control_exempt:
        del shared["control"]
    if campaign.alarm:
        del shared["alarm"]
    found["policies"] = _plain(shared)
    found["fit"] = _plain(policies.fit.get(campaign.product, {}))
    wanted = {f"category/{campaign.category}", *(f"channel/{each}" for each in campaign.channels)}
    found["consent"] = sorted(policies.opt_in & wanted)
    pending += _reads(policies.preference)
    pending += [f"event.{policies.replies.event}"] if policies.replies else []
    while pending:
        each = pending.pop()
        if each not in found:
            found[each] = None
            value, more = _looked_up(rulebase, each)
            found[each] = value
            pending += more
    return found


def _looked_up(rulebase: Rulebase, qualified: str) -> tuple[object, list[str]]:  # noqa: PLR0912 - a table
    """What a name stands for, and the names in it."""
    words = rulebase.vocabulary
    space, _, name = qualified.partition(".")
    value: Any
    match space:
        case "event":
            value = rulebase.patterns.get(name) or rulebase.triggers.get(name) or words.events.get(name)
        case "sub" | "peer":
            value = words.subscriber[name]
        case "terminal":
            value = (words.terminal[name], rulebase.tables.terminals)
        case "place":
            value = rulebase.tables.cells
        case "calendar":
            value = rulebase.calendar
        case "metric":
            value = rulebase.metrics[name]
        case "fact":
            value = rulebase.facts[name]
        case "behaviour" | "scene":
            value = rulebase.imported.get(qualified) or rulebase.definitions[qualified]
        case "channel":
            value = words.channels[name]
        case "product":
            value = words.products.get(name)
        case _:
            value = None
    names = list(_reads(value)) + [f"event.{each}" for each in _events(value)]
    if isinstance(value, DwellPattern):
        names.append("place.categories")
    if attribute := getattr(value, "attribute", None):
        names.append(f"sub.{attribute}")
    sources = [each for each in words.sources.values() if name in (each.events | each.subscriber)]
    return _plain((value, sources)), names


def _events(value: object) -> Iterator[str]:
    if is_dataclass(value):
        for each in fields(value):
            inner = getattr(value, each.name)
            if each.name in ("of", "on"):
                yield from inner
            elif not isinstance(inner, Expression):
                yield from _events(inner)
    elif isinstance(value, tuple):
        for inner in value:
            yield from _events(inner)


def _selected(selector: Selector, rulebase: Rulebase, name: str, channel: str) -> bool:
    campaign = rulebase.campaigns[name]
    asked: list[tuple[frozenset[Any], object]] = [
        (selector.campaigns, name),
        (selector.products, campaign.product),
        (selector.categories, campaign.category),
        (selector.channels, channel),
        (selector.modes, campaign.mode),
    ]
    return all(not of or value in of for of, value in asked)


def _reads(value: object) -> Iterator[str]:
    """The qualified names in all expressions within a value, those of the event itself apart."""
    if isinstance(value, Expression):
        yield from (each for each in value.reads if not each.startswith(("event.", "first.", "previous.")))
    elif is_dataclass(value):
        for each in fields(value):
            yield from _reads(getattr(value, each.name))
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _reads(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _reads(inner)


def _plain(value: object) -> object:
    """A value without what has no meaning, in one order."""
    if isinstance(value, Expression):
        return value.text
    if is_dataclass(value):
        kind = type(value).__name__
        shown = [each.name for each in fields(value) if (kind, each.name) not in NO_MEANING]
        return kind, [(each, _plain(getattr(value, each))) for each in shown if each not in _LABELS]
    if isinstance(value, Mapping):
        return sorted((str(key), repr(_plain(each))) for key, each in value.items())
    if isinstance(value, frozenset):
        return sorted(map(str, value))
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Enum) else value


def variations(rulebase: Rulebase, other: Expression) -> Iterator[tuple[str, Rulebase]]:
    """Rulebases that differ in one value, with the class and field of it: one for each field of the model
    that is in use. A loader might not give them. `other`: takes the place of expressions."""
    seen: set[str] = set()
    for where, varied in _varied(rulebase, "", other):
        if where not in seen:
            seen.add(where)
            yield where, varied


def _varied(  # noqa: PLR0912 - one case for each kind of value
    value: Any, where: str, other: Expression
) -> Iterator[tuple[str, Any]]:
    match value:
        case None | Position() | ZoneInfo():
            if isinstance(value, ZoneInfo):
                yield where, ZoneInfo("Europe/Berlin")
        case Expression():
            yield where, other
        case bool():
            yield where, not value
        case Enum():
            yield from ((where, each) for each in list(type(value)) if each is not value)
        case int() | float():
            yield where, value + 1
        case str():
            yield where, f"{value}x"
        case date():
            yield where, date(2031, 1, 1)
        case frozenset():
            if value:
                yield where, value - {min(value, key=str)}
        case tuple():
            if value:
                yield where, value[1:]
            for at, each in enumerate(value):
                for inner, varied in _varied(each, where, other):
                    yield inner, (*value[:at], varied, *value[at + 1 :])
        case Mapping():
            for key, each in value.items():
                for inner, varied in _varied(each, where, other):
                    yield inner, {**value, key: varied}
        case _ if is_dataclass(value):
            kind = type(value).__name__
            for each in fields(value):
                if (kind, each.name) in NO_MEANING and each.name != "name":
                    continue
                if each.name == "headroom_priority" and not value.headroom:
                    continue  # it is the priority of nothing
                for inner, varied in _varied(getattr(value, each.name), f"{kind}.{each.name}", other):
                    yield inner, replace(value, **{each.name: varied})
