"""A canary's phone number, IMSI and IMEI go through every field of every call, through what works and what
fails in every way, the service's own faults among it: none of it shows in logs, metrics or errors."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from opportune.v1 import delivery_service_pb2 as deliveries
from opportune_service.adapters.grpc.server import SERVICES
from opportune_service.app.access import new_token
from opportune_service.app.callers import ROLES
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.cli.logs import LogFormat, log_to_stderr
from support.callers import bearer, caller, token_line, write_callers
from support.rulebases import NOON_US
from support.server import Service, in_loop, running_service
from support.small_rulebase import small_rulebase
from support.watching import get, watched_service
from support.wire import batch, event, hello, import_batch, import_header, publish

MSISDN, IMSI, IMEI = "8613912345678", "460001234567890", "354812345678903"
CANARY = (MSISDN, IMSI, IMEI, MSISDN[2:])
METHODS = [method for service in SERVICES.values() for method in service.methods]


class Shown:
    """Everything that the service let out, except answers to who may have them."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        """Of log lines, before the log's own masking: that is the last line of defence, not the first."""
        self.lines = io.StringIO()
        """The log as it is written, with its tracebacks."""
        self.errors: list[str] = []
        """What failed calls were told, details included."""

    def told(self, error: grpc.aio.AioRpcError) -> None:
        self.errors.append(error.details() or "")
        for _, value in error.trailing_metadata() or ():
            self.errors.append(value if isinstance(value, str) else value.decode("latin-1"))

    def canaries(self, canaries: Iterable[str] = CANARY) -> list[str]:
        """Where one shows; digits of it in a row, wherever they begin."""
        everything = [*self.messages, *self.lines.getvalue().splitlines(), *self.errors]
        return [text for text in everything if any(canary in text for canary in canaries)]


