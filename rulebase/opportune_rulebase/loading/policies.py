"""`policies.yaml`: what protects the customer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from opportune_rulebase.expressions import Expression
from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.clock import WEEKDAYS, minute_of_day
from opportune_rulebase.loading.conditions import Conditions
from opportune_rulebase.loading.fields import DAY_US, Fields, keys_of
from opportune_rulebase.loading.problems import Code, Report, clip
from opportune_rulebase.loading.source import MapNode, Node, ScalarNode
from opportune_rulebase.model import Definition
from opportune_rulebase.policies import (
    CalendarPeriod,
    Cap,
    CoolDown,
    CoolDownScope,
    Dimension,
    Mode,
    OutcomeKind,
    Policies,
    QuietHours,
    Selector,
    Suppression,
)

MAX_PERIOD_US: Final = 400 * DAY_US
MAX_COOL_DOWN_US: Final = 4_000 * DAY_US

_LEAVE_OUT: Final = "leave it out"
_LATER: Final = dict.fromkeys(
    [
        "control_group",
        "control_groups",
        "fit",
        "capacity",
        "quotas",
        "pace",
        "settle",
        "exclusivity",
        "remember",
        "calendar",
        "preference",
        "replies",
    ],
    _LEAVE_OUT,
)
_LATER_POLICY: Final = dict.fromkeys(
    ["headroom", "otherwise", "fate", "jitter", "calendar", "holidays", "workdays", "scope_of"], _LEAVE_OUT
)
_CONSENT: Final = ("opt_in", "opt_out")
_SUPPRESS_READS: Final = (
    *("sub", "terminal", "metric", "fact", "behaviour", "scene", "calendar", "now", "zone"),
)


@dataclass(frozen=True, slots=True)
class Names:
    """What policies may refer to."""

    campaigns: Collection[str]
    products: Collection[str]
    categories: Collection[str]
    channels: Collection[str]
    definitions: Mapping[str, Definition]


def cap_names(node: Node | None) -> frozenset[str]:
    """The names of the caps, before anything else is known of them."""
    caps = node.values.get("caps") if isinstance(node, MapNode) else None
    return frozenset(caps.values) if isinstance(caps, MapNode) else frozenset()


def read_policies(node: Node | None, names: Names, conditions: Conditions, report: Report) -> Policies:
    """The policies; errors go to `report`. Without a file: those that `Policies()` has."""
    top = Fields(report, node, "policies.yaml", keys_in("policies"), later=_LATER)
    default = Policies()
    arbitration = Fields(
        report,
        top.node("arbitration"),
        "arbitration",
        keys_in("arbitration"),
        later={"settle": _LEAVE_OUT, "exclusivity": _LEAVE_OUT, "exclusive_groups": _LEAVE_OUT},
    )
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
    )


def _caps(top: Fields, names: Names, report: Report) -> Iterator[Cap]:
    for key, value in top.named("caps", "cap"):
        fields = Fields(report, value, f"cap {key.text!r}", keys_in("cap"), later=_LATER_POLICY, at=key.at)
        fields.require("limit", "period")
        rolling_us, calendar = _period(fields, report)
        applies_to = _selector(fields, "applies_to", names, report)
        yield Cap(
            name=key.text,
            label=fields.text("label", key.text),
            limit=fields.integer("limit", 0, most=100_000),
            rolling_us=rolling_us,
            calendar=calendar,
            per=frozenset(map(Dimension, fields.choices("per", "dimension", tuple(Dimension)))),
            applies_to=applies_to,
            counts=applies_to
            if fields.node("counts") is None
            else _selector(fields, "counts", names, report),
        )


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
            later=_LATER_POLICY,
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
        days = fields.choices("days", "weekday", WEEKDAYS)
        if fields.node("days") is not None and not fields.scalars("days", "a weekday"):
            report.error(
                fields.place("days"), Code.BAD_VALUE, "'days' is empty", "name days, or leave it out"
            )
        yield QuietHours(
            name=key.text,
            label=fields.text("label", key.text),
            start_minute=start or 0,
            end_minute=end or 0,
            weekdays=frozenset(map(WEEKDAYS.index, days or WEEKDAYS)),
            applies_to=_selector(fields, "applies_to", names, report),
        )


def _cool_downs(top: Fields, report: Report) -> Iterator[CoolDown]:
    for key, value in top.named("cool_downs", "cool-down"):
        fields = Fields(
            report, value, f"cool-down {key.text!r}", keys_in("cool_down"), later=_LATER_POLICY, at=key.at
        )
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
            later=_LATER_POLICY,
            at=key.at,
        )
        fields.require("when")
        # An attribute of the event is unknown on all other events, and unknown suppresses.
        when = conditions.compile(
            fields.scalar("when", "an expression"), "'when' of a suppression", may_read=_SUPPRESS_READS
        )
        applies_to = _selector(fields, "applies_to", names, report)
        if when is not None:
            _refuse_by_way_of_definitions(when, names.definitions, report)
            yield Suppression(key.text, fields.text("label", key.text), when, applies_to)


def _refuse_by_way_of_definitions(
    when: Expression, definitions: Mapping[str, Definition], report: Report
) -> None:
    """Refuse what a suppression may not read, where a definition that it reads does."""
    known: set[str] = set()
    waiting = [(name, name) for name in sorted(when.reads & definitions.keys())]
    while waiting:
        name, first = waiting.pop()
        for read in sorted(definitions[name].when.reads - known):
            known.add(read)
            if read in definitions:
                waiting.append((read, first))
            elif read.partition(".")[0] not in _SUPPRESS_READS:
                message = f"'when' of a suppression cannot read {read} (by way of {first})"
                hint = "that is unknown on most events, and unknown suppresses"
                report.error(when.position, Code.NOT_ALLOWED_HERE, message, hint)


def _opt_in(top: Fields, names: Names, report: Report) -> Iterator[str]:
    consent = Fields(report, top.node("consent"), "consent", keys_in("consent"))
    for section, kind, known in (
        ("channels", "channel", names.channels),
        ("categories", "category", names.categories),
    ):
        node = consent.node(section)
        fields = Fields(report, node, f"consent {section}", keys_of(node))
        for name in keys_of(node):
            if name not in known:
                report.unknown(fields.key_at(name), kind, name, known)
            elif fields.choice(name, "kind of consent", _CONSENT) == "opt_in":
                yield f"{kind}/{name}"


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
        products=frozenset(selector.choices("products", "product", names.products)),
        categories=frozenset(selector.choices("categories", "category", names.categories)),
        channels=frozenset(selector.choices("channels", "channel", names.channels)),
        modes=frozenset(map(Mode, selector.choices("modes", "mode", tuple(Mode)))),
    )
