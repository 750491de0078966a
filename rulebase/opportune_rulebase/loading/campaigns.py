"""`campaigns/*.yaml`: product + trigger + target + content + channels + limits."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import Final
from zoneinfo import ZoneInfo

from opportune_rulebase.expressions import Expression
from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.common import WHERE_READS, check_reads, refuse_slow
from opportune_rulebase.loading.conditions import Conditions
from opportune_rulebase.loading.fields import DAY_US, HOUR_US, MINUTE_US, Fields, check_name
from opportune_rulebase.loading.inherit import ANY_CONTENT
from opportune_rulebase.loading.limits import read_alarm, read_quota
from opportune_rulebase.loading.matrix import Cells
from opportune_rulebase.loading.problems import Code, Report
from opportune_rulebase.loading.source import MapNode, ScalarNode
from opportune_rulebase.loading.templates import read_template
from opportune_rulebase.loading.triggers import read_on
from opportune_rulebase.model import Campaign, Product, Template, Trigger, Vocabulary
from opportune_rulebase.policies import Conversion, Mode
from opportune_rulebase.segments import segments, stranger

DEFAULT_PRIORITY: Final = 500
DEFAULT_VALUE: Final = 1.0
DEFAULT_FRESH_US: Final = 5 * MINUTE_US
DEFAULT_FRESH_DUE_US: Final = 12 * HOUR_US
DEFAULT_EXPIRES_US: Final = 2 * HOUR_US
MAX_LIFE_US: Final = 400 * DAY_US

_DATE = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Known:
    """What campaigns may refer to."""

    vocabulary: Vocabulary
    caps: Collection[str]
    campaigns: Collection[str]
    cells: Mapping[str, Cells]
    zone: ZoneInfo
    triggers: dict[str, Trigger]
    """Dates and schedules that campaigns are triggered by; reading one adds its own."""


def read_campaign(
    name: ScalarNode, node: MapNode, known: Known, conditions: Conditions, report: Report
) -> Campaign | None:
    """One campaign; None if it is too wrong to go on with. Errors go to `report`."""
    fields = Fields(report, node, f"campaign {name.text!r}", keys_in("campaign"), at=name.at)
    fields.require("product", "mode", "channels", "content")
    words = known.vocabulary
    product = words.products.get(fields.choice("product", "product", words.products) or "")
    mode = Mode(fields.choice("mode", "mode", tuple(Mode)) or Mode.AUTOMATIC)
    channels = _channels(fields, mode, words, report)
    on = _on(fields, known, report)
    when = conditions.compile(fields.scalar("when", "an expression"), "'when'")
    target = conditions.compile(fields.scalar("target", "an expression"), "'target'")
    propensity = conditions.compile(
        fields.scalar("propensity", "an expression"), "'propensity'", expect=("double", "int")
    )
    content = _content(fields, channels, product, conditions, report)
    _check_lengths(fields, content, words, report)
    _check_reads(fields, on, (when, target, propensity), content, words, report)
    valid_from_us, valid_to_us = _validity(fields, known.zone, report)
    cells = known.cells.get(name.text)
    if cells is not None:
        when = _in_cells(when, cells, conditions)
    expires_after_us = fields.duration("expires_after", DEFAULT_EXPIRES_US, most=MAX_LIFE_US)
    control_share, control_exempt = _control_group(fields)
    campaign = Campaign(
        name=name.text,
        label=fields.text("label", name.text),
        product=product.name if product else "",
        category=product.category if product else "",
        on=on,
        when=when,
        target=target,
        mode=mode,
        channels=channels,
        content=MappingProxyType(content),
        priority=fields.integer("priority", DEFAULT_PRIORITY, least=-1_000_000, most=1_000_000),
        value=fields.number("value", DEFAULT_VALUE, least=0.0, most=1e12),
        propensity=propensity,
        valid_from_us=valid_from_us,
        valid_to_us=valid_to_us,
        fresh_for_us=fields.duration("fresh_for", _fresh_us(on, known), most=MAX_LIFE_US),
        expires_after_us=expires_after_us,
        allow_unknown=fields.flag("allow_unknown"),
        exempt=frozenset(fields.choices("exempt", "cap", known.caps)),
        branches=frozenset(node.text for node in fields.scalars("branches", "text")),
        position=name.at,
        group=_group(fields),
        control_share=control_share,
        control_exempt=control_exempt,
        quota=read_quota(fields),
        conversion=_conversion(fields, words, conditions),
        alarm=read_alarm(fields),
        open_for_us=fields.duration("open_for", expires_after_us, most=MAX_LIFE_US),
        baseline=_baseline(fields, name.text, known),
    )
    return campaign if product else None  # what else is wrong with it has been reported


def _channels(fields: Fields, mode: Mode, words: Vocabulary, report: Report) -> tuple[str, ...]:
    channels = fields.choices("channels", "channel", words.channels)
    if fields.node("channels") is not None and not fields.scalars("channels", "a channel"):
        report.error(fields.place("channels"), Code.BAD_VALUE, "'channels' is empty", "name at least one")
    for channel in channels:
        other = words.channels[channel].mode
        if fields.node("mode") is not None and other is not mode:
            report.error(
                fields.place("channels"),
                Code.MODE_CONFLICT,
                f"channel {channel!r} is {other}, the campaign {mode}",
                "make two campaigns, one for each mode",
            )
    return channels


def _on(fields: Fields, known: Known, report: Report) -> tuple[str, ...]:
    node, words = fields.node("on"), known.vocabulary
    on = read_on(fields, words, known.triggers)
    name = fields.node("campaign")
    cells = known.cells.get(name.text) if isinstance(name, ScalarNode) else None
    if cells is None:
        if node is None:
            hint = "add 'on: [<event type>]', or name the campaign in a cell of matrix.yaml"
            report.error(fields.at, Code.MISSING_KEY, f"{fields.what} has no trigger", hint)
        return on
    if node is not None and set(on) != cells.behaviours.keys():
        report.error(
            node.at,
            Code.MATRIX_CONFLICT,
            f"'on' differs from the matrix, which names this campaign for {', '.join(cells.behaviours)}",
            "leave 'on' out: the matrix is the trigger",
        )
    if node is None:
        refuse_slow(cells.at, cells.behaviours, fields.what, words, report)
    return tuple(cells.behaviours)


def _fresh_us(on: Collection[str], known: Known) -> int:
    """How fresh by default. What dates and schedules give is no moment that passes within minutes: many are
    due at once, and they may wait for quiet hours to end. So it is half a day if nothing else triggers."""
    return DEFAULT_FRESH_DUE_US if on and set(on) <= known.triggers.keys() else DEFAULT_FRESH_US


def _in_cells(when: Expression | None, cells: Cells, conditions: Conditions) -> Expression | None:
    """`when`, bound to the cells of the matrix."""
    text, at = cells.condition(), cells.at
    if when is not None:
        # The line breaks end a comment in the last line of `when`.
        text, at = f"{text} && (\n{when.text}\n)", when.position
    return conditions.derived(text, at)


def _content(
    fields: Fields,
    channels: tuple[str, ...],
    product: Product | None,
    conditions: Conditions,
    report: Report,
) -> dict[str, Template]:
    literals = {
        "product.label": product.label if product else "",
        "product.name": product.name if product else "",
        "product.category": product.category if product else "",
        "campaign.label": fields.text("label"),
        "campaign.name": fields.text("campaign"),
    }
    if product is None:  # reported already; do not complain of its empty label
        literals |= dict.fromkeys(("product.label", "product.name", "product.category"), "-")
    found: dict[str, Template] = {}
    for key, value in fields.entries("content"):
        if key.text != ANY_CONTENT and key.text not in channels:
            report.unknown(key.at, "channel of this campaign", key.text, (*channels, ANY_CONTENT))
        elif not isinstance(value, ScalarNode) or value.is_null or not value.text.strip():
            report.error(value.at, Code.WRONG_TYPE, f"expected text for {key.text!r}", "write what to say")
        else:
            found[key.text] = read_template(value, literals, conditions, report)
    written = {key.text for key, _ in fields.entries("content")}
    if isinstance(fields.node("content"), MapNode):
        for channel in channels:
            if not written & {channel, ANY_CONTENT}:
                hint = f"add {channel!r} or {ANY_CONTENT!r} under 'content'"
                report.error(
                    fields.key_at("content"), Code.MISSING_KEY, f"no content for channel {channel!r}", hint
                )
    chosen = {channel: found.get(channel) or found.get(ANY_CONTENT) for channel in channels}
    return {channel: template for channel, template in chosen.items() if template is not None}


def _check_lengths(
    fields: Fields, content: Mapping[str, Template], words: Vocabulary, report: Report
) -> None:
    """Refuse texts that are too long for their channel even if all their variables are empty."""
    for channel, template in content.items():
        most = words.channels[channel].max_segments
        literal = "".join(part for part in template.parts if isinstance(part, str))
        count = segments(literal)
        if most is None or count <= most:
            continue
        unusual = stranger(literal)
        report.error(
            template.position,
            Code.TOO_LARGE,
            f"this takes {count} SMS even without its variables; {channel!r} may take {most}",
            f"shorten it; {unusual!r} is not in the 7-bit alphabet, so one SMS has 70 characters"
            if unusual
            else "shorten it",
        )


def _check_reads(
    fields: Fields,
    on: tuple[str, ...],
    conditions: Iterable[Expression | None],
    content: Mapping[str, Template],
    words: Vocabulary,
    report: Report,
) -> None:
    """Refuse an event attribute that none of the campaign's triggers has."""
    if not on:
        return
    types = [words.events[name] for name in on if name in words.events]  # dates and schedules tell nothing
    present = {f"event.{name}" for type_ in types for name in type_.attributes} | {"event.type"}
    used = [expression for expression in conditions if expression is not None]
    used += [part for each in content.values() for part in each.parts if isinstance(part, Expression)]
    for expression in used:
        for name in sorted(expression.reads):
            if name.startswith("event.") and name not in present:
                hint = report.suggest(name, present - {"event.type"})
                message = f"{fields.what} reads {name}, which {' or '.join(on)} does not have"
                report.error(expression.position, Code.ATTRIBUTE_NOT_ON_EVENT, message, hint)


