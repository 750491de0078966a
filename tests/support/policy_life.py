"""Random lives of a whole service: traffic from many callers, channel workers of every kind, touch points,
other systems, operators, failing commits and crashes. Time is a clock that only this moves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from opportune_rulebase.policies import Mode, OutcomeKind
from opportune_service.app.advise import Visit, advise
from opportune_service.app.callers import Caller
from opportune_service.app.consent import ALL, Consent, set_consent
from opportune_service.app.contacts import RecordedContact, record_contacts
from opportune_service.app.context import ImportItem, import_context
from opportune_service.app.dead_letters import Redrive
from opportune_service.app.defer import decide_due
from opportune_service.app.deliver import Reported, Settled
from opportune_service.app.errors import StoreUnavailableError, UnknownDecisionError
from opportune_service.app.records import Lease, Settlement
from opportune_service.app.works import Receipt
from opportune_service.bootstrap import Application, application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Encoding, Event, ImportMode
from opportune_service.core.verdict import EventKey, Reason, Verdict
from opportune_service.settings import Settings
from support.applications import activate
from support.flaky import Flaky
from support.ledger_journal import Database, copy_of, keep_journal, note
from support.policy_spec import (
    AUTOMATIC,
    BULK,
    CATEGORY,
    DAY_US,
    HOUR_US,
    MINUTE_US,
    STARTS,
    ZONES,
    Spec,
    files_of,
    random_spec,
)
from support.small_rulebase import subscribers

PEOPLE = subscribers(5)
LEASE_SECONDS = 30.0
_STEPS_US = [1, 10 * 1_000_000, MINUTE_US, 31 * MINUTE_US, HOUR_US, 5 * HOUR_US, 9 * HOUR_US, 26 * HOUR_US]
_ANSWERS = [
    *(OutcomeKind.DELIVERED, OutcomeKind.INQUIRED, OutcomeKind.ACCEPTED, OutcomeKind.REFUSED),
    *(OutcomeKind.COMPLAINED, OutcomeKind.LATER, OutcomeKind.NOT_OFFERED),
]


class Life:
    """One life. `place`: where its first database is, and the one after each crash. `database`: the last of
    them. `specs`: what each revision says. `zones`: of each subscriber, "" for not known. `faults`: what
    callers saw that must not be."""

    def __init__(self, seed: int, place: Callable[[int], Database]) -> None:
        self.rng = random.Random(seed)
        self.clock = ManualClock(self.rng.choice(STARTS))
        self.specs: dict[str, Spec] = {}
        self.zones = {who: self.rng.choice(ZONES) for who in PEOPLE}
        self.faults: list[str] = []
        self._place = place
        self.database = place(0)
        self._crashes = 0
        self._count = 0
        self._sent: list[tuple[str, Event]] = []
        self._unanswered: list[tuple[str, list[Event]]] = []
        self._made: list[str] = []
        self._kept: list[Lease] = []
        self._verdicts: dict[EventKey, list[tuple[str, Reason, str]]] = {}
        self._acts: list[Callable[[Application, random.Random], Awaitable[None]]] = [
            *[self._burst] * 7,
            *[self._work] * 7,
            *[self._decide_due] * 4,
            *[self._visit] * 3,
            *[self._answer] * 3,
            *[self._reply, self._order, self._settle_late] * 2,
            *[self._say_consent] * 3,
            *[self._hear_of_others, self._pause, self._redrive, self._expire],
        ]

    async def live(self, steps: int) -> None:
        """Live on for so many steps, reloads, failed commits and crashes among them; then wait until
        nothing is under way any more, and close."""
        rare = self.rng.sample(range(5, steps), 5)
        reloads, failures, crashes = rare[:2], rare[2:3], sorted(rare[3:])
        begin = 0
        for end in (*crashes, steps):
            settings = Settings(
                database="sqlite://" if isinstance(self.database, str) else f"sqlite:///{self.database}",
                checkpoint_seconds=600,
                timer_seconds=3600,
                lease_seconds=LEASE_SECONDS,
            )
            async with application(settings, self.clock) as app:
                await keep_journal(app)
                if begin == 0:
                    await self._reload(app)
                    await self._introduce(app)
                for events in self._take_unanswered():  # the collectors send it again
                    self._unanswered += await self._publish(app, [events])
                for step in range(begin, end):
                    if step in reloads:
                        await asyncio.gather(self._reload(app), self._burst(app, self._draws()))
                    elif step in failures:
                        await self._fail_commits(app, self._draws())
                    if self.rng.random() < 0.3:
                        self.clock.value_us += self.rng.choice(_STEPS_US)
                    acts = self.rng.choices(self._acts, k=self.rng.choice([1, 1, 2, 3]))
                    await asyncio.gather(*(act(app, self._draws()) for act in acts))
                if end == steps:
                    await self._come_to_rest(app, self._draws())
                else:
                    await self._crash(app, self._draws())
            begin = end

    def _draws(self) -> random.Random:
        """For one act: those under way at once must not draw from each other's."""
        return random.Random(self.rng.random())

    # -- rulebase and context ---------------------------------------------------------------------

    async def _reload(self, app: Application) -> None:
        spec = random_spec(self.rng)
        revision = await activate(app, files_of(spec))
        self.specs[revision] = spec
        await note(app, "revision", revision=revision)

    async def _introduce(self, app: Application) -> None:
        """Of the last subscriber nothing is known."""
        items = [
            ImportItem(who, msgspec.json.encode({"time_zone": self.zones[who]} if self.zones[who] else {}))
            for who in PEOPLE[:-1]
        ]
        self.zones[PEOPLE[-1]] = ""
        receipt = await import_context(app.live, app.ingest, items, 1, ImportMode.PATCH, Encoding.JSON)
        assert not receipt.rejections

    # -- traffic ----------------------------------------------------------------------------------

    async def _burst(self, app: Application, rng: random.Random) -> None:
        self._unanswered += await self._publish(app, self._batches(rng))

    def _batches(self, rng: random.Random) -> list[tuple[str, list[Event]]]:
        """From three callers at once; now and then something again."""
        batches = []
        for caller in range(3):
            events = [self._event(rng, "ping") for _ in range(rng.randrange(1, 4))]
            again = [event for source, event in self._sent[-30:] if source == f"caller-{caller}"]
            events += rng.sample(again, min(len(again), rng.choice([0, 0, 1])))
            self._sent += [(f"caller-{caller}", event) for event in events]
            batches.append((f"caller-{caller}", events))
        return batches

    def _event(self, rng: random.Random, kind: str, **attributes: str) -> Event:
        self._count += 1
        at_us = self.clock.now_us() - rng.choice([0, 0, 1, 2 * MINUTE_US])
        who = rng.choice(PEOPLE)
        return Event(f"e{self._count}", who, kind, at_us, msgspec.json.encode(attributes))

    async def _publish(
        self, app: Application, batches: Sequence[tuple[str, list[Event]]]
    ) -> list[tuple[str, list[Event]]]:
        """Those that the service did not take in."""
        receipts = await asyncio.gather(
            *(app.ingest.publish(*batch) for batch in batches), return_exceptions=True
        )
        failed = []
        for batch, receipt in zip(batches, receipts, strict=True):
            if isinstance(receipt, Receipt):
                self._take_in(receipt.verdicts)
            elif isinstance(receipt, StoreUnavailableError):
                failed.append(batch)
            else:
                raise receipt
        return failed

    def _take_in(self, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            said = [(each.id, each.reason, each.channel) for each in verdict.decisions]
            if self._verdicts.setdefault(verdict.key, said) != said:
                self.faults.append(f"two verdicts of {verdict.key.source}/{verdict.key.event_id}")
            self._made += [each.id for each in verdict.decisions if each.reason is Reason.DECIDED]

    def _take_unanswered(self) -> list[tuple[str, list[Event]]]:
        found, self._unanswered = self._unanswered, []
        return found

    async def _decide_due(self, app: Application, rng: random.Random) -> None:
        await decide_due(app.ingest, self.clock.now_us())

    # -- what goes wrong --------------------------------------------------------------------------

    async def _fail_commits(self, app: Application, rng: random.Random) -> None:
        """Some commits fail, at their beginning or at their very end; then all is sent again."""
        flaky = Flaky(app.ledger, after=rng.random() < 0.5)
        app.ingest._ledger = flaky  # type: ignore[assignment]
        flaky.failing = True
        failed = await self._publish(app, self._batches(rng))
        flaky.failing = False
        await app.ingest.healthy.wait()
        self._unanswered += await self._publish(app, failed)

    async def _crash(self, app: Application, rng: random.Random) -> None:
        """Of what is under way, some is on the disk and nothing is answered."""
        batches = self._batches(rng)
        under_way = [
            *(asyncio.ensure_future(app.ingest.publish(*batch)) for batch in batches),
            asyncio.ensure_future(app.deliveries.lease(rng.choice(AUTOMATIC), 3)),
            asyncio.ensure_future(app.deliveries.settle([_settled(lease) for lease in self._kept])),
        ]
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(0)
        self._crashes += 1
        source, self.database = self.database, self._place(self._crashes)
        await copy_of(app, source, self.database)
        self._unanswered += batches
        await asyncio.gather(*under_way, return_exceptions=True)

    # -- channels ---------------------------------------------------------------------------------

    async def _work(self, app: Application, rng: random.Random) -> None:
        """Several clients of each channel; some send, some fail, some freeze, some never say a word."""
        clients = [channel for channel in (*AUTOMATIC, BULK) for _ in range(2)]
        given = await asyncio.gather(
            *(app.deliveries.lease(channel, rng.randrange(1, 4)) for channel in clients)
        )
        leases = [lease for each in given for lease in each]
        rng.shuffle(leases)
        await asyncio.gather(*(self._carry(app, each, random.Random(rng.random())) for each in leases))

    async def _carry(self, app: Application, lease: Lease, rng: random.Random) -> None:
        """Some cannot be sent at all, and of some no client ever says a word."""
        what = {0: "retry", 1: "say nothing"}.get(int(lease.decision_id, 16) % 8)
        what = what or rng.choice([*["send"] * 6, "retry", "fail", "freeze", "say nothing"])
        if what == "freeze":
            self._kept.append(lease)
        elif what != "say nothing":
            word = {"send": Settlement.SENT, "retry": Settlement.RETRY, "fail": Settlement.FAILED}[what]
            await app.deliveries.settle([_settled(lease, word)])
        if what == "send" and rng.random() < 0.5:
            receipt = Reported(lease.decision_id, OutcomeKind.DELIVERED, self.clock.now_us())
            await app.deliveries.report_receipts(lease.channel, [receipt])

    async def _settle_late(self, app: Application, rng: random.Random) -> None:
        """A frozen client wakes up, its lease most likely long over."""
        if self._kept:
            lease = self._kept.pop(rng.randrange(len(self._kept)))
            await app.deliveries.settle([_settled(lease, rng.choice(list(Settlement)))])

    async def _redrive(self, app: Application, rng: random.Random) -> None:
        lasting = rng.choice([None, 2 * HOUR_US, DAY_US])
        await app.dead_letters.redrive_all("", "", Redrive(Caller("test"), "try again", lasting))

    async def _expire(self, app: Application, rng: random.Random) -> None:
        await app.deliveries.expire()

    # -- people -----------------------------------------------------------------------------------

    async def _visit(self, app: Application, rng: random.Random) -> None:
        self._count += 1
        visit = Visit(rng.choice(PEOPLE), "counter", f"v{self._count}", "visit")
        asked = (app.live, app.ingest, app.ledger, app.thread, app.clock, visit)
        advised, again = await asyncio.gather(advise(*asked), advise(*asked))
        if [each.decision_id for each in advised.advices] != [each.decision_id for each in again.advices]:
            self.faults.append(f"visit {visit.request_id} was advised differently when asked again")
        self._made += [each.decision_id for each in advised.advices]

    async def _answer(self, app: Application, rng: random.Random) -> None:
        for decision_id in rng.sample(self._made, min(len(self._made), 2)):
            try:
                kind = rng.choice(_ANSWERS)
                await app.deliveries.report_outcome(decision_id, kind, self.clock.now_us())
            except UnknownDecisionError:
                self.faults.append(f"{decision_id} is said to be unknown")

    async def _reply(self, app: Application, rng: random.Random) -> None:
        channel, text = rng.choice(AUTOMATIC), rng.choice(["1", "N", "what?", "Stop!"])
        event = self._event(rng, "reply", text=text, channel=channel)
        # Of now: an opt-in that was said after an old reply would be the customer's last word.
        event = msgspec.structs.replace(event, occurred_at_us=self.clock.now_us())
        receipt = await app.ingest.publish("replies", [event])
        if text == "Stop!" and receipt.accepted:
            await note(app, "opt_out", subscriber=event.subscriber_id, scope=f"channel/{channel}")

    async def _order(self, app: Application, rng: random.Random) -> None:
        await app.ingest.publish("orders", [self._event(rng, "ordered")])

    async def _say_consent(self, app: Application, rng: random.Random) -> None:
        who = rng.choice(PEOPLE)
        scope = rng.choice(
            [ALL, *(f"channel/{name}" for name in (*AUTOMATIC, BULK, "counter")), "category/fun"]
        )
        allowed = rng.random() < 0.6
        if allowed:
            await note(app, "opt_in", subscriber=who, scope=scope)
        said = Consent(scope, allowed, self.clock.now_us())
        work = self._work(app, rng)  # with leases under way
        (_, in_force), _ = await asyncio.gather(
            set_consent(app.live, app.states, app.ingest, who, said, "crm"), work
        )
        if not allowed and in_force:
            await note(app, "opt_out", subscriber=who, scope=scope)

    async def _hear_of_others(self, app: Application, rng: random.Random) -> None:
        """Another system contacted somebody, some time ago."""
        self._count += 1
        report = RecordedContact(
            id=f"f{self._count}",
            subscriber_id=rng.choice(PEOPLE),
            channel=rng.choice(AUTOMATIC),
            mode=rng.choice(list(Mode)),
            at_us=self.clock.now_us() - rng.choice([0, HOUR_US, DAY_US]),
            product=rng.choice(list(CATEGORY)),
        )
        await record_contacts(app.live, app.ledger, app.thread, "crm", [report], self.clock.now_us())

    async def _pause(self, app: Application, rng: random.Random) -> None:
        name = rng.choice(sorted(app.live.current.rulebase.campaigns))
        if await app.pauses.paused() and rng.random() < 0.7:
            for paused in await app.pauses.paused():
                await app.pauses.resume(paused, Caller("test"), "")
        else:
            await app.pauses.pause(name, Caller("test"), "")

    # -- the end ----------------------------------------------------------------------------------

    async def _come_to_rest(self, app: Application, rng: random.Random) -> None:
        """Until all that was decided has ended."""
        for _ in range(20):
            self.clock.value_us += 5 * HOUR_US
            await decide_due(app.ingest, self.clock.now_us())
            await self._work(app, rng)
        self.clock.value_us += DAY_US
        await app.deliveries.expire()


def _settled(lease: Lease, word: Settlement = Settlement.SENT) -> Settled:
    return Settled(lease.decision_id, lease.token, lease.attempt, word)
