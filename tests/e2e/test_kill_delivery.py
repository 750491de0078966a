"""An ack that was answered is for good: kill -9 in mid-delivery, restart, go on. No message is lost, and
none that was acknowledged is handed out again."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue

import pytest
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
from support.processes import Served, serving, write_rulebase
from support.small_rulebase import small_rulebase, subscribers

PEOPLE = subscribers(120)
ACKS_BEFORE_EACH_KILL = (15, 40, 7)
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

    def work(self, service: Served, kill_after: int | None) -> None:
        """Send and ack until all is sent, or until so many acks were answered: then kill the service, with
        acks and leases under way."""
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
                        assert answer.ack_result.status == pb.ACK_STATUS_ACCEPTED
                        self.acked.append(answer.ack_result.delivery_id)
                        if kill_after is None and set(states(service.target).values()) == {SENT}:
                            break
                    if len(self.acked) - before == kill_after:
                        service.kill()
                        break
            finally:
                said.put(None)

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


def offer(target: str) -> None:
    now = datetime.now(UTC)
    with connect(target) as channel:
        records = [SubscriberRecord(who) for who in PEOPLE]
        done = CrmClient(channel).import_subscribers(records, now, ImportMode.PATCH)
        assert done.imported_count == len(PEOPLE)
        with EventCollector(channel, "mmsc") as collector:
            for who in PEOPLE:
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


def test_kill_9_loses_no_message_and_forgets_no_ack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What was leased when it crashed is handed out again after this long.
    monkeypatch.setenv("OPPORTUNE_LEASE_SECONDS", "1")
    rulebase = write_rulebase(tmp_path / "rulebase", small_rulebase(threshold=1))
    gateway = Gateway()
    for number, kill_after in enumerate((*ACKS_BEFORE_EACH_KILL, None)):
        with serving(tmp_path / "o.db", rulebase) as service:
            if number == 0:
                offer(service.target)
            gateway.work(service, kill_after)
            if kill_after is None:
                ended = states(service.target)
                assert service.stop() == 0
    assert len(gateway.handed) > len(PEOPLE), "nothing was under way at a crash: the test shows nothing"
    assert gateway.handed_again == []
    # An ack may have been recorded and its answer lost: then the message is not handed out again.
    assert set(gateway.handed) == set(ended)
    assert len(ended) == len(PEOPLE)
    assert set(ended.values()) == {SENT}
