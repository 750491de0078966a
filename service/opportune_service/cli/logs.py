"""The service's log on standard error: lines for people at a terminal, JSON for everything else."""

from __future__ import annotations

import io
import logging
import sys
from enum import StrEnum
from typing import Any, TextIO

import structlog

from opportune_service.core.admit import mask

_SHARED: list[Any] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


class LogFormat(StrEnum):
    AUTO = "auto"
    PLAIN = "plain"
    JSON = "json"


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


def log_to_stderr(form: LogFormat, level: int = logging.INFO) -> None:
    """Send every record of the standard library's logging there. `auto`: plain at a terminal."""
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
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
