"""Test sends: real messages to numbers that a caller lists, to be looked at. They count nowhere.

They are handed to channel clients like deliveries, marked as tests, and are kept in memory alone: no
decision, no contact, no report knows of them, and whoever has not taken one when its time is over does not
get it any more. Clients that are attached to another process of the service do not see them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, Sequence

import msgspec

from opportune_service.app.ports import Clock
from opportune_service.app.records import DeliveryState, Lease, Settlement

MARK = "[TEST] "
"""How the text of a test send begins."""

_PREFIX = "test-"
_UNDER_WAY = (DeliveryState.PENDING, DeliveryState.LEASED)


class TestSend(msgspec.Struct, frozen=True):
    """A message to be sent as a test. `content` is without the mark."""

    __test__ = False  # it is no test of ours

    subscriber_id: str
    campaign: str
    product: str
    channel: str
    content: str


class TestSends:
    """Those that wait for clients, and those that clients have. `wake`: tells clients of channels that
    there is something to take."""

    __test__ = False

    def __init__(self, clock: Clock, wake: Callable[[Collection[str]], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._waiting: dict[str, Lease] = {}
        self._states: dict[str, tuple[str, DeliveryState]] = {}
        self._news = asyncio.Event()

    async def send(self, sends: Sequence[TestSend], timeout_seconds: float) -> int:
        """Have these sent; how many a client has confirmed by then. The others are taken back."""
        until_us = self._clock.now_us() + int(timeout_seconds * 1_000_000)
        leases = [_lease(each, until_us) for each in sends]
        for lease in leases:
            self._waiting[lease.decision_id] = lease
            self._states[lease.decision_id] = (lease.channel, DeliveryState.PENDING)
        ids = [lease.decision_id for lease in leases]
        self._wake({lease.channel for lease in leases})
        try:
            async with asyncio.timeout(timeout_seconds):
                while any(self._states[id_][1] in _UNDER_WAY for id_ in ids):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        finally:
            ended = [self._states.pop(id_)[1] for id_ in ids]
            for id_ in ids:
                self._waiting.pop(id_, None)
        return ended.count(DeliveryState.SENT)

    def take(self, channel: str, limit: int) -> list[Lease]:
        """Up to so many for a client of the channel; nobody gets them again."""
        taken = [lease for lease in self._waiting.values() if lease.channel == channel][:limit]
        for lease in taken:
            del self._waiting[lease.decision_id]
            self._states[lease.decision_id] = (channel, DeliveryState.LEASED)
        return taken

    def settle(self, decision_id: str, settlement: Settlement) -> bool:
        """What a client says of one. It is not tried again: RETRY leaves it as unsent as FAILED."""
        channel, state = self._states.get(decision_id, ("", DeliveryState.WITHDRAWN))
        if state is not DeliveryState.LEASED:
            return False
        sent = settlement is Settlement.SENT
        self._states[decision_id] = (channel, DeliveryState.SENT if sent else DeliveryState.FAILED)
        self._news.set()
        return True

    def standing(self, decision_id: str) -> tuple[str, DeliveryState] | None:
        """The channel of one and where it stands; None if it is none, or is over."""
        return self._states.get(decision_id)


def is_test(decision_id: str) -> bool:
    """Whether this names a test send."""
    return decision_id.startswith(_PREFIX)


def _lease(send: TestSend, until_us: int) -> Lease:
    return Lease(
        decision_id=_PREFIX + secrets.token_hex(12),
        token=1,
        attempt=1,
        subscriber_id=send.subscriber_id,
        channel=send.channel,
        campaign=send.campaign,
        product=send.product,
        content=MARK + send.content,
        lease_until_us=until_us,
        expires_at_us=until_us,
        test=True,
    )
