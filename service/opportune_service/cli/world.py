"""The world around the service in `opportune dev`: collectors, phones, a counter, and people who answer.

Everything goes over gRPC through the clients, as it does for a real operator.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import grpc
import msgspec
from opportune_client import (
    AsyncChannelClient,
    AsyncCrmClient,
    AsyncEventCollector,
    ImportMode,
    Message,
    OperatorClient,
    OutcomeKind,
    Rejected,
    Sent,
    SubscriberRecord,
    connect,
)
from opportune_client import OpportuneError as CallError
from opportune_rulebase.model import Rulebase
from opportune_rulebase.policies import Mode

from opportune_service.cli.board import Board
from opportune_service.cli.decisions import Told, tell
from opportune_service.cli.send import outgoing
from opportune_service.clocks import FastClock, ManualClock
from opportune_service.core.events import Event
from opportune_service.simulator import Answer, Province, answer

log = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK_SECONDS = 0.1
_PACE_SECONDS = 3.0
_READY_SECONDS = 10.0
_VISIT = "_visit"
_OUTCOMES = {
    Answer.ACCEPTED: OutcomeKind.ACCEPTED,
    Answer.REFUSED: OutcomeKind.REFUSED,
    Answer.COMPLAINED: OutcomeKind.COMPLAINED,
}


class DevClock:
    """Stands at an instant until it is started, then runs fast."""

    def __init__(self, now_us: int) -> None:
        self._clock: ManualClock | FastClock = ManualClock(now_us)

    def now_us(self) -> int:
        return self._clock.now_us()

    def stand(self, now_us: int) -> None:
        """Jump to `now_us` and stand there."""
        self._clock = ManualClock(now_us)

    def start(self, now_us: int, speed: float) -> None:
        """Jump to `now_us` and run `speed` times as fast as real time."""
        self._clock = FastClock(now_us, speed)


class World:
    """A province and its operator's systems, attached to a running service."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        rulebase: Rulebase,
        province: Province,
        seed: int,
        clock: DevClock,
        board: Board,
    ) -> None:
        self._channel = channel
        self._rulebase = rulebase
        self._province = province
        self._seed = seed
        self._clock = clock
        self._board = board
        self._crm = AsyncCrmClient(channel)
        self._advising: set[asyncio.Task[None]] = set()
        self._paces: list[tuple[float, int]] = []

    async def bring_context(self) -> str:
        """Import what the analysis system knows of everybody; how it went, in a sentence."""
        declared = self._rulebase.vocabulary.subscriber
        records = [
            SubscriberRecord(number, {name: value for name, value in known.items() if name in declared})
            for number, known in self._province.context()
        ]
        answered = await self._crm.import_subscribers(records, self._now(), ImportMode.PATCH, origin="dev")
        brought = f"brought the context of {answered.imported_count} subscribers"
        if answered.rejections:
            return f"{brought}; {answered.rejected_count} refused, first: {answered.rejections[0].message}"
        return brought

    async def live(self) -> None:
        """Let the province live through its day until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, channel in self._rulebase.vocabulary.channels.items():
                if channel.mode is Mode.AUTOMATIC:
                    group.create_task(self._deliver(name))
            group.create_task(self._collect())

    # -- collectors and the counter ---------------------------------------------------------------

    async def _collect(self) -> None:
        async with AsyncEventCollector(self._channel, "province", on_rejection=self._rejected) as collector:
            while True:
                for event in self.known_events(self._clock.now_us()):
                    touch_point = self._touch_point(event)
                    if touch_point:
                        self._advise(event, touch_point)
                    else:
                        await collector.send(outgoing(event))
                self._pace(collector.counters.acked)
                await asyncio.sleep(_TICK_SECONDS)

    def known_events(self, until_us: int) -> Iterator[Event]:
        """Events of the province up to then, those of the types that the rulebase declares."""
        declared = self._rulebase.vocabulary.events
        return (event for event in self._province.events(until_us) if event.type in declared)

    def _rejected(self, rejected: Rejected) -> None:
        self._board.rejected += 1

    def _touch_point(self, event: Event) -> str:
        """The manual channel at which the customer stands: `counter` for a `counter_visit`."""
        name = event.type.removesuffix(_VISIT)
        channel = self._rulebase.vocabulary.channels.get(name) if name != event.type else None
        return name if channel is not None and channel.mode is Mode.MANUAL else ""

    def _advise(self, event: Event, touch_point: str) -> None:
        task = asyncio.create_task(self._talk(event, touch_point))
        self._advising.add(task)
        task.add_done_callback(self._advising.discard)

    async def _talk(self, event: Event, touch_point: str) -> None:
        """A clerk asks what to offer, makes the first offer and notes what the customer said."""
        try:
            advised = await self._crm.advise(
                event.subscriber_id, touch_point, request_id=event.id[:64], event_type=event.type,
                attributes=msgspec.json.decode(event.attributes or b"{}"), cell_id=event.cell_id,
            )  # fmt: skip
            for place, advice in enumerate(advised.advices):
                self._board.advised += 1
                said = answer(self._seed, advice.decision_id, advice.campaign)
                kind = OutcomeKind.NOT_OFFERED if place else _OUTCOMES.get(said, OutcomeKind.LATER)
                await self._crm.report_outcome(advice.decision_id, kind, occurred_at=self._now())
                if not place:
                    self._board.outcomes[kind.name.lower()] += 1
        except CallError as error:
            log.warning("the counter was not answered: %s", error)

    def _pace(self, acked: int) -> None:
        """Events acknowledged, and how many a second over the last few seconds."""
        now = monotonic()
        self._board.events = acked
        self._paces = [pace for pace in self._paces if pace[0] > now - _PACE_SECONDS]
        self._paces.append((now, acked))
        since, before = self._paces[0]
        self._board.events_per_second = (acked - before) / (now - since) if now > since else 0.0

    # -- channels ---------------------------------------------------------------------------------

    async def _deliver(self, name: str) -> None:
        """A gateway: everything is sent and arrives; some customers answer at once."""

        phones: asyncio.Queue[Message] = asyncio.Queue()

        async def handle(message: Message) -> Sent:
            self._board.sent += 1
            phones.put_nowait(message)
            return Sent()

        async with AsyncChannelClient(
            self._channel, name, handle, client_name="dev", close_timeout=2
        ) as client:
            while True:
                message = await phones.get()
                client.receipt(message.decision_id, OutcomeKind.DELIVERED, occurred_at=self._now())
                said = _OUTCOMES.get(answer(self._seed, message.decision_id, message.campaign))
                if said is not None:
                    client.receipt(message.decision_id, said, occurred_at=self._now())
                    self._board.outcomes[said.name.lower()] += 1

    def _now(self) -> datetime:
        return _EPOCH + timedelta(microseconds=self._clock.now_us())


class Follower:
    """Reads decisions as they are recorded, in a thread of its own, as `opportune tail` does.

    `take` is called in the event loop. Use it in an `async with` statement; inside, nothing is missed.
    """

    def __init__(self, target: str, rulebase: Rulebase, take: Callable[[Told, Any], None]) -> None:
        self._target = target
        self._zone = rulebase.time_zone
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dev-follower", daemon=True)

    async def __aenter__(self) -> None:
        self._thread.start()
        await asyncio.to_thread(self._ready.wait, _READY_SECONDS)

    async def __aexit__(self, *_: object) -> None:
        self._stopped.set()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        with suppress(_StoppedError, CallError), connect(self._target) as channel:
            client = OperatorClient(channel)
            for decision in client.follow_decisions(
                include_trace=True, every_seconds=0.2, pause=self._pause
            ):
                told = tell(decision, self._zone)
                self._loop.call_soon_threadsafe(self._take, told, decision)
                if self._stopped.is_set():
                    return

    def _pause(self, seconds: float) -> None:
        """Nothing is new: from now on nothing is missed."""
        self._ready.set()
        if self._stopped.wait(seconds):
            raise _StoppedError


class _StoppedError(Exception):
    """The follower is to end."""
