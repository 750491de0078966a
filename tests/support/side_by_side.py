"""Random revisions that share some definitions and differ in others, and what running them comes to: alone,
and side by side."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import dedent

import msgspec
from opportune_rulebase import load
from opportune_rulebase.engine import Engine
from opportune_rulebase.model import AbsencePattern, DwellPattern, Rulebase
from opportune_service.app.timers import pending
from opportune_service.core.events import Due, Event
from opportune_service.core.observe import observe, observe_due
from opportune_service.core.revision import Beside, Revision
from opportune_service.core.state import SubscriberState, encode_state
from opportune_service.core.verdict import Moment
from support.rulebases import NOON_US

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
PEOPLE = [f"86138000{n:05d}" for n in range(6)]

Make = Callable[[Rulebase], Engine]


def files(rng: random.Random) -> dict[str, bytes]:
    """A revision. Its patterns have the same few names in any order, so that two revisions have equal
    definitions under other names, and others under equal ones."""
    pick = rng.choice
    first, second, third, fourth, fifth = rng.sample(["p", "q", "r", "s", "t"], 5)
    patterns = [
        (first, pick(["{count: a, at_least: 2, within: 20m}", "{count: a, at_least: 3, within: 20m}"])),
        (
            second,
            pick(
                [f"{{sequence: [{first}, b], within: 30m}}", "{sequence: [a, b], within: 30m, without: c}"]
            ),
        ),
        (third, pick(["{after: a, absent: b, for: 10m}", f"{{after: {first}, absent: b, for: 10m}}"])),
        (fourth, pick(["{dwell: mall, for: 10m}", "{dwell: mall, for: 15m}"])),
        (
            fifth,
            pick(
                [
                    f"{{count: {third}, at_least: 2, within: 2h}}",
                    f"{{after: {second}, absent: c, for: 10m}}",
                    "{change: count, of: b, days: 1, rises_to: 1.5, at_least: 1}",
                    "{sequence: [handset_changed, a], within: 1h}",
                ]
            ),
        ),
    ]
    rng.shuffle(patterns)
    campaigns = {}
    for number, on in enumerate(["a", "b", first, second, third, fourth, fifth]):
        metric, least = pick(["m_a", "m_n", "m_p"]), rng.randrange(3)
        remembers = pick(["", " && !fact.lately", " || fact.lately"])
        campaigns[f"campaigns/c{number}.yaml"] = f"""\
            campaign: c{number}
            product: thing
            on: [{on}]
            when: metric.{metric} >= {least}{remembers}
            mode: automatic
            channels: [sms]
            content: {{sms: "{{{{metric.{metric}}}}}"}}
            """
    texts = {
        "rulebase.yaml": "rulebase: side-by-side\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": """\
            events:
              a: {attributes: {size: {type: int, min: 0}, kind: {type: string, values: [x, y]}}}
              b: {attributes: {kind: {type: string, values: [x, y]}}}
              c: {}
            subscriber: {age: int}
            places: {table: places.csv}
            channels: {sms: {mode: automatic}}
            products: {thing: {label: Thing, category: things}}
            """,
        "places.csv": "cell,place,label,categories\n1,gate,Gate,mall\n2,field,Field,other\n",
        "behaviours.yaml": "metrics:\n"
        + f"  m_a: {{count: a, last: {pick(['30m', '1h'])}}}\n"
        + "  m_n: {sum: event.size, of: a, days: 2, where: "
        + pick(['event.kind == "x"', 'event.kind == "y"', "event.size > 3"])
        + "}\n"
        + f"  m_p: {{count: {pick([first, second, third])}, last: 2h}}\n"
        + "facts:\n"
        + f"  lately: {{on: [{pick(['b', first, third])}], for: {pick(['30m', '2h'])}}}\n"
        + "patterns:\n"
        + "".join(f"  {name}: {text}\n" for name, text in patterns),
        **campaigns,
    }
    return {name: dedent(text).encode() for name, text in texts.items()}


def happenings(rng: random.Random, count: int) -> list[Event]:
    """What a few people do, mostly in order; some of it comes late, some twice."""
    at_us, events = NOON_US, []
    for number in range(count):
        at_us += rng.choice([0, 0, 1, 1, 1, 3, 3, 8, 8, 30, 30, 600]) * MINUTE_US
        late_us = rng.choice([0, 0, 0, 0, 5, 40]) * MINUTE_US
        kind = rng.choice("aaabbc")
        told = {"size": rng.randrange(6), "kind": rng.choice("xy")}
        attributes = {"a": told, "b": {"kind": told["kind"]}, "c": {}}[kind]
        event = Event(
            f"e{number}",
            rng.choice(PEOPLE),
            kind,
            at_us - late_us,
            msgspec.json.encode(attributes),
            rng.choice(["", "", "1", "2"]),
            rng.choice(["", "", "", "35145120840121", "35145120840122"]),
        )
        events += [event, event] if rng.random() < 0.05 else [event]
    return events


@dataclass
class Run:
    """States of people under a revision and those beside it, and the moments that came of it, in order."""

    revision: Revision
    states: dict[str, SubscriberState] = field(
        default_factory=lambda: {each: SubscriberState(known=True) for each in PEOPLE}
    )
    moments: list[Moment] = field(default_factory=list)
    shadowed: list[Moment] = field(default_factory=list)

    def take(self, events: Sequence[Event]) -> None:
        """A batch, at its own times."""
        admission = self.revision.admission
        admitted = [(each, admission.admit(each, 0, each.occurred_at_us)) for each in events]
        observed = observe(self.revision, "source", admitted, self.states, 1, None)  # type: ignore[arg-type]
        self.moments += observed.moments
        self.shadowed += observed.shadowed

    def settle(self, until_us: int) -> None:
        """Timers that are due before then, one after the other."""
        while True:
            due = [
                (timers[0], who)
                for who, state in self.states.items()
                if (timers := pending(self.revision, state)) and timers[0][0] < until_us
            ]
            if not due:
                return
            (at_us, key), who = min(due)
            observed = observe_due(self.revision, [Due(who, key, at_us)], self.states, 1, None)
            self.moments += observed.moments
            self.shadowed += observed.shadowed

    def live(self, events: Sequence[Event]) -> Run:
        """Everything in order, timers by event time."""
        latest_us = 0
        for event in events:
            latest_us = max(latest_us, event.occurred_at_us)
            self.settle(latest_us)
            self.take([event])
        self.settle(latest_us + 2 * HOUR_US)
        return self

    def of(self, who: str, *, shadow: bool = False) -> list[Moment]:
        """The moments of a subscriber."""
        return [
            each for each in (self.shadowed if shadow else self.moments) if each.key.subscriber_id == who
        ]

    def kept(self, who: str, keys: frozenset[str]) -> dict[str, object]:
        """What the state has under these keys: figures, and what patterns have come to. Of those that wait,
        not the waits that are over and settled: for how long these are kept depends on the journal."""
        state = self.states[who]
        found: dict[str, object] = {key: each for key, each in state.series.items() if key in keys}
        for key in keys & state.patterns.keys():
            each, tip = state.patterns[key], state.patterns[key].tip
            if isinstance(self.revision.patterns_by_key[key], AbsencePattern | DwellPattern):
                tip = () if tip[:2] == (None, False) else tip[:2]
            if tip or each.due_us:
                found[key] = (tip, each.due_us, each.days)
        return found

    def encoded(self) -> dict[str, bytes]:
        return {who: encode_state(state) for who, state in self.states.items()}


def covered(rulebase: Rulebase) -> dict[str, int]:
    """All of it is folded since ever."""
    every = (*rulebase.metrics.values(), *rulebase.facts.values(), *rulebase.patterns.values())
    return {each.key: 0 for each in every}


def alone(content: Mapping[str, bytes], make: Make) -> Revision:
    rulebase = load(content)
    return Revision(rulebase, make(rulebase), covered(rulebase))


def together(
    contents: Sequence[Mapping[str, bytes]],
    shares: Sequence[int | None],
    make: Make,
    *,
    twice: bool = False,
) -> Revision:
    """The first with the others beside it. `twice`: each folds all that it has, also what others do."""
    first = alone(contents[0], make)
    folded, beside = set(first.keys), []
    for content, share in zip(contents[1:], shares, strict=True):
        rulebase = load(content)
        revision = Revision(rulebase, make(rulebase), covered(rulebase), {}, () if twice else folded)
        folded |= revision.own_keys
        beside.append(Beside(revision, share))
    return first.alongside(beside)


def close(*revisions: Revision) -> None:
    for revision in revisions:
        for each in revision.side_by_side:
            each.close()
