"""`policies.yaml`: what protects the customer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.channel_choice import read_fit, read_preference
from opportune_rulebase.loading.clock import WEEKDAYS, minute_of_day
from opportune_rulebase.loading.conditions import Conditions
from opportune_rulebase.loading.fields import DAY_US, Fields, keys_of
from opportune_rulebase.loading.limits import read_alarm
from opportune_rulebase.loading.problems import Code, Report, clip
from opportune_rulebase.loading.replies import read_replies
from opportune_rulebase.loading.source import MapNode, Node, ScalarNode
from opportune_rulebase.loading.standing import compile_standing
from opportune_rulebase.model import Definition, Vocabulary
from opportune_rulebase.policies import (
    CalendarPeriod,
    Cap,
    Control,
    CoolDown,
    CoolDownScope,
    DayKind,
    Dimension,
    Fate,
    Mode,
    OutcomeKind,
    Policies,
    QuietHours,
    Selector,
    Suppression,
)

MAX_PERIOD_US: Final = 400 * DAY_US
MAX_COOL_DOWN_US: Final = 4_000 * DAY_US
MAX_LIMIT: Final = 100_000
MAX_PRIORITY: Final = 1_000_000

_CONSENT: Final = ("opt_in", "opt_out")


@dataclass(frozen=True, slots=True)
class Names:
    """What policies may refer to."""

    campaigns: Collection[str]
    vocabulary: Vocabulary
    definitions: Mapping[str, Definition]

    @property
    def categories(self) -> frozenset[str]:
        return frozenset(each.category for each in self.vocabulary.products.values() if each.category)


def cap_names(node: Node | None) -> frozenset[str]:
    """The names of the caps, before anything else is known of them."""
    caps = node.values.get("caps") if isinstance(node, MapNode) else None
    return frozenset(caps.values) if isinstance(caps, MapNode) else frozenset()


def read_policies(node: Node | None, names: Names, conditions: Conditions, report: Report) -> Policies:
    """The policies; errors go to `report`. Without a file: those that `Policies()` has."""
    top = Fields(report, node, "policies.yaml", keys_in("policies"))
    default = Policies()
    arbitration = Fields(report, top.node("arbitration"), "arbitration", keys_in("arbitration"))
    deferral = Fields(report, top.node("deferral"), "deferral", keys_in("deferral"))
    return Policies(
        caps=tuple(_caps(top, names, report)),
        quiet_hours=tuple(_quiet_hours(top, names, report)),
        cool_downs=tuple(_cool_downs(top, report)),
        suppressions=tuple(_suppressions(top, names, conditions, report)),
        opt_in=frozenset(_opt_in(top, names, report)),
        max_automatic=arbitration.integer("max_automatic", default.max_automatic, most=100),
        max_prompts=arbitration.integer("max_prompts", default.max_prompts, most=100),
        default_propensity=arbitration.number(
            "default_propensity", default.default_propensity, least=0.0, most=1.0
        ),
        normal_status=_normal_status(top, default, report),
        settle_us=arbitration.duration("settle", default.settle_us, most=DAY_US),
        jitter_us=deferral.duration("jitter", default.jitter_us, least=0, most=DAY_US),
        no_channel=arbitration.fate("no_channel", (Fate.DROP, Fate.NEXT)),
        control=_control(top, report),
        fit=read_fit(top, names.vocabulary),
        preference=read_preference(top, names.vocabulary, names.definitions, conditions),
        alarm=read_alarm(top) or default.alarm,
        replies=read_replies(top, names.vocabulary),
    )


def _caps(top: Fields, names: Names, report: Report) -> Iterator[Cap]:
    for key, value in top.named("caps", "cap"):
        fields = Fields(report, value, f"cap {key.text!r}", keys_in("cap"), at=key.at)
        fields.require("limit", "period")
        rolling_us, calendar = _period(fields, report)
        applies_to = _selector(fields, "applies_to", names, report)
        limit, otherwise = fields.count("limit", most=MAX_LIMIT), fields.fate()
        if limit == 0 and otherwise is Fate.DEFER:
            message = f"a limit of 0 never frees, so nothing can wait for {fields.what}"
            report.error(fields.place("otherwise"), Code.BAD_VALUE, message, "write 'otherwise: drop'")
        headroom, headroom_priority = _headroom(fields, limit, report)
        yield Cap(
            name=key.text,
            label=fields.text("label", key.text),
            limit=limit or 0,
            rolling_us=rolling_us,
            calendar=calendar,
            per=frozenset(map(Dimension, fields.choices("per", "dimension", tuple(Dimension)))),
            applies_to=applies_to,
            # Without its modes: what people say and what is sent share one budget.
            counts=replace(applies_to, modes=frozenset())
            if fields.node("counts") is None
            else _selector(fields, "counts", names, report),
            headroom=headroom,
            headroom_priority=headroom_priority,
            otherwise=otherwise,
        )


def _headroom(cap: Fields, limit: int | None, report: Report) -> tuple[int, int]:
    """How many of the last contacts are kept, and for which priority."""
    node = cap.node("headroom")
    if node is None:
        return 0, 0
    what = f"the headroom of {cap.what}"
    fields = Fields(report, node, what, keys_in("headroom"), at=cap.key_at("headroom"))
    fields.require("last", "priority")
    last = fields.integer("last", 1, least=1, most=MAX_LIMIT)
    if limit and last >= limit:
        message = f"{what} is all of its {limit}: below that priority nothing is ever sent"
        hint = "keep fewer, or raise the limit"
        report.warning(fields.place("last"), Code.NO_EFFECT, message, hint)
    return last, fields.integer("priority", 0, least=-MAX_PRIORITY, most=MAX_PRIORITY)


def _period(fields: Fields, report: Report) -> tuple[int | None, CalendarPeriod | None]:
    node = fields.node("period")
    if isinstance(node, MapNode):
        period = Fields(report, node, "period", keys_in("period"))
        period.require("rolling")
        return period.duration("rolling", DAY_US, most=MAX_PERIOD_US), None
    if isinstance(node, ScalarNode) and node.text not in tuple(CalendarPeriod):
        report.error(
            node.at,
            Code.BAD_VALUE,
            f"unknown period {clip(node.text)!r}",
            "write day, week, month or {rolling: 7d}",
        )
        return None, None
    chosen = fields.choice("period", "period", tuple(CalendarPeriod))
    return None, CalendarPeriod(chosen) if chosen else None


def _quiet_hours(top: Fields, names: Names, report: Report) -> Iterator[QuietHours]:
    for key, value in top.named("quiet_hours", "quiet window"):
        fields = Fields(
            report,
            value,
            f"quiet hours {key.text!r}",
            keys_in("quiet_window"),
            at=key.at,
        )
        fields.require("from", "to")
        start, end = minute_of_day(fields, "from"), minute_of_day(fields, "to", ends=True)
        if start is not None and start == end:
            report.error(
                fields.place("from"),
                Code.BAD_VALUE,
                "the window is empty",
                "write a whole day as from 00:00 to 24:00",
            )
        days = fields.choices("days", "day", (*WEEKDAYS, *DayKind))
        if fields.node("days") is not None and not fields.scalars("days", "a day"):
            report.error(
                fields.place("days"), Code.BAD_VALUE, "'days' is empty", "name days, or leave it out"
            )
        yield QuietHours(
            name=key.text,
            label=fields.text("label", key.text),
            start_minute=start or 0,
            end_minute=end or 0,
            weekdays=frozenset(map(WEEKDAYS.index, (set(days) or set(WEEKDAYS)).intersection(WEEKDAYS))),
            applies_to=_selector(fields, "applies_to", names, report),
            kinds=frozenset(map(DayKind, set(days).difference(WEEKDAYS))),
            otherwise=fields.fate(),
        )


def _cool_downs(top: Fields, report: Report) -> Iterator[CoolDown]:
    for key, value in top.named("cool_downs", "cool-down"):
        fields = Fields(report, value, f"cool-down {key.text!r}", keys_in("cool_down"), at=key.at)
        fields.require("after", "for")
        after = fields.choices("after", "outcome", tuple(OutcomeKind))
        if fields.node("after") is not None and not fields.scalars("after", "an outcome"):
            report.error(
                fields.place("after"), Code.BAD_VALUE, "'after' is empty", "name at least one outcome"
            )
        yield CoolDown(
            name=key.text,
            label=fields.text("label", key.text),
            outcomes=frozenset(map(OutcomeKind, after)),
            for_us=fields.duration("for", DAY_US, most=MAX_COOL_DOWN_US),
            scope=CoolDownScope(
                fields.choice("scope", "scope", tuple(CoolDownScope)) or CoolDownScope.PRODUCT
            ),
        )


def _suppressions(
    top: Fields, names: Names, conditions: Conditions, report: Report
) -> Iterator[Suppression]:
    for key, value in top.named("suppress", "suppression"):
        fields = Fields(
            report,
            value,
            f"suppression {key.text!r}",
            keys_in("suppression"),
            at=key.at,
        )
        fields.require("when")
        # An attribute of the event is unknown on all other events, and unknown suppresses.
        when = compile_standing(
            fields.scalar("when", "an expression"),
            "'when' of a suppression",
            "that is unknown on most events, and unknown suppresses",
            conditions,
            names.definitions,
            report,
        )
        applies_to = _selector(fields, "applies_to", names, report)
        if when is not None:
            yield Suppression(key.text, fields.text("label", key.text), when, applies_to)


def _opt_in(top: Fields, names: Names, report: Report) -> Iterator[str]:
    consent = Fields(report, top.node("consent"), "consent", keys_in("consent"))
    for section, kind, known in (
        ("channels", "channel", names.vocabulary.channels),
        ("categories", "category", names.categories),
    ):
        node = consent.node(section)
        fields = Fields(report, node, f"consent {section}", keys_of(node))
        for name in keys_of(node):
            if name not in known:
                report.unknown(fields.key_at(name), kind, name, known)
            elif fields.choice(name, "kind of consent", _CONSENT) == "opt_in":
                yield f"{kind}/{name}"


def _control(top: Fields, report: Report) -> Control:
    fields = Fields(report, top.node("control"), "control", keys_in("control"))
    return Control(fields.share("share"), fields.text("salt"))


def _normal_status(top: Fields, default: Policies, report: Report) -> frozenset[str]:
    if top.node("normal_status") is None:
        return default.normal_status
    found = frozenset(node.text for node in top.scalars("normal_status", "a status"))
    if not found:
        report.error(
            top.place("normal_status"),
            Code.BAD_VALUE,
            "'normal_status' is empty: nobody could be contacted",
            "name at least one status",
        )
    return found


def _selector(fields: Fields, key: str, names: Names, report: Report) -> Selector:
    """`{channels: [sms], categories: [...], ...}`; absent means any contact."""
    keys = keys_in("selector")
    selector = Fields(report, fields.node(key), f"{key!r} of {fields.what}", keys)
    for each in keys:
        if selector.node(each) is not None and not selector.scalars(each, "a name"):
            hint = "name at least one, or leave it out for any"
            report.error(selector.place(each), Code.BAD_VALUE, f"{each!r} is empty", hint)
    return Selector(
        campaigns=frozenset(selector.choices("campaigns", "campaign", names.campaigns)),
        products=frozenset(selector.choices("products", "product", names.vocabulary.products)),
        categories=frozenset(selector.choices("categories", "category", names.categories)),
        channels=frozenset(selector.choices("channels", "channel", names.vocabulary.channels)),
        modes=frozenset(map(Mode, selector.choices("modes", "mode", tuple(Mode)))),
    )
