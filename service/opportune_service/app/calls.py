"""Calls from outside: counted by method, and each under the trace that its caller follows.

A trace is named as W3C Trace Context does it: ``00-TRACE-SPAN-01``, 32 and 16 hexadecimal digits. A call
that comes without one begins a trace of its own, so that its log lines can be found in any case.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from opportune_service.app.figures import Histogram

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(slots=True)
class Call:
    """One call under way. `parent` is the caller's span, "" if it named none. `code`: how it ended, by the
    name of its status; begin and end by the wall clock, in nanoseconds."""

    method: str
    trace_id: str
    span_id: str
    parent: str = ""
    sampled: bool = True
    begun_ns: int = 0
    ended_ns: int = 0
    code: str = "OK"


@dataclass(slots=True)
class MethodFigures:
    """Calls of one method: begun, ended by code, and how long they took in seconds."""

    begun: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    seconds: Histogram = field(default_factory=Histogram)


_current: ContextVar[Call | None] = ContextVar("call", default=None)


def current_call() -> Call | None:
    """The call that the running code works for; None outside of calls."""
    return _current.get()


class Calls:
    """All calls since the start. `figures` by the method's full name: as many as the contract has.
    `on_end` is told of each when it has ended; it must not raise or wait."""

    def __init__(self, on_end: Callable[[Call], None] | None = None) -> None:
        self.figures: dict[str, MethodFigures] = {}
        self._on_end = on_end

    def declare(self, method: str) -> None:
        """The method exists: its figures begin at 0, so that a first call is seen as a rise."""
        self.figures.setdefault(method, MethodFigures(ended=Counter(OK=0)))

    @contextmanager
    def call(self, method: str, traceparent: str = "") -> Iterator[Call]:
        """Within the block everything is done for this call; whoever ends it otherwise than well sets its
        `code`."""
        figures = self.figures[method]
        trace_id, parent, sampled = _caller(traceparent)
        call = Call(
            method, trace_id, secrets.token_hex(8), parent, sampled, time.time_ns() if self._on_end else 0
        )
        figures.begun += 1
        token = _current.set(call)
        begun = time.perf_counter()
        try:
            yield call
        finally:
            seconds = time.perf_counter() - begun
            _current.reset(token)
            figures.ended[call.code] += 1
            figures.seconds.add(seconds)
            if self._on_end is not None:
                call.ended_ns = call.begun_ns + int(seconds * 1e9)
                self._on_end(call)


def _caller(traceparent: str) -> tuple[str, str, bool]:
    """Trace, span and whether the caller keeps it. What is not well-formed begins a trace of its own."""
    found = _TRACEPARENT.fullmatch(traceparent)
    # Of digits alone no random id consists (one span in 2,000 does): it could be somebody's number.
    if found is None or found[1].isdigit():
        return secrets.token_hex(16), "", True
    return found[1], "" if found[2].isdigit() else found[2], bool(int(found[3], 16) & 1)
