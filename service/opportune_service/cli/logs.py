"""The service's log on standard error: lines for people at a terminal, JSON for everything else."""

from __future__ import annotations

import logging
import sys
from enum import StrEnum
from typing import Any

import structlog

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


def log_to_stderr(form: LogFormat, level: int = logging.INFO) -> None:
    """Send every record of the standard library's logging there. `auto`: plain at a terminal."""
    plain = form is LogFormat.PLAIN or (form is LogFormat.AUTO and sys.stderr.isatty())
    render: list[Any] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if plain
        else [
            structlog.processors.EventRenamer("message"),
            # Without locals: they hold subscriber numbers.
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
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
