"""Calls: how they end is counted, their traces are followed into the log, and no log names anybody."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opportune.v1 import insight_service_pb2 as insight
from opportune_service.app.calls import Call, Calls, current_call
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.cli import logs
from opportune_service.cli.logs import LogFormat, log_to_stderr, mask_line
from support.canaries import CANARIES, IMSI, PHONE, call_everything, live_a_life, named
from support.server import Refusal, in_loop, refusal, running_service
from support.wire import event, hello, publish

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PUBLISH = "opportune.v1.EventService/PublishEvents"
log = logging.getLogger("opportune.test")


@pytest.fixture(params=[LogFormat.JSON, LogFormat.PLAIN])
def lines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the service's log writes, in both of its forms."""
    yield from _logging(request.param, monkeypatch)


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The same, as JSON."""
    yield from _logging(LogFormat.JSON, monkeypatch)


def _logging(form: LogFormat, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    written = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", written)
    log_to_stderr(form, logging.DEBUG)
    yield written
    root.handlers[:] = before
    root.setLevel(level)


def parsed(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


# -- counting -----------------------------------------------------------------------------------------


async def until(what: Callable[[], object]) -> None:
    """A caller that gives up does not wait for the server's end; nothing tells of it but the figures."""
    while not what():  # noqa: ASYNC110
        await asyncio.sleep(0)


@in_loop
async def test_calls_are_counted_by_how_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service() as service:
        figures = service.server.calls.figures[PUBLISH]
        assert figures.ended == {"OK": 0}
        await service.events.PublishEvents(publish(event("1")))
        with pytest.raises(grpc.aio.AioRpcError):
            await service.events.PublishEvents(publish(source=""))
        faults = {"INTERNAL": RuntimeError("ours"), "UNAVAILABLE": StoreUnavailableError("gone")}
        for code, fault in faults.items():

            async def broken(*_: object, fault: Exception = fault, **__: object) -> None:
                raise fault

            monkeypatch.setattr(type(service.app.ingest), "publish", broken)
            with pytest.raises(grpc.aio.AioRpcError):
                await service.events.PublishEvents(publish(event("1")))
            await until(lambda code=code: figures.ended[code] == 1)  # counted once its caller was told

        async def slow(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(type(service.app.ingest), "publish", slow)
        with pytest.raises(grpc.aio.AioRpcError):
            await service.events.PublishEvents(publish(event("1")), timeout=0.05)
        await until(lambda: figures.ended["DEADLINE_EXCEEDED"])
        given_up = service.events.PublishEvents(publish(event("1")))
        await until(lambda: figures.begun == 6)
        given_up.cancel()
        await until(lambda: figures.ended["CANCELLED"])
        assert figures.ended == {
            "OK": 1,
            "INVALID_ARGUMENT": 1,
            "INTERNAL": 1,
            "UNAVAILABLE": 1,
            "DEADLINE_EXCEEDED": 1,
            "CANCELLED": 1,
        }
        assert (figures.begun, sum(figures.seconds.counts)) == (6, 6)


@in_loop
async def test_an_open_stream_is_begun_and_not_ended() -> None:
    async with running_service() as service:
        stream = service.events.StreamEvents()
        await stream.write(hello())
        await stream.read()
        figures = service.server.calls.figures["opportune.v1.EventService/StreamEvents"]
        assert (figures.begun, sum(figures.ended.values())) == (1, 0)
        await stream.done_writing()
        while await stream.read() is not grpc.aio.EOF:
            pass
        await until(lambda: sum(figures.ended.values()))
        assert figures.ended == {"OK": 1}


# -- traces -------------------------------------------------------------------------------------------


def traced(traceparent: str) -> Call:
    calls = Calls()
    calls.declare("m")
    with calls.call("m", traceparent) as call:
        assert current_call() is call
    assert current_call() is None
    return call


WELL_FORMED = st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True)


@given(st.one_of(st.text(), WELL_FORMED))
def test_whatever_a_caller_sends_ids_are_well_formed(traceparent: str) -> None:
    call = traced(traceparent)
    assert re.fullmatch("[0-9a-f]{32}", call.trace_id)
    assert re.fullmatch("[0-9a-f]{16}", call.span_id)
    assert re.fullmatch("([0-9a-f]{16})?", call.parent)
    assert call.parent == "" or call.trace_id in traceparent


def test_the_trace_of_the_caller_is_followed() -> None:
    call = traced(f"00-{TRACE}-{SPAN}-01")
    assert (call.trace_id, call.parent, call.sampled) == (TRACE, SPAN, True)
    assert call.span_id != SPAN
    assert not traced(f"00-{TRACE}-{SPAN}-00").sampled
    assert traced(f"01-{TRACE}-{SPAN}-01-more").trace_id == TRACE  # a later version may add to it


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "nonsense",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{PHONE:0>32}-{SPAN}-01",
    ],
)
def test_what_is_no_trace_begins_one(traceparent: str) -> None:
    first, second = traced(traceparent), traced(traceparent)
    assert first.trace_id not in traceparent
    assert first.trace_id != second.trace_id
    assert first.parent == ""


