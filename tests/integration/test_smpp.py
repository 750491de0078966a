"""The short message channel against a simulated SMS centre."""

from __future__ import annotations

import dataclasses
import queue
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from opportune_client.errors import BufferFullError
from opportune_client.leases import Failed, Message, Sent
from opportune_client.smpp import SmppGateway
from opportune_client.sms_text import text_of
from smpplib import consts
from support.smsc import Smsc, running_smsc

PATIENCE = 20


@pytest.fixture
def centre() -> Iterator[Smsc]:
    with running_smsc() as running:
        yield running


@pytest.fixture
def gateway(centre: Smsc) -> Iterator[SmppGateway]:
    with SmppGateway("127.0.0.1", centre.port, "opp", "secret", source="10086") as bound:
        assert bound.wait_bound(PATIENCE)
        yield bound


def message(content: str, number: int = 1) -> Message:
    return Message(
        decision_id=f"d{number}",
        idempotency_key=f"k{number}",
        subscriber_id=f"86138{number:08}",
        content=content,
        channel="sms",
        campaign="mms-bundle",
        campaign_label="",
        product="mms-bundle",
        attempt=1,
        expires_at=None,
        test=False,
    )


def test_a_message_goes_out(gateway: SmppGateway, centre: Smsc) -> None:
    handled = gateway(message("尊敬的客户,回复 YES 办理"))
    taken = centre.taken.get(timeout=PATIENCE)
    assert handled == Sent(channel_message_id=taken.id)
    assert taken.to == "8613800000001"
    assert text_of(taken.data, taken.data_coding) == "尊敬的客户,回复 YES 办理"


def test_a_long_message_goes_out_in_parts_and_arrives_with_the_last(
    gateway: SmppGateway, centre: Smsc
) -> None:
    delivered: queue.Queue[str] = queue.Queue()
    gateway.on_delivered = delivered.put
    text = "优惠" * 60
    assert isinstance(gateway(message(text)), Sent)
    parts = [centre.taken.get(timeout=PATIENCE) for _ in range(2)]
    assert all(part.esm_class & consts.SMPP_GSMFEAT_UDHI for part in parts)
    assert "".join(text_of(part.data[6:], part.data_coding) for part in parts) == text
    centre.report(parts[1].id)
    centre.report("unknown")
    centre.report(parts[0].id)
    assert delivered.get(timeout=PATIENCE) == "d1"
    assert delivered.empty()


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (consts.SMPP_ESME_RTHROTTLED, True),
        (consts.SMPP_ESME_RMSGQFUL, True),
        (consts.SMPP_ESME_RINVDSTADR, False),
    ],
)
def test_a_refusal_says_whether_to_try_again(
    gateway: SmppGateway, centre: Smsc, status: int, retryable: bool
) -> None:
    centre.statuses = [status]
    handled = gateway(message("hello"))
    assert isinstance(handled, Failed)
    assert handled.retryable is retryable
    assert isinstance(gateway(message("hello")), Sent)  # the connection lives on


def test_parts_that_went_out_alone_are_not_called_failed(gateway: SmppGateway, centre: Smsc) -> None:
    centre.statuses = [consts.SMPP_ESME_ROK, consts.SMPP_ESME_RTHROTTLED]
    with pytest.raises(ConnectionError, match="some parts only"):
        gateway(message("x" * 200))


def test_nobody_knows_what_became_of_an_unanswered_message(gateway: SmppGateway, centre: Smsc) -> None:
    centre.statuses = [None]
    with pytest.raises(ConnectionError, match="broke before"):
        gateway(message("hello"))
    assert gateway.wait_bound(PATIENCE)
    assert isinstance(gateway(message("hello")), Sent)
    assert centre.binds == 2


def test_what_waited_for_the_window_until_its_time_was_over_does_not_go_out(
    gateway: SmppGateway, centre: Smsc
) -> None:
    late = dataclasses.replace(message("too late"), expires_at=datetime.now(UTC))
    assert isinstance(gateway(late), Failed)
    assert isinstance(gateway(message("in time")), Sent)
    assert centre.taken.get(timeout=PATIENCE).data == b"in time"


def test_without_a_centre_it_certainly_did_not_go_out() -> None:
    with running_smsc() as gone:
        port = gone.port
    with SmppGateway("127.0.0.1", port, "opp", "secret") as gateway:
        assert gateway(message("hello")) == Failed("there is no connection to the SMS centre")


def test_a_wrong_password_does_not_bind(centre: Smsc) -> None:
    with SmppGateway("127.0.0.1", centre.port, "opp", "wrong") as gateway:
        assert not gateway.wait_bound(0.5)
        assert isinstance(gateway(message("hello")), Failed)


def test_what_customers_write_back_comes_in(gateway: SmppGateway, centre: Smsc) -> None:
    replies: queue.Queue[tuple[str, str]] = queue.Queue()
    gateway.on_reply = lambda subscriber_id, text: replies.put((subscriber_id, text))
    centre.deliver(
        source_addr="8613800000001",
        destination_addr="10086",
        esm_class=0,
        data_coding=8,
        short_message="退订".encode("utf-16-be"),
    )
    assert replies.get(timeout=PATIENCE) == ("8613800000001", "退订")


