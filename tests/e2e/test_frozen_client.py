"""A channel client that freezes with messages in hand: others go on, and its messages come back to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import urlsplit

from opportune.v1 import delivery_service_pb2 as pb
from opportune.v1.delivery_service_pb2_grpc import DeliveryServiceStub
from support.collecting import channel_to
from support.gateways import CREDIT, SENT, Gateway, offer, states
from support.installations import installation
from support.processes import Served, serving_with, write_rulebase
from support.proxy import proxy
from support.small_rulebase import small_rulebase, subscribers

PEOPLE = subscribers(60)


@contextmanager
def frozen_client(service: Served) -> Iterator[list[str]]:
    """Attached, with messages in hand and more on the way, and silent from now on; what it has in hand."""
    port = urlsplit(f"//{service.target}").port
    assert port is not None
    said: SimpleQueue[pb.AttachRequest | None] = SimpleQueue()
    said.put(pb.AttachRequest(hello=pb.AttachHello(channel="sms", client_name="frozen", credit=2 * CREDIT)))
    with proxy(port) as wire, channel_to(f"127.0.0.1:{wire.port}") as channel:
        stream = DeliveryServiceStub(channel).Attach(iter(said.get, None))
        assert next(stream).WhichOneof("message") == "welcome"
        offer(service.target, PEOPLE[: len(PEOPLE) // 2])
        held = [next(stream).lease.delivery_id for _ in range(CREDIT)]
        wire.freeze()
        offer(service.target, PEOPLE[len(PEOPLE) // 2 :])
        yield held
        said.put(None)
        stream.cancel()


def test_others_go_on_and_its_messages_come_back(tmp_path: Path) -> None:
    rulebase = write_rulebase(tmp_path / "rulebase", small_rulebase(threshold=1))
    gateway = Gateway()
    with installation("embedded", tmp_path) as place:
        environment = place.environment | {"OPPORTUNE_LEASE_SECONDS": "5"}
        with (
            serving_with(environment, "--rulebase", str(rulebase)) as service,
            frozen_client(service) as held,
        ):
            gateway.work(service, len(PEOPLE))
            ended = states(service.target)
    assert set(ended.values()) == {SENT}
    assert len(ended) == len(PEOPLE)
    assert set(held) <= set(gateway.handed), "what it had in hand came to the other"
    others = [each for each in gateway.handed if each not in held]
    first_back = min(gateway.handed.index(each) for each in held)
    assert gateway.handed.index(others[len(PEOPLE) // 3]) < first_back, "others waited for it"


def test_control_leases_that_do_not_run_out_come_back_to_nobody(tmp_path: Path) -> None:
    rulebase = write_rulebase(tmp_path / "rulebase", small_rulebase(threshold=1))
    gateway = Gateway()
    with installation("embedded", tmp_path) as place:
        environment = place.environment | {"OPPORTUNE_LEASE_SECONDS": "3600"}
        with (
            serving_with(environment, "--rulebase", str(rulebase)) as service,
            frozen_client(service) as held,
        ):
            gateway.work(service, len(PEOPLE), kill_after=len(PEOPLE) - 2 * CREDIT)
    assert not set(held) & set(gateway.handed)