def call_that_fails(monkeypatch: pytest.MonkeyPatch, *metadata: tuple[str, str]) -> Refusal:
    """How a call is refused that writes a line and then fails."""
    seen: list[Refusal] = []

    @in_loop
    async def body() -> None:
        async with running_service() as service:

            async def broken(*_: object) -> None:
                log.info("looking")
                raise RuntimeError("ours")

            monkeypatch.setattr(type(service.app.insight), "explain_decision", broken)
            request = insight.ExplainDecisionRequest(decision_id="x")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await service.insight.ExplainDecision(request, metadata=metadata)
            seen.append(refusal(caught.value))
            log.info("afterwards")

    body()
    return seen[0]


def test_every_line_of_a_call_has_its_trace(records: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    said = call_that_fails(monkeypatch, ("traceparent", f"00-{TRACE}-{SPAN}-01"))
    first, second = (line for line in parsed(records) if line.get("trace_id") == TRACE)
    assert first["message"] == "looking"
    assert second["message"].startswith(f"fault {said.metadata['fault']} in")
    assert first["method"] == second["method"] == "opportune.v1.InsightService/ExplainDecision"
    assert first["span_id"] == second["span_id"] != SPAN
    [after] = [line for line in parsed(records) if line["message"] == "afterwards"]
    assert "trace_id" not in after
    assert said.metadata["trace_id"] == TRACE


def test_a_call_without_a_trace_gets_one(records: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    said = call_that_fails(monkeypatch)
    [looking] = [line for line in parsed(records) if line["message"] == "looking"]
    assert looking["trace_id"] == said.metadata["trace_id"]


# -- nobody is named ----------------------------------------------------------------------------------


def write_numbers(logger: logging.Logger) -> None:
    """What nobody should write, in every way in which it can be written."""
    for canary in CANARIES:
        logger.info("of %s", canary)
        logger.info("of %d", int(canary))
        logger.warning("glued%sglued and +%s", canary, canary)
        extra = {"subscriber": canary, "many": [canary, {canary: int(canary)}], "number": int(canary)}
        logger.info("with extra", extra=extra | {"other": Exception(canary)})
        try:
            logging.LogRecord.__dict__[canary]
        except KeyError:
            logger.exception("failed for %s", canary)
            logger.info("stack", stack_info=True)


def test_no_line_names_anybody_whoever_wrote_it(lines: io.StringIO) -> None:
    write_numbers(log)
    assert lines.getvalue().count("\n") > 10
    assert named(lines.getvalue()) == []


def test_control_without_the_last_line_of_defence_they_are_named(
    monkeypatch: pytest.MonkeyPatch, lines: io.StringIO
) -> None:
    monkeypatch.setattr(logs, "_masked_text", lambda text: text)
    write_numbers(log)
    assert named(lines.getvalue()) == list(CANARIES)


class Broken:
    """A ledger whose every call fails with somebody's numbers in the error."""

    def __getattr__(self, _: str) -> Any:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError(f"of {PHONE} and {IMSI}")

        return fail


def test_calls_with_numbers_everywhere_leave_none_in_the_log(records: io.StringIO) -> None:
    @in_loop
    async def body() -> None:
        async with running_service() as service:
            await live_a_life(service)
            await call_everything(service)
            service.app.insight._ledger = Broken()  # type: ignore[assignment]
            await call_everything(service)

    body()
    assert "RuntimeError" in records.getvalue()
    assert named(records.getvalue()) == []


ID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    "kept",
    [
        "revision ef2414b74ff8 is active",
        f"revision {ID} is active",
        "decision 3f6c0d1be2a94c7788a0b1c2",
        "serving on port 50051",
        "took 123456 us",
        "revision 12345678a901 is active",
    ],
)
def test_what_is_no_number_stays(kept: str) -> None:
    assert mask_line(None, "", {"event": kept})["event"] == kept


def test_fields_of_the_log_itself_stay() -> None:
    fields = {
        "timestamp": "2026-11-22T12:00:00.123456789Z",
        "trace_id": TRACE,
        "span_id": "1234567890123456",
    }
    assert mask_line(None, "", dict(fields)) == fields


HEXADECIMAL = re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{12,64}(?![0-9A-Za-z])")


@given(
    st.integers(10**6, 10**17),
    st.text("0123456789abcdefghij -+:/", max_size=12),
    st.text("ghij -+:/.", max_size=3),
)
def test_a_number_is_found_wherever_it_stands(number: int, before: str, after: str) -> None:
    text = f"{before}{number}{after}"
    masked = mask_line(None, "", {"event": text})["event"]
    assert str(number) not in masked or any(re.search("[a-f]", each) for each in HEXADECIMAL.findall(text))