class Listening(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("opportune"):
            self._messages.append(f"{record.getMessage()} {record.args}")


@contextmanager
def listening(monkeypatch: pytest.MonkeyPatch, form: LogFormat) -> Iterator[Shown]:
    """Catch what is logged while the block runs, at every level."""
    shown = Shown()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    monkeypatch.setattr("sys.stderr", shown.lines)
    log_to_stderr(form, logging.DEBUG)
    root.addHandler(Listening(shown.messages))
    try:
        yield shown
    finally:
        root.handlers[:] = before
        root.setLevel(level)


# -- calls that are nothing but canary ------------------------------------------------------------


def full_of_canary(descriptor: Descriptor, number: str, only: str = "", depth: int = 0) -> Message:
    """A message with the number in every field, or in the one named `only`."""
    made: Any = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if only and field.name != only:
            continue
        value = _canary_for(field, number, depth)
        if value is None:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
                getattr(made, field.name)[number] = number
        elif field.is_repeated:
            getattr(made, field.name).append(value)
        elif field.message_type is not None:
            getattr(made, field.name).CopyFrom(value)
        else:
            setattr(made, field.name, value)
    return made


def _canary_for(field: FieldDescriptor, number: str, depth: int) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return number
        case FieldDescriptor.TYPE_BYTES:
            return f'{{"size_kb": "{number}", "imsi": "{number}", "{number}": 1}}'.encode()
        case FieldDescriptor.TYPE_INT64 | FieldDescriptor.TYPE_UINT64:
            return int(number)
        case FieldDescriptor.TYPE_ENUM:
            return 1
        case FieldDescriptor.TYPE_MESSAGE if depth < 4:
            if field.message_type.full_name.startswith("google.protobuf."):
                return None
            return full_of_canary(field.message_type, number, depth=depth + 1)
    return None


async def call(
    service: Service,
    shown: Shown,
    method: MethodDescriptor,
    *messages: Message,
    metadata: Any = (),
    seconds: float = 5,
) -> None:
    """One call with these messages; it may fail."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    kind = ("stream" if method.client_streaming else "unary") + (
        "_stream" if method.server_streaming else "_unary"
    )
    multicallable = getattr(service.channel, kind)(path)
    sent = [each.SerializeToString() for each in messages]
    try:
        made = multicallable(
            iter(sent) if method.client_streaming else sent[0], timeout=seconds, metadata=metadata
        )
        if method.server_streaming:
            while await made.read() is not grpc.aio.EOF:
                pass
        else:
            await made
    except grpc.aio.AioRpcError as error:
        shown.told(error)


async def every_field_of_every_call(service: Service, shown: Shown) -> None:
    for method in METHODS:
        seconds = 0.2 if method.name == "WatchRulebase" else 5  # it answers without end
        for number in (MSISDN, IMSI, f"+{MSISDN}", f"{IMEI}, {IMSI}", "x" * 200 + IMEI):
            request = full_of_canary(method.input_type, _digits(number))
            await call(service, shown, method, request, seconds=seconds)
        for field in method.input_type.fields:
            single = full_of_canary(method.input_type, MSISDN, field.name)
            await call(service, shown, method, single)
            if method.client_streaming:
                first = GetMessageClass(method.input_type)()
                first.MergeFrom(full_of_canary(method.input_type, MSISDN, method.input_type.fields[0].name))
                await call(service, shown, method, first, single)


def _digits(number: str) -> str:
    return number if number.isdigit() else MSISDN


async def a_life(service: Service, shown: Shown) -> None:
    """The canary as a customer: what works, what is refused, what comes twice, too late and too early."""
    person = {"age": 30, "imsi": IMSI, IMEI: MSISDN}
    stub = service.subscribers
    await _told(shown, stub.ImportSubscribers(iter([import_header(), import_batch({MSISDN: person})])))
    bad = import_batch({MSISDN: {"age": IMSI}, f"+{MSISDN}": {}, MSISDN + IMSI: {}})
    await _told(shown, stub.ImportSubscribers(iter([import_header(), bad])))
    day_us = 86_400_000_000
    sent = [
        event("e1", MSISDN),
        event("e1", MSISDN),
        event(IMSI, MSISDN),
        event("e2", MSISDN, attributes={"size_kb": IMEI}),
        event("e3", MSISDN, attributes={"size_kb": -int(IMEI), IMSI: IMEI}),
        event("e4", MSISDN, type=IMSI),
        event("e5", f"+{MSISDN}"),
        event("e6", MSISDN, at_us=NOON_US - 400 * day_us),
        event("e7", MSISDN, at_us=NOON_US + 400 * day_us),
        event("e8", MSISDN, type="counter_visit", attributes={"imsi": IMSI}),
    ]
    sent[3].attributes = f"no JSON {MSISDN}".encode()
    await _told(shown, service.events.PublishEvents(publish(*sent)))
    await _told(shown, service.events.PublishEvents(publish(*sent, source=MSISDN)))
    stream = service.events.StreamEvents(iter([hello(IMSI), batch(1, *sent), batch(1, *sent)]))
    await _read(shown, stream)
    said = deliveries.AttachRequest
    attach = service.deliveries.Attach(timeout=5)
    await attach.write(said(hello=deliveries.AttachHello(channel="sms", client_name=MSISDN, credit=3)))
    await attach.read()
    lease = (await attach.read()).lease
    assert lease.subscriber_id == MSISDN
    for ack in (
        deliveries.Ack(delivery_id=IMSI, lease_token=IMSI, result=deliveries.DELIVERY_RESULT_SENT),
        deliveries.Ack(
            delivery_id=lease.delivery_id,
            lease_token=lease.lease_token,
            result=deliveries.DELIVERY_RESULT_SENT,
            detail=f"sent to {MSISDN}",
        ),
    ):
        await attach.write(said(ack=ack))
        await attach.read()
    await attach.write(said(receipt=deliveries.Receipt(decision_id=MSISDN, kind=1, detail=IMSI)))
    await attach.read()
    await attach.done_writing()
    await _read(shown, attach)


async def _told(shown: Shown, answer: Awaitable[object]) -> None:
    try:
        await answer
    except grpc.aio.AioRpcError as error:
        shown.told(error)


async def _read(shown: Shown, stream: Any) -> None:
    try:
        while await stream.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        shown.told(error)


@pytest.mark.parametrize("form", [LogFormat.PLAIN, LogFormat.JSON])
def test_a_canary_shows_nowhere(form: LogFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    @in_loop
    async def body() -> None:
        with listening(monkeypatch, form) as shown:
            async with running_service(files=small_rulebase(threshold=1), reflection=True) as service:
                await a_life(service, shown)
                await every_field_of_every_call(service, shown)
            assert shown.messages, "nothing was logged: the test shows nothing"
            assert len(shown.errors) > 2 * len(METHODS)
            assert shown.canaries() == []

    body()


@pytest.mark.parametrize(
    "fault",
    [
        StoreUnavailableError("the disk is full"),  # its own words never hold a number; its cause may
        RuntimeError(f"{IMEI} of {MSISDN}"),
        KeyError(MSISDN),
    ],
    ids=["store", "fault", "key"],
)
def test_a_canary_in_an_error_of_ours_shows_nowhere(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    @in_loop
    async def body() -> None:
        with listening(monkeypatch, LogFormat.JSON) as shown:
            async with running_service(files=small_rulebase(threshold=1), reflection=True) as service:
                await a_life(service, shown)

                async def broken(*_: object, **__: object) -> None:
                    raise fault from KeyError(f"{MSISDN} has {IMSI}")

                with monkeypatch.context() as patch:
                    patch.setattr(type(service.app.thread), "run", broken)
                    await every_field_of_every_call(service, shown)
            assert len(shown.errors) > 2 * len(METHODS)
            assert shown.canaries() == []

    body()


def test_control_a_canary_that_is_logged_or_told_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(monkeypatch, LogFormat.PLAIN) as shown:
        logging.getLogger("opportune_service").debug("contacted %s", MSISDN)
        assert len(shown.canaries()) == 1, "the log itself masked it, the line before did not"
        monkeypatch.setattr("opportune_service.cli.logs.mask_line", lambda _, __, fields: fields)
        log_to_stderr(LogFormat.PLAIN, logging.DEBUG)
        logging.getLogger("grpc").error("contacted %s", IMSI)
        assert len(shown.canaries()) == 2
    shown.errors.append(f"unknown: {IMEI}")
    assert len(shown.canaries()) == 3


# -- tokens ---------------------------------------------------------------------------------------


def test_a_token_shows_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Good, expired, forged and malformed ones, as they should be sent and in wrong places; where the
    service has a fault of its own; and one that somebody wrote into the file of callers in place of its
    hash."""
    good, expired, forged = new_token(), new_token(), new_token()
    secrets = (good, expired, forged, good[4:], "hunter2hunter2")
    listed = [
        caller("all", *(role for role in ROLES if role != "channel"), tokens=[token_line(good)]),
        caller("late", "viewer", tokens=[token_line(expired, "2026-11-20T03:59:59Z")]),
    ]
    path = write_callers(tmp_path / "callers.yaml", listed)
    headers = [
        *(bearer(token) for token in (good, expired, forged, "hunter2hunter2")),
        (("authorization", good),),
        (("authorization", f"Basic {good}"),),
        (*bearer(good), *bearer(forged)),
        (("authorization-token", good), ("x-api-key", good)),
        (("traceparent", good), *bearer(good)),
    ]

    async def everything(service: Service, shown: Shown) -> None:
        for method in METHODS:
            for metadata in headers:
                empty = GetMessageClass(method.input_type)()
                await call(service, shown, method, empty, metadata=metadata, seconds=0.5)

    @in_loop
    async def body() -> None:
        with listening(monkeypatch, LogFormat.JSON) as shown:
            async with watched_service(callers=path, reflection=True) as (service, monitor):
                await everything(service, shown)

                async def broken(*_: object, **__: object) -> None:
                    raise RuntimeError("a fault")

                with monkeypatch.context() as patch:
                    patch.setattr(type(service.app.thread), "run", broken)
                    await everything(service, shown)
                access = service.app.access
                assert access is not None
                wrong = {"sha256": forged, "expires_at": good}
                write_callers(path, [*listed, caller(good, forged, tokens=[wrong], branches=[good])])
                while not access.refused:  # noqa: ASYNC110 - a helper of the service reads it by itself
                    await asyncio.sleep(0.01)
                _, metrics = await get(monitor, "/metrics")
            assert "the callers stay as they were" in shown.lines.getvalue()
            assert "expired" in " ".join(shown.errors)
            assert any(" fault " in f" {text}" for text in shown.messages)
            assert shown.canaries(secrets) == []
            assert not [secret for secret in secrets if secret in metrics + repr(service.app.settings)]
            assert not [secret for secret in secrets if secret in repr(access.register.callers)]

    body()


def test_control_a_token_that_is_logged_or_told_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    token = new_token()
    with listening(monkeypatch, LogFormat.JSON) as shown:
        logging.getLogger("opportune_service").debug("authorization: Bearer %s", token)
        assert len(shown.canaries((token,))) == 2
    shown.errors.append(f"unknown token {token}")
    assert len(shown.canaries((token,))) == 3