def _group(fields: Fields) -> str:
    node = fields.scalar("exclusive_group", "a name")
    return node.text if node and check_name(fields.report, node, "exclusive group") else ""


def _control_group(fields: Fields) -> tuple[int, bool]:
    """The share of subscribers that it holds back to compare with, and whether it holds nobody back."""
    node = fields.node("control_group")
    if isinstance(node, ScalarNode) and node.text == "exempt":
        return 0, True
    return fields.share("control_group", instead="exempt"), False


def _conversion(campaign: Fields, words: Vocabulary, conditions: Conditions) -> Conversion | None:
    node, report = campaign.node("conversion"), campaign.report
    if node is None:
        return None
    what = f"the conversion of {campaign.what}"
    fields = Fields(report, node, what, keys_in("conversion"), at=campaign.key_at("conversion"))
    fields.require("event", "within")
    event = fields.choice("event", "event type", words.events) or ""
    of = [event] if event else []
    when = conditions.compile(
        fields.scalar("when", "an expression"), "'when' of a conversion", may_read=WHERE_READS
    )
    check_reads(when, what, {"event": of}, words, report)
    return Conversion(event, when, fields.duration("within", DAY_US, most=MAX_LIFE_US))


def _baseline(fields: Fields, own: str, known: Known) -> str:
    baseline = fields.choice("baseline", "campaign", known.campaigns) or ""
    if baseline == own:
        message = f"{fields.what} cannot be compared with itself"
        fields.report.error(fields.place("baseline"), Code.BAD_VALUE, message, "name another campaign")
    return baseline


def _validity(fields: Fields, zone: ZoneInfo, report: Report) -> tuple[int | None, int | None]:
    """[from, to) in microseconds: the first instant of the first day, and of the day after the last."""
    node = fields.node("valid")
    if node is None:
        return None, None
    valid = Fields(report, node, "valid", keys_in("valid"))
    first, last = _date(valid, "from", report), _date(valid, "to", report)
    if first and last and last < first:
        message = f"the campaign is never valid: {last} is before {first}"
        report.error(valid.place("to"), Code.EMPTY_VALIDITY, message, "'to' is the last valid day")
    after = last + timedelta(days=1) if last else None
    return _midnight_us(first, zone), _midnight_us(after, zone)


def _date(valid: Fields, key: str, report: Report) -> date | None:
    node = valid.scalar(key, "a date")
    if node is None:
        return None
    try:
        if _DATE.fullmatch(node.text):
            return date.fromisoformat(node.text)
    except ValueError:
        pass  # a day that no month has; reported below like any other text
    report.error(node.at, Code.BAD_VALUE, f"{node.text!r} is not a date", "write it as 2026-11-01")
    return None


def _midnight_us(day: date | None, zone: ZoneInfo) -> int | None:
    if day is None:
        return None
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1_000_000
