"""The service's log on standard error: lines for people at a terminal, JSON for everything else.

Every line of a call has the call's trace, and no line has anybody's number: whoever writes one masks what
may be a number, and what they missed is masked here.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import MutableMapping
from enum import StrEnum
from typing import Any, TextIO

import structlog

from opportune_service.app.calls import current_call
from opportune_service.core.admit import mask

_NUMBER, _LONG_NUMBER = re.compile(r"\d{7,}"), re.compile(r"\d{10,}")
_LEAST_NUMBER = 10**6
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:[0-9a-f]{12}|[0-9a-f]{24}|[0-9a-f]{32}|[0-9a-f]{64})(?![0-9A-Za-z])")
"""Ids of revisions, decisions and traces, in which digits may well stand side by side."""
_OURS = frozenset({"timestamp", "level", "logger", "trace_id", "span_id"})
"""Fields that this module fills itself."""


class LogFormat(StrEnum):
    AUTO = "auto"
    PLAIN = "plain"
    JSON = "json"


def _add_trace(_: Any, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    call = current_call()
    if call is not None:
        fields["trace_id"], fields["span_id"], fields["method"] = call.trace_id, call.span_id, call.method
    return fields


def mask_line(_: Any, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blot out whatever looks like the number of a phone, SIM card or device: the last line of defence.

    That is any seven digits or more in a row, in text or as a number, except in ids: 12, 24, 32 or 64
    hexadecimal digits, unless ten in a row are digits and fewer than a quarter of all are letters.
    """
    for name, value in fields.items():
        if name not in _OURS and name != "exc_info" and not name.startswith("_"):
            fields[name] = _without_numbers(value)
    return fields


def _without_numbers(value: Any) -> Any:
    match value:
        case bool() | None:
            return value
        case int() | float():
            return value if abs(value) < _LEAST_NUMBER else "*****"
        case dict():
            return {_without_numbers(str(name)): _without_numbers(each) for name, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_without_numbers(each) for each in value]
    return _masked_text(str(value))


def _masked_text(text: str) -> str:
    if not _NUMBER.search(text):
        return text
    parts, end = [], 0
    for found in _HEX.finditer(text):
        letters = sum(map(str.isalpha, found[0]))
        if letters >= len(found[0]) // 4 or not _LONG_NUMBER.search(found[0]):
            parts += [_NUMBER.sub("*****", text[end : found.start()]), found[0]]
            end = found.end()
    return "".join([*parts, _NUMBER.sub("*****", text[end:])])


_SHARED: list[Any] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _add_trace,
]

_stacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)


def _masked_traceback(to: TextIO, exc_info: Any) -> None:
    """The text of an exception may quote a subscriber's number: that of a KeyError is the key."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    to.write(mask(text.getvalue()))


def _masked_stacks(exc_info: Any) -> Any:
    return _masked(_stacks(exc_info))


def _masked(value: Any) -> Any:
    match value:
        case str():
            return mask(value)
        case list():
            return [_masked(each) for each in value]
        case dict():
            return {name: _masked(each) for name, each in value.items()}
    return value


def _adding(name: str, value: object) -> Any:
    def add(_: Any, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        fields[name] = value
        return fields

    return add


def log_to_stderr(form: LogFormat, level: int = logging.INFO, worker: int | None = None) -> None:
    """Send every record of the standard library's logging there. `auto`: plain at a terminal. `worker`:
    which of several processes that write there this is; every line tells it."""
    plain = form is LogFormat.PLAIN or (form is LogFormat.AUTO and sys.stderr.isatty())
    render: list[Any] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_masked_traceback)]
        if plain
        else [
            structlog.processors.EventRenamer("message"),
            # Without locals: they hold subscriber numbers.
            structlog.processors.ExceptionRenderer(_masked_stacks),
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED if worker is None else [*_SHARED, _adding("worker", worker)],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, mask_line, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
