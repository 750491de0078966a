"""Months of a service in process, whose policies look back for days and weeks; and the same months again,
with something done now and then that must not be noticed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from textwrap import dedent

from opportune_rulebase.policies import OutcomeKind
from opportune_service.app.advise import Visit, advise
from opportune_service.app.backfill import Backfill
from opportune_service.app.defer import decide_due
from opportune_service.app.records import DecisionFilter
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Event
from opportune_service.core.state import encode_state
from opportune_service.core.verdict import Outcome, Reason, Verdict
from support.applications import activate, running
from support.rulebases import NOON_US
from support.small_rulebase import subscribers

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
PEOPLE = subscribers(4)
LOOKBACK_DAYS = 45
"""Of the longest policy: how customers have answered on a channel."""

_ANSWERS = [
    *(OutcomeKind.DELIVERED, OutcomeKind.ACCEPTED, OutcomeKind.REFUSED),
    *(OutcomeKind.COMPLAINED, OutcomeKind.ORDERED, OutcomeKind.NOT_OFFERED),
]

Between = Callable[[Application], Awaitable[None]]


def long_memory(rng: random.Random, *, second: bool = False) -> dict[str, bytes]:
    """A rulebase under which what happened weeks ago matters. `second`: with a metric more, to be filled
    from the log."""
    fates = ["drop", "defer", "next"]
    more = "  pings_20d: {count: ping, days: 20}\n" if second else ""
    files = {
        "rulebase.yaml": "rulebase: memory\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": """\
            events: {ping: {}, bought: {attributes: {what: string}}, visit: {}}
            subscriber: {}
            channels:
              sms: {mode: automatic, per_day: 9}
              mms: {mode: automatic}
              counter: {mode: manual}
            products:
              music: {label: M, category: music}
              data: {label: D, category: data}
            """,
        "behaviours.yaml": "metrics:\n  pings_30d: {count: ping, days: 30}\n" + more,
        "policies.yaml": f"""\
            caps:
              few: {{limit: {rng.randrange(2, 5)}, period: {{rolling: 9d}}, otherwise: {rng.choice(fates)}}}
              month: {{limit: {rng.randrange(4, 9)}, period: month, per: [channel]}}
              rare: {{limit: 4, period: {{rolling: 40d}}, per: [campaign], otherwise: {rng.choice(fates)}}}
            cool_downs:
              refused: {{after: [refused], for: {rng.randrange(10, 40)}d, scope: product}}
              complained: {{after: [complained], for: 25d, scope: category}}
              accepted: {{after: [accepted, ordered], for: 35d, scope: campaign}}
            preference: {{within: {LOOKBACK_DAYS}d, from_contacts: 2}}
            control: {{share: 10%}}
            """,
    }
    for n in range(4):
        manual = n == 3
        channels = "[counter]" if manual else rng.choice(["[sms]", "[sms, mms]", "[mms, sms]"])
        files[f"campaigns/c{n}.yaml"] = f"""\
            campaign: c{n}
            label: C{n}
            product: {rng.choice(["music", "data"])}
            on: [ping]
            when: metric.pings_{"20d" if second and n == 1 else "30d"} > {rng.choice([-1, 3, 9])}
            mode: {"manual" if manual else "automatic"}
            channels: {channels}
            content: {{default: hello}}
            priority: {rng.randrange(3)}
            fresh_for: 1h
            expires_after: {rng.choice(["2h", "60h", "9d"])}
            open_for: {rng.choice(["1h", "20h", "12d"])}
            conversion: {{event: bought, within: 15d}}
            quota: {{per_day: 2, total: {rng.choice([6, 1000])}}}
            """
    return {name: dedent(text).encode() for name, text in files.items()}


class Lived:
    """What came of a life: a verdict for each line of the list of decisions, what had become of what was
    answered, and the states in the end."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.outcomes: list[Outcome] = []
        self.states: dict[str, bytes] = {}

    def reasons(self) -> Counter[Reason]:
        return Counter(each.reason for verdict in self.verdicts for each in verdict.decisions)


async def lived(seed: int, between: Between, *, bursts: int = 60) -> Lived:
    """Live some months. `between` is called now and then; whatever it does, the life draws the same."""
    rng = random.Random(seed)
    found = Lived()
    first, second = long_memory(random.Random(seed)), long_memory(random.Random(seed), second=True)
    async with running(files=first, people=PEOPLE, now_us=NOON_US) as app:
        assert isinstance(app.clock, ManualClock)
        cursor = 0
        for burst in range(bursts):
            app.clock.value_us += rng.choice([HOUR_US, 9 * HOUR_US, DAY_US, 2 * DAY_US, 6 * DAY_US])
            if burst == bursts * 2 // 3:
                await activate(app, second)
                await filled(app.backfill)
            await _burst(app, rng, burst)
            cursor = await _note(app, found, cursor)
            await _answer(app, rng, found)
            if burst % 3 == 2:
                await between(app)
        states = await app.states.load(PEOPLE)
        found.states = {who: encode_state(state) for who, state in states.items()}
    return found


async def filled(backfill: Backfill) -> None:
    backfill.start()
    await backfill.wait()


async def _burst(app: Application, rng: random.Random, burst: int) -> None:
    now_us = app.clock.now_us()
    await decide_due(app.ingest, now_us)
    await app.deliveries.expire()
    for n in range(6):
        who, kind = rng.choice(PEOPLE), rng.choice(["ping", "ping", "ping", "bought"])
        event = Event(f"{burst}-{n}", who, kind, now_us - rng.randrange(HOUR_US // 2))
        await app.ingest.publish("gn", [event])
    if rng.random() < 0.4:
        visit = Visit(rng.choice(PEOPLE), "counter", f"v{burst}", "visit")
        await advise(app.live, app.ingest, app.ledger, app.thread, app.clock, visit)


async def _note(app: Application, found: Lived, cursor: int) -> int:
    rows = await app.thread.run(app.ledger.decisions, DecisionFilter(), cursor, 1_000, False)
    for row in rows:
        verdict = await app.thread.run(app.ledger.verdict_of, row.decision_id)
        assert verdict is not None
        found.verdicts.append(verdict)
    return rows[-1].cursor if rows else cursor


def _record(app: Application, decision_id: str, kind: OutcomeKind) -> None:
    """In the ledger's thread."""
    with app.ledger.transaction() as tx:
        tx.record_outcome(decision_id, kind, app.clock.now_us())


async def _answer(app: Application, rng: random.Random, found: Lived) -> None:
    """To something that was offered lately."""
    offers = [
        decision.id
        for verdict in found.verdicts[-8:]
        for decision in verdict.decisions
        if decision.reason is Reason.DECIDED and decision.reserves
    ]
    kind, pick = rng.choice(_ANSWERS), rng.random()
    if offers:
        id_ = offers[int(pick * len(offers))]
        await app.thread.run(_record, app, id_, kind)
        found.outcomes += await app.thread.run(app.ledger.outcomes_of, id_)