def test_what_nobody_can_take_now_the_centre_is_to_send_again(gateway: SmppGateway, centre: Smsc) -> None:
    heard: queue.Queue[str] = queue.Queue()

    def full(*_: str) -> None:
        raise BufferFullError("no room")

    def send(text: str) -> int:
        fields = {"source_addr": "8613800000001", "destination_addr": "10086", "esm_class": 0}
        centre.deliver(**fields, short_message=text.encode())
        return centre.answers.get(timeout=PATIENCE)

    gateway.on_reply = full
    assert send("STOP") == consts.SMPP_ESME_RX_T_APPN
    gateway.on_reply = lambda _, text: heard.put(text)
    assert send("STOP") == consts.SMPP_ESME_ROK
    assert heard.get(timeout=PATIENCE) == "STOP"

    gateway(message("hello"))
    taken = centre.taken.get(timeout=PATIENCE)
    gateway.on_delivered = full
    centre.report(taken.id)
    assert centre.answers.get(timeout=PATIENCE) == consts.SMPP_ESME_RX_T_APPN
    gateway.on_delivered = heard.put
    centre.report(taken.id)
    assert centre.answers.get(timeout=PATIENCE) == consts.SMPP_ESME_ROK
    assert heard.get(timeout=PATIENCE) == "d1"
    assert centre.binds == 1, "the connection outlived it"


RECEIPT = {"source_addr": "8613800000001", "destination_addr": "10086", "esm_class": 4}


@pytest.mark.parametrize(
    "fields",
    [
        {"short_message": b"ID: {id} SUB:001 DLVRD:001 STAT: DELIVRD ERR:000"},
        {"short_message": b"", "receipted_message_id": "{id}", "message_state": 2},
        {"message_payload": b"id:{id} sub:001 dlvrd:001 stat:DELIVRD err:000"},
    ],
)
def test_receipts_are_understood_as_centres_write_them(
    gateway: SmppGateway, centre: Smsc, fields: dict[str, Any]
) -> None:
    delivered: queue.Queue[str] = queue.Queue()
    gateway.on_delivered = delivered.put
    gateway(message("hello"))
    id_ = centre.taken.get(timeout=PATIENCE).id
    filled = {
        name: value.replace(b"{id}", id_.encode())
        if isinstance(value, bytes)
        else id_
        if value == "{id}"
        else value
        for name, value in fields.items()
    }
    centre.deliver(**RECEIPT, **filled)
    assert delivered.get(timeout=PATIENCE) == "d1"


def test_an_opt_out_is_heard_in_every_wrapping_and_progress_is_no_reply(
    gateway: SmppGateway, centre: Smsc
) -> None:
    heard: queue.Queue[str] = queue.Queue()
    gateway.on_reply = lambda _, text: heard.put(text)
    fields = {"source_addr": "8613800000001", "destination_addr": "10086"}
    centre.deliver(**fields, esm_class=0x20, short_message=b"id:m1 stat:ENROUTE")
    centre.deliver(**fields, esm_class=0x40, short_message=b"\x05\x00\x03\x07\x02\x01STOP")
    centre.deliver(**fields, esm_class=0, message_payload=b"STOP ALL")
    assert [heard.get(timeout=PATIENCE) for _ in range(2)] == ["STOP", "STOP ALL"]


@pytest.mark.parametrize("command", [0x00010203, 0x06])  # one that nobody knows; unbind
def test_whatever_the_centre_says_the_gateway_binds_again(
    gateway: SmppGateway, centre: Smsc, command: int
) -> None:
    centre.say(struct.pack(">LLLL", 16, command, 0, 7))
    assert centre.bound.get(timeout=PATIENCE) == 1
    assert centre.bound.get(timeout=PATIENCE) == 2
    assert gateway.wait_bound(PATIENCE)
    assert isinstance(gateway(message("hello")), Sent)


def test_a_message_that_lost_its_connection_does_not_shorten_the_pauses(centre: Smsc) -> None:
    waited: list[float] = []

    class Impatient(SmppGateway):
        def _bind(self) -> Any:
            waited.append(time.monotonic())
            self._closing = len(waited) == 3
            raise ConnectionRefusedError

    with Impatient("127.0.0.1", centre.port, "opp", "secret") as gateway:
        gateway._wake()  # what a caller does who is just too late
        gateway._thread.join()
    assert waited[2] - waited[1] > 0.5, "the second pause is a whole one"


@pytest.mark.parametrize(
    ("source", "named"), [("", False), ("10086", False), ("+4912345", False), ("Bank24", True)]
)
def test_a_sender_that_is_a_name_is_called_one(centre: Smsc, source: str, named: bool) -> None:
    with SmppGateway("127.0.0.1", centre.port, "opp", "secret", source=source) as gateway:
        assert gateway.wait_bound(PATIENCE)
        gateway(message("hello"))
    assert (centre.taken.get(timeout=PATIENCE).source_ton == consts.SMPP_TON_ALNUM) is named


def test_many_at_once_each_get_their_own_answer(gateway: SmppGateway, centre: Smsc) -> None:
    with ThreadPoolExecutor(16) as pool:
        handled = list(pool.map(gateway, [message(f"number {n}", n) for n in range(300)]))
    taken = {}
    for _ in range(300):
        each = centre.taken.get(timeout=PATIENCE)
        taken[each.id] = each
    assert len(taken) == 300
    for number, answer in enumerate(handled):
        assert isinstance(answer, Sent)
        found = taken[answer.channel_message_id]
        assert (found.to, text_of(found.data, found.data_coding)) == (
            f"86138{number:08}",
            f"number {number}",
        )
