"""The tests of a rulebase, `tests/*_test.yaml`: what a case says, read with positions and checked whole.

now: 2026-11-20T20:00:00+08:00
cases:
  - name: heavy MMS sender in the evening is offered the bundle
    subscriber: {id: "8613800000001", products: []}     # id and known are the case's, the rest context
    given:                                              # before the first event; what is not named is 0
      {metric.mms_30d: 25, terminal.mms: true, fact.interest_finance: true,
       control: false,                                  # true: in the control groups; without it, in none
       paused: [ring-tone-club], spent: [mms-gallery, channel/mms]}  # campaigns; quotas that are used up
    peers: {"8613900000001": {brand: gotone}}           # others that events name
    history:
      contacts: [{campaign: ring-tone-club, before: 2d}, {origin: crm, channel: outbound, before: 9d}]
      outcomes: [{campaign: ring-tone-club, outcome: refused, before: 1d}]
    events: [{type: mms_sent, size_kb: 80, at: 10m}]    # 10 minutes after `now`; absent: at `now`
    until: 25h                                          # time goes on until 25 hours after `now`
    expect:
      - {campaign: mms-bundle-2026-11, mode: automatic, channel: sms}
      - {campaign: mms-gallery, reason: quiet_hours, fate: defer, due: 11h}  # or up to the jitter later
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from opportune_rulebase.errors import Position, RulebaseError
from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.fields import Fields, keys_of
from opportune_rulebase.loading.problems import Code, Report
from opportune_rulebase.loading.source import (
    MAX_YAML_BYTES,
    Budget,
    MapNode,
    Node,
    ScalarNode,
    decode,
    documents,
)
from opportune_rulebase.model import Rulebase
from opportune_rulebase.policies import Fate, Mode

from opportune_service.app.case_values import MOST_US, parse_at, parse_instant, plain
from opportune_service.app.read_past import Given, PastReader, items
from opportune_service.core.admit import Admission
from opportune_service.core.events import Event, Rejection
from opportune_service.core.verdict import Contact, Outcome, Reason

_LATER_EVENT = {"touch_point": "leave it out: a case publishes events, it does not ask for advice"}


@dataclass(frozen=True, slots=True)
class Expected:
    """One decision that must come out. None does not matter; `content` is a part of the text. `due_us`:
    when it is decided again, or as much later as the rulebase spreads what it defers."""

    campaign: str
    reason: Reason
    mode: Mode | None
    channel: str | None
    content: str | None
    fate: Fate | None
    due_us: int | None


@dataclass(frozen=True, slots=True)
class Case:
    """One case, ready to be tried. `events` are in order of time; `context` is checked already.

    `sources`: event id -> declared source, of those that name one. `peers`: subscriber id -> context.
    Time runs from `begin_us` to `end_us`.
    """

    name: str
    position: Position
    subscriber_id: str
    known: bool
    context: Mapping[str, object]
    peers: Mapping[str, Mapping[str, object]]
    now_us: int
    given: Given
    contacts: Sequence[Contact]
    outcomes: Sequence[Outcome]
    events: Sequence[Event]
    sources: Mapping[str, str]
    until_us: int | None
    expect: Sequence[Expected]

    @property
    def begin_us(self) -> int:
        return min([self.now_us, *(event.occurred_at_us for event in self.events)])

    @property
    def end_us(self) -> int:
        return max([self.until_us or self.now_us, *(event.occurred_at_us for event in self.events)])


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
        self.past = PastReader(rulebase, self.admission, report)
        self.sent = {name: each for name, each in rulebase.vocabulary.events.items() if not each.derived}
        self.count = 0

    def file(self, node: Node) -> Iterator[Case]:
        fields = Fields(self.report, node, "the test file", keys_in("test_file"))
        fields.require("cases")
        now_us = self.instant(fields, "now")
        for item in items(self.report, fields, "cases"):
            yield self.case(item, now_us)

    def case(self, node: Node, now_us: int | None) -> Case:
        fields = Fields(self.report, node, "the case", keys_in("case"))
        fields.require("name", "expect")
        if fields.node("until") is None:
            fields.require("events")
        own_now_us = self.instant(fields, "now")
        now_us = now_us if own_now_us is None else own_now_us
        if now_us is None:
            hint = "add 'now: 2026-11-20T20:00:00+08:00' to the file or to the case"
            self.report.error(fields.at, Code.MISSING_KEY, "the case has no 'now'", hint)
            now_us = 0
        subscriber_id, known, context = self.past.subscriber(fields.node("subscriber"))
        contacts, outcomes = self.past.history(fields.node("history"), now_us)
        sources: dict[str, str] = {}
        events = [
            event
            for item in items(self.report, fields, "events")
            if (event := self.event(item, subscriber_id, now_us, sources)) is not None
        ]
        case = Case(
            name=fields.text("name"),
            position=fields.at,
            subscriber_id=subscriber_id,
            known=known,
            context=context,
            peers=self.past.peers(fields),
            now_us=now_us,
            given=self.past.given(fields),
            contacts=contacts,
            outcomes=outcomes,
            events=sorted(events, key=lambda event: event.occurred_at_us),
            sources=sources,
            until_us=None if fields.node("until") is None else self.at(fields, "until", now_us),
            expect=[self.expected(item, now_us) for item in items(self.report, fields, "expect")],
        )
        self.check_times(fields, case)
        return case

    def check_times(self, fields: Fields, case: Case) -> None:
        if case.until_us is not None and case.until_us < case.end_us:
            message = "'until' lies before 'now' or before an event"
            self.report.error(fields.place("until"), Code.BAD_VALUE, message, "name the end of the case")
        if case.end_us - case.begin_us > MOST_US:
            message = f"a case lasts at most {MOST_US // 86_400_000_000} days"
            self.report.error(fields.at, Code.BAD_VALUE, message, "make two cases of it")

    def event(self, node: Node, subscriber_id: str, now_us: int, sources: dict[str, str]) -> Event | None:
        name = node.values.get("type") if isinstance(node, MapNode) else None
        type_ = name.text if isinstance(name, ScalarNode) else ""
        attributes = self.sent[type_].attributes if type_ in self.sent else {}
        own = ["type", "at", "cell_id", "imei", *(["source"] if "source" not in attributes else [])]
        # Of an unknown type only the type is reported, not its attributes too.
        keys = (*own, *attributes) if type_ in self.sent else (*own, *keys_of(node))
        fields = Fields(self.report, node, "the event", keys, later=_LATER_EVENT)
        fields.require("type")
        if type_ in self.rulebase.vocabulary.events and type_ not in self.sent:
            hint = "write the events that lead to it; 'until' lets time pass"
            self.report.error(
                fields.place("type"), Code.BAD_VALUE, f"the service itself makes {type_!r}", hint
            )
            return None
        if fields.choice("type", "event type", self.sent) is None:
            return None
        raw = {
            key: plain(value, attribute)
            for key, attribute in attributes.items()
            if key not in own and (value := fields.node(key)) is not None
        }
        self.count += 1
        event = Event(
            id=f"event-{self.count}",
            subscriber_id=subscriber_id,
            type=type_,
            occurred_at_us=self.at(fields, "at", now_us),
            attributes=msgspec.json.encode(raw),
            cell_id=fields.text("cell_id"),
            imei=fields.text("imei"),
        )
        if "source" in own:
            source = fields.choice("source", "source", self.rulebase.vocabulary.sources)
            sources |= {event.id: source} if source else {}
        admitted = self.admission.admit(event, 0, event.occurred_at_us)
        if isinstance(admitted, Rejection):
            self.report.error(fields.at, Code.BAD_VALUE, admitted.message)
            return None
        return event

    def expected(self, node: Node, now_us: int) -> Expected:
        fields = Fields(self.report, node, "the expectation", keys_in("expectation"))
        fields.require("campaign")
        mode = fields.choice("mode", "mode", [mode.value for mode in Mode])
        reason = fields.choice("reason", "reason", [reason.value for reason in Reason])
        fate = fields.choice("fate", "fate", tuple(Fate))
        if fields.node("due") is not None and fate != Fate.DEFER:
            message = "only what is deferred is due again"
            self.report.error(fields.key_at("due"), Code.BAD_VALUE, message, "add 'fate: defer'")
        return Expected(
            campaign=fields.choice("campaign", "campaign", self.rulebase.campaigns) or "",
            reason=Reason(reason) if reason else Reason.DECIDED,
            mode=Mode(mode) if mode else None,
            channel=fields.choice("channel", "channel", self.rulebase.vocabulary.channels),
            content=fields.text("content") or None,
            fate=Fate(fate) if fate else None,
            due_us=None if fields.node("due") is None else self.at(fields, "due", now_us),
        )

    def instant(self, fields: Fields, key: str) -> int | None:
        """The instant of a key; None if the key is absent, 0 if it is wrong."""
        node = fields.scalar(key, "an instant")
        if node is None:
            return None
        instant = parse_instant(node.text)
        if instant is None:
            self.wrong_instant(node, "write it with its offset, such as 2026-11-20T20:00:00+08:00")
        return instant or 0

    def at(self, fields: Fields, key: str, now_us: int) -> int:
        node = fields.scalar(key, "an instant or a duration")
        if node is None:
            return now_us
        at_us = parse_at(node.text, now_us)
        if at_us is None:
            self.wrong_instant(node, "write how long after 'now': 10m, 2h; -10m is before it")
        return now_us if at_us is None else at_us

    def wrong_instant(self, node: ScalarNode, hint: str) -> None:
        self.report.error(node.at, Code.BAD_VALUE, f"{node.text[:40]!r} is not an instant", hint)
