"""A simulated SMS centre: speaks SMPP 3.4 on a loopback port, keeps what it took, says what it is told."""

from __future__ import annotations

import queue
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from smpplib import consts, exceptions, smpp


@dataclass(frozen=True, slots=True)
class Taken:
    """A short message that the centre took."""

    id: str
    to: str
    data: bytes
    data_coding: int
    esm_class: int
    source_ton: int


class _Numbers:
    """What the library asks of a client: sequence numbers."""

    def __init__(self) -> None:
        self.sequence = 0

    def next_sequence(self) -> int:
        self.sequence += 1
        return self.sequence


class Smsc:
    """One client at a time. `statuses`: what the next submissions are answered with, OK when it is empty;
    None breaks the connection without an answer. `taken` is a queue of what was taken, `answers` of the
    statuses with which the client answered what was sent to it, `bound` of the numbers of its sessions."""

    def __init__(self) -> None:
        self.taken: queue.Queue[Taken] = queue.Queue()
        self.answers: queue.Queue[int] = queue.Queue()
        self.statuses: list[int | None] = []
        self.binds = 0
        self.bound: queue.Queue[int] = queue.Queue()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._client: socket.socket | None = None
        self._numbers = _Numbers()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def deliver(self, **fields: Any) -> None:
        """Send a `deliver_sm`."""
        pdu = smpp.make_pdu("deliver_sm", client=self._numbers, service_type="", **fields)
        self._send(pdu)

    def report(self, id_: str, state: str = "DELIVRD") -> None:
        """A delivery receipt, in the usual words."""
        text = (
            f"id:{id_} sub:001 dlvrd:001 submit date:2611200000 done date:2611200001 stat:{state} err:000"
        )
        self.deliver(
            source_addr="8613800000001", destination_addr="10086", esm_class=4, short_message=text.encode()
        )

    def say(self, data: bytes) -> None:
        """Send these bytes as they are."""
        client = self._client
        if client is None:
            raise ConnectionError("no client is bound")
        with self._lock:
            client.sendall(data)

    def hang_up(self) -> None:
        """Break the connection."""
        client = self._client
        if client is not None:
            client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with suppress(OSError):  # it may have gone already
            self.hang_up()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                self._client = client
                # The client may go at any time, which tests want to see.
                with suppress(OSError, exceptions.PDUError):
                    while self._answer(self._read(client)):
                        pass
                self._client = None

    def _answer(self, pdu: Any) -> bool:
        match pdu.command:
            case "bind_transceiver":
                self.binds += 1
                self.bound.put(self.binds)
                known = pdu.password == b"secret"
                status = consts.SMPP_ESME_ROK if known else consts.SMPP_ESME_RINVPASWD
                self._respond(pdu, "bind_transceiver_resp", status, system_id="smsc")
            case "submit_sm":
                status = self.statuses.pop(0) if self.statuses else consts.SMPP_ESME_ROK
                if status is None:
                    return False
                id_ = f"m{pdu.sequence}-{self.binds}"
                if status == consts.SMPP_ESME_ROK:
                    to = pdu.destination_addr.decode()
                    data = pdu.short_message or b""
                    self.taken.put(
                        Taken(id_, to, data, pdu.data_coding, pdu.esm_class, pdu.source_addr_ton)
                    )
                self._respond(pdu, "submit_sm_resp", status, message_id=id_)
            case "deliver_sm_resp":
                self.answers.put(pdu.status)
            case "enquire_link":
                self._respond(pdu, "enquire_link_resp", consts.SMPP_ESME_ROK)
            case "unbind":
                self._respond(pdu, "unbind_resp", consts.SMPP_ESME_ROK)
                return False
        return True

    def _respond(self, pdu: Any, command: str, status: int, **fields: Any) -> None:
        answer = smpp.make_pdu(command, client=self._numbers, status=status, **fields)
        answer.sequence = pdu.sequence
        answer.status = status
        self._send(answer)

    def _send(self, pdu: Any) -> None:
        self.say(pdu.generate())

    @staticmethod
    def _read(client: socket.socket) -> Any:
        def exactly(count: int) -> bytes:
            data = b""
            while len(data) < count:
                piece = client.recv(count - len(data))
                if not piece:
                    raise ConnectionError("the client has gone")
                data += piece
            return data

        head = exactly(4)
        (length,) = struct.unpack(">L", head)
        return smpp.parse_pdu(head + exactly(length - 4), client=_Numbers(), allow_unknown_opt_params=True)


@contextmanager
def running_smsc() -> Iterator[Smsc]:
    """A centre that is closed again."""
    centre = Smsc()
    try:
        yield centre
    finally:
        centre.close()
