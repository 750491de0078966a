"""A short message channel: speaks SMPP 3.4 to an SMS centre. Needs the extra `opportune[smpp]`.

with connect("127.0.0.1:50051") as service, SmppGateway("smsc.example", 2775, "opp", "secret") as gateway:
    with ChannelClient(service, "sms", gateway, credit=64) as client:
        gateway.on_delivered = lambda decision_id: client.receipt(decision_id, OutcomeKind.DELIVERED)
        client.wait()
"""

from __future__ import annotations

import logging
import re
import select
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from smpplib import client as smpp_client
from smpplib import consts, exceptions, smpp

from opportune_client.channel import expired
from opportune_client.leases import Failed, Handled, Message, Sent
from opportune_client.sms_text import parts_of, text_of

logger = logging.getLogger(__name__)

WINDOW: Final = 32
"""Submissions that may wait for the centre's answer at once."""

REMEMBERED: Final = 200_000
"""Parts sent whose delivery receipt is still expected."""

_NOT_THERE: Final = "there is no connection to the SMS centre"
_IDLE_SECONDS: Final = 15.0
_LONGEST_PAUSE_SECONDS: Final = 30.0
_TRY_LATER: Final = frozenset(
    {consts.SMPP_ESME_RTHROTTLED, consts.SMPP_ESME_RMSGQFUL, consts.SMPP_ESME_RSYSERR}
)
_RECEIPT: Final = re.compile(rb"id:\s*(?P<id>\S+).*?stat:\s*(?P<state>[A-Z]+)", re.DOTALL | re.IGNORECASE)
# In esm_class.
_IS_RECEIPT: Final = 0x04
_IS_PROGRESS: Final = 0x20
_HAS_HEADER: Final = 0x40
_DELIVERED: Final = 2  # as message_state


@dataclass(slots=True)
class _Sending:
    """A message on its way. `refused`: status of each part that the centre did not take."""

    message: Message
    answer: Future[Handled]
    unanswered: int
    ids: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)


