"""A month of a small province, minute by minute: campaigns, channel workers, a counter, an outbound call
centre, and customers who answer, order and complain, more often when they were spoken to.

The simulation keeps its own books of what it saw, apart from the ledger: from the answers to its events,
from what its workers were handed, and from what its customers did. What an offer really does (`LIFT`) it
knows, because it made the customers.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent

import msgspec
from opportune_rulebase.policies import OutcomeKind
from opportune_service.app.advise import Visit, advise
from opportune_service.app.context import ImportItem, import_context
from opportune_service.app.defer import decide_due
from opportune_service.app.deliver import Reported, Settled
from opportune_service.app.records import Lease, Settlement
from opportune_service.bootstrap import Application, application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Encoding, Event, ImportMode
from opportune_service.core.observe import CLOCK
from opportune_service.core.verdict import Reason, Verdict
from opportune_service.settings import Settings
from opportune_service.simulator.province import Province
from support.applications import activate
from support.month_books import WEEKLY, Books, Entry
from support.provinces import MONDAY_US, ZONE, made_up_cells, made_up_tacs

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US

BASE, LIFT = 0.05, 0.60
"""How likely it is that somebody who was on the web orders data within two days anyway; and that a message
about it makes somebody order it. So far apart that among a hundred customers chance does not hide it: the
lower end of what data did was between 0.33 and 0.49 with each of six seeds."""

SILENT_DAYS = 5
"""So long after the last visit something may still be sent or ordered."""

_FILES = {
    "rulebase.yaml": "rulebase: month\nlabel: A month\ntime_zone: Asia/Shanghai\n",
    "vocabulary.yaml": """\
        events:
          web_visit: {}
          mms_sent: {}
          counter_visit: {}
          hotline_inquiry: {}
          ordered: {attributes: {product: string}}
          reply: {attributes: {text: string}}
        channels:
          sms: {mode: automatic, cost: 5, per_day: 60, otherwise: defer}
          push: {mode: automatic, cost: 1}
          counter: {mode: manual}
          outbound: {mode: manual, bulk: true, cost: 200}
        products:
          data: {label: Data, category: data}
          music: {label: Music, category: music}
          care: {label: Care, category: care}
        """,
    "campaigns/data.yaml": """\
        campaign: data
        label: More data, at the moment
        product: data
        on: [web_visit]
        mode: automatic
        channels: [sms, push]
        priority: 600
        fresh_for: 1h
        expires_after: 20h
        open_for: 1d
        control_group: 40%
        conversion: {event: ordered, when: event.product == "data", within: 3d}
        baseline: data-mass
        content: {default: "More data. Reply 1."}
        """,
    "campaigns/data-mass.yaml": """\
        campaign: data-mass
        label: More data, to everybody
        product: data
        on: {schedule: weekly, days: [wed], at: "10:30"}
        mode: automatic
        channels: [push]
        priority: 100
        open_for: 1d
        quota: {per_day: 30, otherwise: defer}
        conversion: {event: ordered, when: event.product == "data", within: 3d}
        content: {default: "More data for all. Reply 1."}
        """,
    "campaigns/music.yaml": """\
        campaign: music
        label: Music
        product: music
        on: [mms_sent]
        mode: automatic
        channels: [push, sms]
        fresh_for: 1h
        expires_after: 20h
        open_for: 1d
        control_group: 20%
        conversion: {event: ordered, when: event.product == "music", within: 7d}
        content: {default: "Music. Reply 1."}
        """,
    "campaigns/care.yaml": """\
        campaign: care
        label: Care at the counter
        product: care
        on: [counter_visit]
        mode: manual
        channels: [counter]
        content: {default: "Offer care."}
        """,
    "campaigns/call.yaml": """\
        campaign: call
        label: A call after an inquiry
        product: care
        on: [hotline_inquiry]
        mode: manual
        channels: [outbound]
        expires_after: 2d
        quota: {total: 40, otherwise: drop}
        content: {default: "Call about care."}
        """,
    "policies.yaml": """\
        caps:
          one_a_day: {limit: 1, period: day, applies_to: {modes: [automatic]}}
          three_a_week: {limit: 3, period: {rolling: 7d}, otherwise: defer}
          same_offer: {limit: 1, period: {rolling: 7d}, per: [campaign], otherwise: next}
        quiet_hours:
          night: {from: "21:00", to: "08:30", otherwise: defer}
        cool_downs:
          refused: {after: [refused], for: 2d, scope: any}
          complained: {after: [complained], for: 3d, scope: any}
        control: {share: 5%}
        replies: {event: reply, text: event.text, on_channel: sms, accepted: ["1"], refused: ["n"]}
        """,
}
_EVENTS = {"web_visit", "mms_sent", "hotline_inquiry", "counter_visit"}
"""What is taken from the province. Who visits the counter is told of by nobody: it asks for advice."""


class Month:
    """The province, its customers and workers, and the service on `database` (None: in memory).
    Everything is drawn from `seed`."""

    def __init__(self, seed: int, people: int, database: Path | None = None) -> None:
        self.rng = random.Random(seed)
        self.clock = ManualClock(MONDAY_US)
        self.books = Books()
        self._database = f"sqlite:///{database}" if database else "sqlite://"
        self._province = Province(seed, people, MONDAY_US, ZONE, made_up_cells(), made_up_tacs())
        self.known = {who for who, _ in self._province.context()}
        # Minute -> what customers have decided to do then.
        self._plans: defaultdict[int, list[Event]] = defaultdict(list)
        self._to_lease = False
        self._count = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Application]:
        """The service, with the rulebase active and the customers known."""
        settings = Settings(
            listen="127.0.0.1:0",
            database=self._database,
            checkpoint_seconds=600,
            timer_seconds=3600,
        )
        async with application(settings, self.clock) as app:
            await activate(app, {name: dedent(text).encode() for name, text in _FILES.items()})
            items = [ImportItem(who, b"{}") for who in sorted(self.known)]
            await import_context(app.live, app.ingest, items, 1, ImportMode.PATCH, Encoding.JSON)
            announce = app.deliveries.announce

            def listen(verdicts: Sequence[Verdict]) -> None:
                for verdict in verdicts:
                    self.books.take(verdict)
                    self._to_lease |= any(each.reason is Reason.DECIDED for each in verdict.decisions)
                    if verdict.key.source == CLOCK:
                        self.books.events.append((WEEKLY, verdict.occurred_at_us))
                announce(verdicts)

            app.deliveries.announce = listen  # type: ignore[method-assign]
            yield app

    async def live(self, app: Application, days: int) -> int:
        """So many days, minute by minute, and some more in which the province is silent, until all is sent
        and ordered that was on its way; when that was."""
        visits_end_us = MONDAY_US + days * DAY_US
        end_us = visits_end_us + SILENT_DAYS * DAY_US
        coming = self._province.events(visits_end_us)
        event = next(coming, None)
        for minute in range(MONDAY_US, end_us, MINUTE_US):
            self.clock.value_us = minute + MINUTE_US - 1_000
            seen: list[Event] = []
            while event is not None and event.occurred_at_us < minute + MINUTE_US:
                if event.subscriber_id in self.known and event.type in _EVENTS:
                    seen.append(msgspec.structs.replace(event, attributes=b"{}", cell_id="", imei=""))
                event = next(coming, None)
            await self._minute(app, seen, minute)
        self.books.close()
        return end_us

    async def _minute(self, app: Application, seen: Sequence[Event], minute: int) -> None:
        visits = [each for each in seen if each.type == "counter_visit"]
        events = [each for each in seen if each.type != "counter_visit"] + self._plans.pop(minute, [])
        events.sort(key=lambda each: each.occurred_at_us)
        self.books.events += [(each.type, each.occurred_at_us) for each in events]
        if events:
            receipt = await app.ingest.publish("province", events)
            assert receipt.accepted == len(events)
            self._do_more(events)
        if minute % (10 * MINUTE_US) == 0:
            await app.schedule.turn()
            await decide_due(app.ingest, self.clock.now_us())
        for visit in visits:
            await self._come_to_the_counter(app, visit)
        if self._to_lease or minute % (30 * MINUTE_US) == 0:
            await self._send(app)
        if minute % HOUR_US == 0:
            await app.deliveries.expire()

    def _do_more(self, events: Iterable[Event]) -> None:
        """What customers do next, whether or not anybody speaks to them."""
        for event in events:
            if event.type == "ordered":
                product = msgspec.json.decode(event.attributes)["product"]
                self.books.orders.append((event.subscriber_id, event.occurred_at_us, product))
            elif event.type == "web_visit" and self.rng.random() < BASE:
                self._order(event.subscriber_id, "data", self.rng.randrange(HOUR_US, 2 * DAY_US))
            elif event.type == "mms_sent" and self.rng.random() < BASE:
                self._order(event.subscriber_id, "music", self.rng.randrange(HOUR_US, 4 * DAY_US))

    # -- what happens to customers ----------------------------------------------------------------

    async def _come_to_the_counter(self, app: Application, event: Event) -> None:
        """Customers at the counter take it or leave it; now and then there is no time to ask."""
        visit = Visit(event.subscriber_id, "counter", event.id, "counter_visit")
        self.books.events.append(("counter_visit", self.clock.now_us()))
        advised = await advise(app.live, app.ingest, app.ledger, app.thread, app.clock, visit)
        for advice in advised.advices:
            kinds = [OutcomeKind.ACCEPTED, OutcomeKind.REFUSED, OutcomeKind.LATER, OutcomeKind.NOT_OFFERED]
            kind = self.rng.choices(kinds, [3, 4, 2, 1])[0]
            await self._report(app, advice.decision_id, kind)
            self.books.made[advice.decision_id].sent = kind is not OutcomeKind.NOT_OFFERED

    async def _send(self, app: Application) -> None:
        """The workers of all channels take what there is."""
        for channel in ("sms", "push", "outbound"):
            while leases := await app.deliveries.lease(channel, 50):
                for lease in leases:
                    await self._carry(app, lease)
        self._to_lease = False

    async def _carry(self, app: Application, lease: Lease) -> None:
        """One in twenty cannot be sent at once, one in thirty never."""
        draw, entry = self.rng.random(), self.books.made[lease.decision_id]
        word = Settlement.SENT
        if not 1 / 20 <= draw < 29 / 30:
            word = Settlement.RETRY if draw < 1 / 20 else Settlement.FAILED
        settled = Settled(lease.decision_id, lease.token, lease.attempt, word)
        assert await app.deliveries.settle([settled]) == [True]
        if word is not Settlement.SENT:
            return
        entry.sent = True
        if lease.channel != "outbound" and self.rng.random() < 0.9:
            receipt = Reported(lease.decision_id, OutcomeKind.DELIVERED, self.clock.now_us())
            assert await app.deliveries.report_receipts(lease.channel, [receipt]) == [True]
            entry.outcomes.add(OutcomeKind.DELIVERED)
        await self._answer(app, entry)

    async def _answer(self, app: Application, entry: Entry) -> None:
        """A message makes some order, and some speak."""
        product = entry.decision.product
        if product in ("data", "music") and self.rng.random() < LIFT:
            order = self._order(entry.who, product, self.rng.randrange(MINUTE_US, DAY_US))
            self.books.swayed[entry.who, order.occurred_at_us, product] = entry.decision.campaign
        draw = self.rng.random()
        if draw < 0.15:
            kind = OutcomeKind.ACCEPTED if draw < 0.10 else OutcomeKind.REFUSED
            if entry.decision.channel == "sms":
                await self._reply(app, entry, kind)
            else:
                await self._report(app, entry.decision.id, kind)
        elif draw < 0.20:
            await self._report(app, entry.decision.id, OutcomeKind.INQUIRED)
        elif draw < 0.22:
            await self._report(app, entry.decision.id, OutcomeKind.COMPLAINED)

    async def _reply(self, app: Application, entry: Entry, kind: OutcomeKind) -> None:
        """By message: the service has to find out what it answers."""
        self.clock.value_us += 1  # an answer comes after what it answers
        text = {"text": "1" if kind is OutcomeKind.ACCEPTED else "N"}
        event = self._event(entry.who, "reply", self.clock.now_us(), text)
        self.books.events.append(("reply", event.occurred_at_us))
        receipt = await app.ingest.publish("replies", [event])
        assert receipt.accepted == 1
        entry.outcomes.add(kind)

    async def _report(self, app: Application, decision_id: str, kind: OutcomeKind) -> None:
        assert await app.deliveries.report_outcome(decision_id, kind, self.clock.now_us())
        self.books.made[decision_id].outcomes.add(kind)

    def _order(self, who: str, product: str, after_us: int) -> Event:
        at_us = self.clock.now_us() + after_us
        minute = MONDAY_US + (at_us - MONDAY_US) // MINUTE_US * MINUTE_US
        event = self._event(who, "ordered", at_us, {"product": product})
        self._plans[minute].append(event)
        return event

    def _event(self, who: str, kind: str, at_us: int, attributes: Mapping[str, str]) -> Event:
        self._count += 1
        return Event(f"m{self._count}", who, kind, at_us, msgspec.json.encode(attributes))
