"""A channel client that sends whatever it is handed, and keeps books of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from queue import SimpleQueue

from opportune.v1 import delivery_service_pb2 as pb
from opportune.v1 import types_pb2
from opportune.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from opportune_client import (
    CrmClient,
    Event,
    EventCollector,
    ImportMode,
    OperatorClient,
    SubscriberRecord,
    connect,
)
from support.processes import Served

CREDIT = 10
PATIENCE_SECONDS = 60
SENT = types_pb2.DELIVERY_STATE_SENT


class Gateway:
    """What it was handed and what the service acknowledged, over all its streams."""

    def __init__(self) -> None:
        self.handed: list[str] = []
        self.acked: list[str] = []
        self.handed_again: list[str] = []
        """After its ack was answered."""

    def work(self, service: Served, people: int, kill_after: int | None = None) -> None:
        """Send and ack until the messages to so many people are sent, or until so many acks were answered:
        then kill the service, with acks and leases under way."""
        said: SimpleQueue[pb.AttachRequest | None] = SimpleQueue()
        hello = pb.AttachHello(channel="sms", client_name="gateway", credit=CREDIT)
        said.put(pb.AttachRequest(hello=hello))
        before = len(self.acked)
        with connect(service.target) as channel:
            stream = DeliveryServiceStub(channel).Attach(iter(said.get, None), timeout=PATIENCE_SECONDS)
            try:
                for answer in stream:
                    if answer.WhichOneof("message") == "lease":
                        self._send(answer.lease, said)
                    elif answer.WhichOneof("message") == "ack_result":
                        if answer.ack_result.status == pb.ACK_STATUS_STALE:
                            continue  # too slow: it was handed out again, and that one will be acked
                        assert answer.ack_result.status == pb.ACK_STATUS_ACCEPTED
                        self.acked.append(answer.ack_result.delivery_id)
                        if kill_after is None and self._all_sent(service, people):
                            break
                    if len(self.acked) - before == kill_after:
                        service.kill()
                        break
            finally:
                said.put(None)

    def _all_sent(self, service: Served, people: int) -> bool:
        """It is asked only when it may be: an answer names everybody."""
        return len(set(self.handed)) == people and set(states(service.target).values()) == {SENT}

    def _send(self, lease: pb.Lease, said: SimpleQueue[pb.AttachRequest | None]) -> None:
        if lease.delivery_id in self.acked:
            self.handed_again.append(lease.delivery_id)
        self.handed.append(lease.delivery_id)
        ack = pb.Ack(
            delivery_id=lease.delivery_id,
            lease_token=lease.lease_token,
            result=pb.DELIVERY_RESULT_SENT,
        )
        said.put(pb.AttachRequest(ack=ack))


def offer(target: str, people: Sequence[str]) -> None:
    """Have each of them decided an SMS, by the small rulebase with threshold 1."""
    now = datetime.now(UTC)
    with connect(target) as channel:
        records = [SubscriberRecord(who) for who in people]
        done = CrmClient(channel).import_subscribers(records, now, ImportMode.PATCH)
        assert done.imported_count == len(people)
        with EventCollector(channel, "mmsc") as collector:
            for who in people:
                collector.send(Event(f"m-{who}", who, "mms_sent", now, {"size_kb": 80}))


def states(target: str) -> dict[str, int]:
    """Delivery id -> state of its delivery, of all that was decided."""
    with connect(target) as channel:
        listed = OperatorClient(channel).list_decisions(page_size=500)
        return {
            each.decision_id: each.delivery_state
            for each in listed
            if each.reason == types_pb2.REASON_DECIDED
        }
