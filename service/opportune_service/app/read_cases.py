"""The tests of a rulebase, `tests/*_test.yaml`: what a case says, read with positions and checked whole.

now: 2026-11-20T20:00:00+08:00
cases:
  - name: heavy MMS sender in the evening is offered the bundle
    subscriber: {id: "8613800000001", products: []}     # id and known are the case's, the rest context
    given: {metric.mms_30d: 25, terminal.mms: true}     # before the first event; other metrics are 0
    history:
      contacts: [{campaign: ring-tone-club, before: 2d}]
      outcomes: [{campaign: ring-tone-club, outcome: refused, before: 1d}]
    events: [{type: mms_sent, size_kb: 80, at: 10m}]    # 10 minutes after `now`; absent: at `now`
    expect: [{campaign: mms-bundle-2026-11, mode: automatic, channel: sms}]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
from opportune_rulebase.errors import Position, RulebaseError
from opportune_rulebase.loading.fields import Fields, parse_bool, parse_duration, parse_float, parse_int
from opportune_rulebase.loading.problems import Code, Report
from opportune_rulebase.loading.source import (
    MAX_YAML_BYTES,
    Budget,
    ListNode,
    MapNode,
    Node,
    ScalarNode,
    decode,
    documents,
)
from opportune_rulebase.model import Attribute, Bound, MetricKind, Mode, OutcomeKind, Rulebase, ValueType

from opportune_service.core.admit import Admission, AttributesError, is_subscriber_id
from opportune_service.core.events import Encoding, Event, Rejection
from opportune_service.core.fold import MAX_RETAINED
from opportune_service.core.verdict import Contact, Outcome, Reason

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_BEFORE_US = 800 * 86_400_000_000
_SOMEBODY = "8613800000001"
_TEXTS = {ValueType.STRING, ValueType.TIMESTAMP, ValueType.STRINGS}
_TERMINAL: Mapping[ValueType, type | tuple[type, ...]] = {
    ValueType.STRING: str,
    ValueType.INT: int,
    ValueType.DOUBLE: (int, float),
    ValueType.BOOL: bool,
}
_LATER_EVENT = {"touch_point": "leave it out: a case publishes events, it does not ask for advice"}


@dataclass(frozen=True, slots=True)
class Expected:
    """One decision that must come out. None does not matter; `content` is a part of the text."""

    campaign: str
    reason: Reason
    mode: Mode | None
    channel: str | None
    content: str | None


@dataclass(frozen=True, slots=True)
class Case:
    """One case, ready to be tried. `events` are in order of time; `context` is checked already."""

    name: str
    position: Position
    subscriber_id: str
    known: bool
    context: Mapping[str, object]
    now_us: int
    metrics: Mapping[str, int | float]
    terminal: Mapping[str, object]
    contacts: Sequence[Contact]
    outcomes: Sequence[Outcome]
    events: Sequence[Event]
    expect: Sequence[Expected]


def read_cases(rulebase: Rulebase, files: Mapping[str, bytes]) -> list[Case]:
    """All cases of the rulebase's test files, by file and place.

    Raises `RulebaseError` with every problem of every test file.
    """
    report = Report()
    reader = _Reader(rulebase, report)
    lines: dict[str, list[str]] = {}
    budget = Budget()
    cases: list[Case] = []
    for path in sorted(files):
        if not (path.startswith("tests/") and path.endswith(("_test.yaml", "_test.yml"))):
            continue
        source = decode(path, files[path], MAX_YAML_BYTES, report)
        if source is None:
            continue
        lines[path] = source.lines
        for node in documents(source, budget, report) or ():
            cases.extend(reader.file(node))
    if report.failed:
        raise RulebaseError(report.problems(lines))
    return cases


class _Reader:
    """Reads the cases of one rulebase; what is wrong goes to the report."""

    def __init__(self, rulebase: Rulebase, report: Report) -> None:
        self.rulebase = rulebase
        self.report = report
        self.admission = Admission(rulebase.vocabulary)
        self.count = 0

    def file(self, node: Node) -> Iterator[Case]:
        fields = Fields(self.report, node, "the test file", ("now", "cases"))
        fields.require("cases")
        now_us = self.instant(fields, "now")
        for item in self.items(fields, "cases"):
            yield self.case(item, now_us)

    def case(self, node: Node, now_us: int | None) -> Case:
        keys = ("name", "now", "subscriber", "given", "history", "events", "expect")
        fields = Fields(self.report, node, "the case", keys)
        fields.require("name", "events", "expect")
        own_now_us = self.instant(fields, "now")
        now_us = now_us if own_now_us is None else own_now_us
        if now_us is None:
            hint = "add 'now: 2026-11-20T20:00:00+08:00' to the file or to the case"
            self.report.error(fields.at, Code.MISSING_KEY, "the case has no 'now'", hint)
            now_us = 0
        subscriber_id, known, context = self.subscriber(fields.node("subscriber"))
        metrics, terminal = self.given(fields)
        contacts, outcomes = self.history(fields.node("history"), now_us)
        events = [self.event(item, subscriber_id, now_us) for item in self.items(fields, "events")]
        return Case(
            name=fields.text("name"),
            position=fields.at,
            subscriber_id=subscriber_id,
            known=known,
            context=context,
            now_us=now_us,
            metrics=metrics,
            terminal=terminal,
            contacts=contacts,
            outcomes=outcomes,
            events=sorted(
                (event for event in events if event is not None), key=lambda event: event.occurred_at_us
            ),
            expect=[self.expected(item) for item in self.items(fields, "expect")],
        )

    def subscriber(self, node: Node | None) -> tuple[str, bool, Mapping[str, object]]:
        """Id, whether anything is known of the subscriber, and the context."""
        declared = self.rulebase.vocabulary.subscriber
        fields = Fields(self.report, node, "the subscriber", ("id", "known", *declared))
        subscriber_id, known = fields.text("id", _SOMEBODY), fields.flag("known", True)
        if not is_subscriber_id(subscriber_id):
            message = "the id must be 5 to 15 digits without a plus sign"
            self.report.error(fields.place("id"), Code.BAD_VALUE, message)
        raw = {
            name: _plain(value, declared[name])
            for name in declared
            if (value := fields.node(name)) is not None
        }
        if raw and not known:
            message = "nothing can be known of a subscriber that is not known"
            self.report.error(fields.at, Code.CONFLICTING_KEYS, message, "leave 'known: false' out")
        try:
            context = self.admission.admit_context(msgspec.json.encode(raw), Encoding.JSON)
        except AttributesError as error:
            self.report.error(fields.at, Code.BAD_VALUE, str(error))
            context = {}
        return subscriber_id, known, context

    def given(self, fields: Fields) -> tuple[dict[str, int | float], dict[str, object]]:
        """Metrics before the first event, and what the handset can do."""
        metrics: dict[str, int | float] = {}
        terminal: dict[str, object] = {}
        names = {f"metric.{name}" for name in self.rulebase.metrics}
        names |= {f"terminal.{name}" for name in self.rulebase.vocabulary.terminal}
        for key, value in fields.entries("given"):
            root, _, name = key.text.partition(".")
            if key.text == "control":
                if not (isinstance(value, ScalarNode) and parse_bool(value.text) is False):
                    message = "control groups are not honoured yet, so nobody is in one"
                    self.report.error(value.at, Code.NOT_YET_SUPPORTED, message, "write 'control: false'")
            elif key.text not in names:
                self.report.unknown(key.at, "value to be given", key.text, {*names, "control"})
            elif root == "metric":
                metrics[name] = self.metric(name, value)
            else:
                terminal[name] = self.capability(self.rulebase.vocabulary.terminal[name], value)
        return metrics, terminal

    def capability(self, attribute: Attribute, node: Node) -> object:
        value = _plain(node, attribute)
        if not isinstance(value, _TERMINAL[attribute.type]):
            self.report.error(node.at, Code.BAD_VALUE, f"{attribute.name!r} is of type {attribute.type}")
        return value

    def metric(self, name: str, node: Node) -> int | float:
        text = node.text if isinstance(node, ScalarNode) else ""
        metric = self.rulebase.metrics[name]
        if metric.kind is MetricKind.COUNT:
            count = parse_int(text)
            if count is not None and 0 <= count <= MAX_RETAINED:
                return count
            message = f"a count is a whole number from 0 to {MAX_RETAINED}"
        else:
            amount = parse_int(text)
            number = parse_float(text) if amount is None else amount
            if number is not None and (number >= 0 or metric.bound is not Bound.LOWER):
                return number
            message = "a sum is a number" + (", here not below 0" if metric.bound is Bound.LOWER else "")
        self.report.error(node.at, Code.BAD_VALUE, message)
        return 0

    def history(self, node: Node | None, now_us: int) -> tuple[list[Contact], list[Outcome]]:
        fields = Fields(self.report, node, "the history", ("contacts", "outcomes"))
        contacts, outcomes = [], []
        for number, item in enumerate(self.items(fields, "contacts")):
            each = Fields(self.report, item, "the contact", ("campaign", "channel", "before"))
            each.require("campaign", "before")
            campaign = self.rulebase.campaigns.get(self.campaign(each) or "")
            at_us = now_us - each.duration("before", 1, most=_MOST_BEFORE_US)
            channel = each.choice("channel", "channel", self.rulebase.vocabulary.channels)
            if campaign:
                contacts.append(
                    Contact(
                        f"contact-{number}",
                        campaign.name,
                        campaign.product,
                        campaign.category,
                        channel or campaign.channels[0],
                        campaign.mode,
                        at_us,
                    )
                )
        for number, item in enumerate(self.items(fields, "outcomes")):
            each = Fields(self.report, item, "the outcome", ("campaign", "outcome", "before"))
            each.require("campaign", "outcome", "before")
            campaign = self.rulebase.campaigns.get(self.campaign(each) or "")
            at_us = now_us - each.duration("before", 1, most=_MOST_BEFORE_US)
            kind = each.choice("outcome", "outcome", [kind.value for kind in OutcomeKind])
            if campaign and kind:
                outcomes.append(
                    Outcome(
                        f"outcome-{number}",
                        OutcomeKind(kind),
                        at_us,
                        campaign.name,
                        campaign.product,
                        campaign.category,
                    )
                )
        return contacts, outcomes

    def event(self, node: Node, subscriber_id: str, now_us: int) -> Event | None:
        types = self.rulebase.vocabulary.events
        name = node.values.get("type") if isinstance(node, MapNode) else None
        type_ = name.text if isinstance(name, ScalarNode) else ""
        attributes = types[type_].attributes if type_ in types else {}
        own = ("type", "at", "cell_id", "imei")
        # Of an unknown type only the type is reported, not its attributes too.
        keys = (*own, *attributes) if type_ in types or not isinstance(node, MapNode) else tuple(node.keys)
        fields = Fields(self.report, node, "the event", keys, later=_LATER_EVENT)
        fields.require("type")
        if fields.choice("type", "event type", types) is None:
            return None
        raw = {
            key: _plain(value, attribute)
            for key, attribute in attributes.items()
            if key not in own and (value := fields.node(key)) is not None
        }
        self.count += 1
        event = Event(
            id=f"event-{self.count}",
            subscriber_id=subscriber_id,
            type=type_,
            occurred_at_us=self.at(fields, now_us),
            attributes=msgspec.json.encode(raw),
            cell_id=fields.text("cell_id"),
            imei=fields.text("imei"),
        )
        admitted = self.admission.admit(event, 0, event.occurred_at_us)
        if isinstance(admitted, Rejection):
            self.report.error(fields.at, Code.BAD_VALUE, admitted.message)
            return None
        return event

    def expected(self, node: Node) -> Expected:
        keys = ("campaign", "reason", "mode", "channel", "content")
        fields = Fields(self.report, node, "the expectation", keys)
        fields.require("campaign")
        mode = fields.choice("mode", "mode", [mode.value for mode in Mode])
        reason = fields.choice("reason", "reason", [reason.value for reason in Reason])
        return Expected(
            campaign=self.campaign(fields) or "",
            reason=Reason(reason) if reason else Reason.DECIDED,
            mode=Mode(mode) if mode else None,
            channel=fields.choice("channel", "channel", self.rulebase.vocabulary.channels),
            content=fields.text("content") or None,
        )

    def campaign(self, fields: Fields) -> str | None:
        return fields.choice("campaign", "campaign", self.rulebase.campaigns)

    def items(self, fields: Fields, key: str) -> Sequence[Node]:
        node = fields.node(key)
        if node is None or isinstance(node, ListNode):
            return node.items if node else ()
        self.report.error(node.at, Code.WRONG_TYPE, f"expected a list for {key!r}")
        return ()

    def instant(self, fields: Fields, key: str) -> int | None:
        """The instant of a key; None if the key is absent, 0 if it is wrong."""
        node = fields.scalar(key, "an instant")
        if node is None:
            return None
        instant = _instant(node.text)
        if instant is None:
            self.wrong_instant(node, "write it with its offset, such as 2026-11-20T20:00:00+08:00")
        return instant or 0

    def at(self, fields: Fields, now_us: int) -> int:
        node = fields.scalar("at", "an instant or a duration")
        if node is None:
            return now_us
        at_us = _at(node.text, now_us)
        if at_us is None:
            self.wrong_instant(node, "write how long after 'now': 10m, 2h; -10m is before it")
        return now_us if at_us is None else at_us

    def wrong_instant(self, node: ScalarNode, hint: str) -> None:
        self.report.error(node.at, Code.BAD_VALUE, f"{node.text[:40]!r} is not an instant", hint)


def _instant(text: str) -> int | None:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if instant.tzinfo is None else (instant - _EPOCH) // timedelta(microseconds=1)


def _at(text: str, now_us: int) -> int | None:
    """An instant, or a duration after `now` (`10m`) or before it (`-10m`)."""
    duration_us = parse_duration(text.removeprefix("-"))
    if duration_us is None:
        return _instant(text)
    return now_us - duration_us if text.startswith("-") else now_us + duration_us


def _plain(node: Node, attribute: Attribute) -> object:
    """The value as JSON has it. Texts stay as they are written; whether the type fits is checked later."""
    if isinstance(node, ListNode):
        return [_plain(item, attribute) for item in node.items]
    if isinstance(node, MapNode):
        return {key: _plain(value, attribute) for key, value in node.values.items()}
    if node.is_null:
        return None
    if node.style or attribute.type in _TEXTS:
        return node.text
    for parse in (parse_bool, parse_int, parse_float):
        if (value := parse(node.text)) is not None:
            return value
    return node.text