class SmppGateway:
    """A handler for `ChannelClient` that submits messages to an SMS centre, over one bound connection.

    A message is `Sent` when the centre has taken all its parts, with the id of the first. It is `Failed` if
    the centre took none: to be tried again when the centre is busy or not there, for good otherwise. If the
    connection breaks before the centre has answered, or it took some parts only, nobody knows: the call
    raises, and the service counts a contact.

    `on_delivered(decision_id)` is called when the centre reports that all parts have reached the handset.
    `on_reply(subscriber_id, text)`: what customers write back. Both are called on the gateway's thread,
    must not wait, and may be set at any time; if one raises, the centre is asked to send the same again
    later. Receipts of messages that another process sent are not known.

    Reconnects by itself. Use it in a `with` statement; leaving it unbinds. Never logs a number or a text.
    """

    def __init__(
        self,
        host: str,
        port: int,
        system_id: str,
        password: str,
        *,
        source: str = "",
        on_delivered: Callable[[str], None] | None = None,
        on_reply: Callable[[str, str], None] | None = None,
    ) -> None:
        self.on_delivered = on_delivered
        self.on_reply = on_reply
        self._address = (host, port)
        self._login = (system_id, password)
        self._source = source
        self._queue: deque[_Sending] = deque()
        self._lock = threading.Lock()
        self._bound = threading.Event()
        self._closing = False
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._pending: dict[int, _Sending] = {}
        self._expected: OrderedDict[str, list[str]] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name="opportune-smpp", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._wake()
        self._thread.join()
        self._wake_reader.close()
        self._wake_writer.close()

    def wait_bound(self, timeout: float | None = None) -> bool:
        """Wait until the centre has let us in. False: the time was over."""
        return self._bound.wait(timeout)

    def __call__(self, message: Message) -> Handled:
        """Submits a message and waits for the centre's answer. ConnectionError: nobody knows what became of
        it."""
        sending = _Sending(message, Future(), 0)
        with self._lock:
            if not self._bound.is_set():
                return Failed(_NOT_THERE)
            self._queue.append(sending)
        self._wake()
        return sending.answer.result()

    # -- the gateway's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.5
        while not self._closing:
            try:
                with self._bind() as centre:
                    pause = 0.5
                    self._bound.set()
                    self._converse(centre)
            except Exception as error:  # noqa: BLE001 - whatever a centre sends, the gateway outlives it
                logger.warning("no connection to the SMS centre: %s", type(error).__name__)
            finally:
                self._break_off()
            if not self._closing:
                woken, _, _ = select.select([self._wake_reader], [], [], pause)
                if woken:  # by a message that is answered by now: the next pause is to be a whole one
                    self._wake_reader.recv(4096)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _bind(self) -> Any:
        host, port = self._address
        system_id, password = self._login
        quiet = f"{__name__}.pdus"
        logging.getLogger(quiet).setLevel(logging.ERROR)  # it would log whole messages
        centre = smpp_client.Client(
            host, port, timeout=10, logger_name=quiet, allow_unknown_opt_params=True
        )
        centre.set_message_sent_handler(self._answered)
        centre.set_error_pdu_handler(self._answered)
        centre.set_message_received_handler(self._received)
        read = centre.read_pdu
        centre.read_pdu = lambda: _unless_unbound(centre, read())
        try:
            centre.connect()
            centre.bind_transceiver(system_id=system_id, password=password)
        except BaseException:
            centre.disconnect()
            raise
        return centre

    def _converse(self, centre: Any) -> None:
        heard = time.monotonic()
        while not (self._closing and not self._pending and not self._queue):
            while len(self._pending) < WINDOW and (sending := self._next()) is not None:
                self._submit(centre, sending)
            # The library has no way of its own to wait for the centre and for work.
            readable, _, _ = select.select([centre._socket, self._wake_reader], [], [], _IDLE_SECONDS)
            if self._wake_reader in readable:
                self._wake_reader.recv(4096)
            if centre._socket in readable:
                centre.read_once()
                heard = time.monotonic()
            elif time.monotonic() - heard >= 2 * _IDLE_SECONDS:
                raise exceptions.ConnectionError("the SMS centre does not answer")
            elif not readable:
                centre.send_pdu(_pdu(centre, "enquire_link"))

    def _next(self) -> _Sending | None:
        with self._lock:
            return self._queue.popleft() if self._queue else None

    def _submit(self, centre: Any, sending: _Sending) -> None:
        message = sending.message
        over = expired(message)  # while it waited for the window
        if over is not None:
            sending.answer.set_result(over)
            return
        try:
            parts = parts_of(message.content, message.idempotency_key)
        except ValueError as error:
            sending.answer.set_result(Failed(str(error), retryable=False))
            return
        sending.unanswered = len(parts.data)
        for data in parts.data:
            submission = _pdu(
                centre,
                "submit_sm",
                source_addr_ton=_type_of(self._source),
                source_addr_npi=consts.SMPP_NPI_UNK,
                source_addr=self._source,
                dest_addr_ton=consts.SMPP_TON_INTL,
                dest_addr_npi=consts.SMPP_NPI_ISDN,
                destination_addr=message.subscriber_id,
                esm_class=consts.SMPP_GSMFEAT_UDHI if parts.joined else consts.SMPP_MSGTYPE_DEFAULT,
                registered_delivery=1,
                data_coding=parts.data_coding,
                short_message=data,
            )
            self._pending[submission.sequence] = sending
            centre.send_pdu(submission)

    def _answered(self, pdu: Any) -> None:
        """The centre took a part, or did not."""
        sending = self._pending.pop(pdu.sequence, None)
        if sending is None:
            return  # a refusal of something else; the connection tells if it matters
        if pdu.is_error():
            sending.refused.append(int(pdu.status))
        else:
            sending.ids.append(_text(pdu.message_id))
        sending.unanswered -= 1
        if sending.unanswered:
            return
        if not sending.refused:
            self._expect(sending)
            sending.answer.set_result(Sent(channel_message_id=sending.ids[0]))
        elif sending.ids:
            sending.answer.set_exception(ConnectionError("the SMS centre took some parts only"))
        else:
            why = consts.DESCRIPTIONS.get(sending.refused[0], f"status {sending.refused[0]}")
            later = not _TRY_LATER.isdisjoint(sending.refused)
            sending.answer.set_result(Failed(str(why), retryable=later))

    def _expect(self, sending: _Sending) -> None:
        waiting = list(sending.ids)
        for id_ in sending.ids:
            self._expected[id_] = [sending.message.decision_id, *waiting]
        while len(self._expected) > REMEMBERED:
            self._expected.popitem(last=False)

    def _received(self, pdu: Any) -> int:
        """What comes from the centre; the status to answer with."""
        try:
            self._take(pdu)
        except Exception as error:  # noqa: BLE001 - of whoever is told; the connection must outlive it
            logger.warning("the SMS centre is asked to send again later: %s", type(error).__name__)
            return int(consts.SMPP_ESME_RX_T_APPN)
        return int(consts.SMPP_ESME_ROK)

    def _take(self, pdu: Any) -> None:
        """A delivery receipt, or what a customer wrote."""
        data = pdu.short_message or getattr(pdu, "message_payload", None) or b""
        if data and pdu.esm_class & _HAS_HEADER:
            data = data[1 + data[0] :]
        if not pdu.esm_class & _IS_RECEIPT:
            if self.on_reply is not None and not pdu.esm_class & _IS_PROGRESS:
                self.on_reply(_text(pdu.source_addr), text_of(data, pdu.data_coding))
            return
        found = _RECEIPT.search(data)
        id_ = _text(getattr(pdu, "receipted_message_id", None) or (found["id"] if found else b""))
        said = found is not None and found["state"].upper() == b"DELIVRD"
        if said or getattr(pdu, "message_state", None) == _DELIVERED:
            expected = self._expected.get(id_)
            if expected is not None:
                decision_id, *parts = expected
                # The message has arrived when its last part has.
                missing = [part for part in parts if part != id_ and part in self._expected]
                if not missing and self.on_delivered is not None:
                    self.on_delivered(decision_id)
                del self._expected[id_]

    def _break_off(self) -> None:
        """Whatever waits for an answer gets none on this connection."""
        with self._lock:
            self._bound.clear()  # from here on nothing is queued
            unsaid = list(self._queue)
            self._queue.clear()
        for sending in unsaid:
            sending.answer.set_result(Failed(_NOT_THERE))
        unknown = {id(each): each for each in self._pending.values()}
        self._pending.clear()
        for sending in unknown.values():
            if not sending.answer.done():
                sending.answer.set_exception(
                    ConnectionError("the connection broke before the SMS centre answered")
                )

    def _wake(self) -> None:
        self._wake_writer.send(b"\0")


def _pdu(centre: Any, command: str, **fields: Any) -> Any:
    return smpp.make_pdu(command, client=centre, **fields)


def _unless_unbound(centre: Any, pdu: Any) -> Any:
    """What was read. The library leaves it to its user to end the session when the centre asks for it."""
    if pdu.command == "unbind":
        answer = _pdu(centre, "unbind_resp")
        answer.sequence = pdu.sequence
        centre.send_pdu(answer)
        raise exceptions.ConnectionError("the SMS centre ends the session")
    return pdu


def _type_of(source: str) -> int:
    """Of a sender's number: a name, or digits of which only the centre knows what they are."""
    named = bool(source) and not source.removeprefix("+").isdigit()
    return int(consts.SMPP_TON_ALNUM if named else consts.SMPP_TON_UNK)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
